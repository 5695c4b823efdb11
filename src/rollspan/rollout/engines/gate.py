"""Holds generations back while an engine is paused, by its user or for a weight update."""

from __future__ import annotations

import asyncio
import time


class Gate:
    """Open unless somebody holds it. Belongs to one event loop at a time."""

    def __init__(self) -> None:
        self.closings = 0
        """How often it was closed: whoever finds more than before has been cut off."""
        self._holders: set[str] = set()
        self._opened = asyncio.Event()

    def held_by(self, holder: str) -> bool:
        """Whether this one holds it."""
        return holder in self._holders

    @property
    def is_open(self) -> bool:
        """Whether nobody holds it."""
        return not self._holders

    def move(self) -> None:
        """To another event loop."""
        self._opened = asyncio.Event()

    def hold(self, holder: str) -> None:
        """Close it, for this holder."""
        if not self._holders:
            self._opened = asyncio.Event()
        self._holders.add(holder)
        self.closings += 1

    def release(self, holder: str) -> None:
        """It opens when nobody holds it any more."""
        self._holders.discard(holder)
        if not self._holders:
            self._opened.set()

    async def passed(self) -> float:
        """Wait until it is open; gives the seconds that took, 0 where it was."""
        begun = time.perf_counter()
        waited = False
        while self._holders:
            waited = True
            await self._opened.wait()
        return time.perf_counter() - begun if waited else 0.0

"""Waiting for what has no event of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any


async def until(holds: Callable[[], Any]) -> Any:
    """Wait for something to be so; what it gave then."""
    for _ in range(6000):
        if value := holds():
            return value
        await asyncio.sleep(0.01)
    raise AssertionError("it never came to be")

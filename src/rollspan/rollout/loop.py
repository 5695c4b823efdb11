"""An event loop in a thread of its own."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import importlib
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

from .errors import RolloutError

_T = TypeVar("_T")

_GRACE_S: Final = 1.0
"""For what is still under way when the loop ends."""


class LoopThread:
    """Begins with the object, ends with `stop`; a daemon, so that it never keeps a program from exiting."""

    def __init__(self, name: str) -> None:
        self._loop = _new_event_loop()
        # Empty: what is current where somebody submits is not so in the rollouts, which outlive it.
        self._context = contextvars.Context()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        loop = self._loop
        try:
            loop.run_forever()
        finally:
            tasks = asyncio.all_tasks(loop)
            for task in tasks:
                task.cancel()
            if tasks:
                loop.run_until_complete(asyncio.wait(tasks, timeout=_GRACE_S))
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()

    def soon(self, function: Callable[..., object], *arguments: Any) -> None:
        """Have the loop call it, in an empty context. Nothing where the loop has ended."""
        if not self._loop.is_closed():
            try:
                self._loop.call_soon_threadsafe(function, *arguments, context=self._context)
            except RuntimeError:  # closed meanwhile
                return

    def run(self, coroutine: Coroutine[Any, Any, _T], timeout: float | None = None) -> _T:
        """Run it on the loop and wait for what it gives. Raises what it raises, and TimeoutError."""
        if self.is_current():
            coroutine.close()
            raise RolloutError("this would wait for itself: inside of the executor's event loop, await it")
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result(timeout)
        except BaseException as error:
            # Python 3.10 has a class of its own for this.
            in_vain = isinstance(error, concurrent.futures.TimeoutError) and not future.done()
            future.cancel()
            if in_vain:
                raise TimeoutError(f"the event loop had no answer after {timeout} s") from None
            raise

    def is_current(self) -> bool:
        """Whether the caller runs in the loop's thread."""
        return threading.get_ident() == self._thread.ident

    def stop(self, timeout: float) -> bool:
        """Cancel what is under way, and end the loop; whether it ended in `timeout` seconds."""
        self.soon(self._loop.stop)
        self._thread.join(timeout)
        return not self._thread.is_alive()


def _new_event_loop() -> asyncio.AbstractEventLoop:
    try:
        uvloop = importlib.import_module("uvloop")
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop

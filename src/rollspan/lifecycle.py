"""The turns in a process's life at which rollspan has something to do: its forks and its end."""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing.util
import os
import threading
from collections.abc import Callable

from . import health

with contextlib.suppress(RuntimeError):  # it cannot be loaded when the process is ending already
    import concurrent.futures.thread  # noqa: F401 - its hook forbids new work; those registered later run before it


class _Child:
    """What multiprocessing calls its after-fork hook with; the hook must not keep anything else alive."""


_child = _Child()
_at_exit: Callable[[], object] | None = None


def register(
    *, before_exit: Callable[[], object], at_exit: Callable[[], object], after_fork: Callable[[], object]
) -> None:
    """Call these at the turns they are named for; the first call counts, for this process and its forks.

    Children of multiprocessing run no atexit handlers but finalizers, and clear those that a fork inherits.
    """
    global _at_exit  # noqa: PLW0603
    if _at_exit is not None:
        return
    _at_exit = _guarded("exit", at_exit)
    os.register_at_fork(after_in_child=_guarded("fork", after_fork))
    atexit.register(_at_exit)
    with contextlib.suppress(
        AttributeError, RuntimeError
    ):  # not public; without it very short programs deliver later
        threading._register_atexit(_guarded("exit", before_exit))  # type: ignore[attr-defined]  # noqa: SLF001
    multiprocessing.util.register_after_fork(_child, _finalize_in_child)
    if multiprocessing.parent_process() is not None:
        _finalize_in_child(_child)


def _finalize_in_child(_: object) -> None:
    if _at_exit is not None:
        multiprocessing.util.Finalize(None, _at_exit, exitpriority=10)


def _guarded(where: str, call: Callable[[], object]) -> Callable[[], None]:
    def guarded() -> None:
        try:
            call()
        except Exception:  # noqa: BLE001
            health.internal_error(where)

    return guarded

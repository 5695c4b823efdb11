"""What went wrong inside rollspan itself: counted, logged once, never raised into the user's program."""

from __future__ import annotations

import functools
import logging
import signal
import sys
import threading
import weakref
from collections import Counter, deque
from types import CodeType
from typing import Any

logger = logging.getLogger("rollspan")

raise_internal_errors = False
"""True under our own tests: an internal error is raised instead of being logged."""

_lock = threading.RLock()
_counters: Counter[str] = Counter()
_said: set[str] = set()
_unsaid: deque[tuple[int, str, tuple[object, ...], Any]] = deque()
_quiet_under: weakref.WeakSet[threading.RLock] = weakref.WeakSet()


def count(name: str, n: int = 1) -> None:
    """Add `n` to one of the plugin's own counters (for example `lost.otlp.traces.journal_full`)."""
    with _lock:
        _counters[name] += n


def counters() -> dict[str, int]:
    """A copy of the plugin's own counters."""
    with _lock:
        return dict(_counters)


def _first_time(key: str) -> bool:
    with _lock:
        if key in _said:
            return False
        _said.add(key)
        return True


def warn_once(key: str, message: str, *args: object) -> None:
    """Count wrong use or a loss under `key`, and log it the first time."""
    count(key)
    if _first_time(key):
        _log(logging.WARNING, message, *args)


def quiet_under(lock: threading.RLock) -> None:
    """Log nothing in a thread that holds `lock`: a log handler may do anything, and record sessions of its own."""
    _quiet_under.add(lock)


def _log(level: int, message: str, *args: object, exc_info: Any = None) -> None:
    _unsaid.append((level, message, args, exc_info))
    say()


def say() -> None:
    """Log what could not be logged yet."""
    if _unsaid and not any(lock._is_owned() for lock in tuple(_quiet_under)):  # type: ignore[attr-defined]  # noqa: SLF001
        while _unsaid:
            level, message, args, exc_info = _unsaid.popleft()
            logger.log(level, message, *args, exc_info=exc_info)


def by_a_signal_handler(error: BaseException | None) -> bool:
    """Whether it comes from a handler of the program's, which interrupted us: a time limit, which has to arrive."""
    codes = {_code(signal.getsignal(number)) for number in signal.valid_signals()} - {None}
    traceback = error.__traceback__ if error is not None and codes else None
    while traceback is not None:
        if traceback.tb_frame.f_code in codes:
            return True
        traceback = traceback.tb_next
    return False


def _code(handler: Any) -> CodeType | None:
    while isinstance(handler, functools.partial):
        handler = handler.func
    return getattr(handler, "__code__", None) or getattr(type(handler).__call__, "__code__", None)


def internal_error(where: str) -> None:
    """To be called in an `except` block that guards user code from an error of ours.

    Raises: the current exception again where a signal handler of the program's raised it, and while
    `raise_internal_errors` is set.
    """
    if by_a_signal_handler(sys.exc_info()[1]):
        count("interrupted")
        raise  # noqa: PLE0704 - called from an except block
    count("internal_errors")
    if raise_internal_errors:
        raise  # noqa: PLE0704 - called from an except block
    if _first_time(f"internal_error.{where}"):
        message = "rollspan: internal error in %s; the program goes on, this is logged once"
        _log(logging.ERROR, message, where, exc_info=sys.exc_info())


def after_fork() -> None:
    """In a forked child: count from 0, under a lock that no thread of the parent holds."""
    global _lock  # noqa: PLW0603
    _lock = threading.RLock()
    _counters.clear()
    _unsaid.clear()


def reset() -> None:
    """Forget counters and what was already said (tests)."""
    after_fork()
    _said.clear()

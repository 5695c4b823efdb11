"""What went wrong inside rollspan itself: counted, logged once, never raised into the user's program."""

from __future__ import annotations

import contextlib
import functools
import logging
import signal
import sys
import threading
from collections import Counter, deque
from collections.abc import Callable
from types import CodeType
from typing import Any

logger = logging.getLogger("rollspan")

raise_internal_errors = False
"""True under our own tests: an internal error is raised instead of being logged."""

_lock = threading.RLock()
_counters: Counter[str] = Counter()
_lost: dict[tuple[str, str], str] = {}  # exporter and why -> what was said of it last
_told: Counter[str] = Counter()
_said: set[str] = set()
_unsaid: deque[tuple[str, tuple[object, ...], BaseException | None]] = deque()
_must_wait: Callable[[], bool] = bool


def count(name: str, n: int = 1) -> None:
    """Add `n` to one of the plugin's own counters (for example `lost.otlp.traces.journal_full`)."""
    with _lock:
        _counters[name] += n


def counters() -> dict[str, int]:
    """A copy of the plugin's own counters."""
    with _lock:
        return dict(_counters)


def lost(exporter: str, n: int, why: str, reason: str) -> None:
    """Count `n` items that an exporter will never bring; `tell_losses` says their sum."""
    with _lock:
        _lost[exporter, why] = reason
    count(f"lost.{exporter}.{why}", n)


def unit(exporter: str, why: str) -> str:
    """What is counted there."""
    kind = exporter.rpartition(".")[2]
    return {"metrics": "exports", "traces": "spans" if why == "rejected" else "traces"}.get(kind, "records")


def tell_losses() -> None:
    """Log in one line what was lost since this was called before; nothing where nothing was."""
    parts = []
    with _lock:
        for (exporter, why), reason in _lost.items():
            name = f"lost.{exporter}.{why}"
            n = _counters[name] - _told[name]
            _told[name] += n
            if n:
                parts.append(f"{n} {unit(exporter, why)} by {exporter} ({why}: {reason})")
    if parts:
        _say("rollspan: lost in all: %s; `rollspan doctor` tries the endpoints", ("; ".join(parts),))


def _first_time(key: str) -> bool:
    with _lock:
        if key in _said:
            return False
        _said.add(key)
        return True


def wait_for(lock: Any) -> None:
    """Say nothing while a thread holds this lock: a logging handler of the program's may use rollspan, and want it."""
    global _must_wait  # noqa: PLW0603
    _must_wait = getattr(lock, "_is_owned", bool)


def _say(message: str, args: tuple[object, ...], error: BaseException | None = None) -> None:
    _unsaid.append((message, args, error))
    if not _must_wait():
        speak()


def speak() -> None:
    """Log what had to wait. The caller holds no lock."""
    while _unsaid:
        with contextlib.suppress(IndexError):  # another thread was quicker
            message, args, error = _unsaid.popleft()
            logger.log(logging.ERROR if error else logging.WARNING, message, *args, exc_info=error)


def warn_once(key: str, message: str, *args: object) -> None:
    """Count wrong use or a loss under `key`, and log it the first time."""
    count(key)
    if _first_time(key):
        _say(message, args)


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
        _say(message, (where,), sys.exc_info()[1])


def after_fork() -> None:
    """In a forked child: count from 0, under a lock that no thread of the parent holds."""
    global _lock  # noqa: PLW0603
    _lock = threading.RLock()
    for each in (_counters, _told, _lost, _unsaid):
        each.clear()


def reset() -> None:
    """Forget counters and what was already said (tests)."""
    after_fork()
    _said.clear()

"""What went wrong inside rollspan itself: counted, logged once, never raised into the user's program."""

from __future__ import annotations

import logging
import threading
from collections import Counter

logger = logging.getLogger("rollspan")

raise_internal_errors = False
"""True under our own tests: an internal error is raised instead of being logged."""

_lock = threading.RLock()
_counters: Counter[str] = Counter()
_said: set[str] = set()


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
        logger.warning(message, *args)


def internal_error(where: str) -> None:
    """To be called in an `except` block that guards user code from an error of ours.

    Raises: the current exception again while `raise_internal_errors` is set.
    """
    count("internal_errors")
    if raise_internal_errors:
        raise  # noqa: PLE0704 - called from an except block
    if _first_time(f"internal_error.{where}"):
        logger.exception("rollspan: internal error in %s; the program goes on, this is logged once", where)


def after_fork() -> None:
    """In a forked child: count from 0, under a lock that no thread of the parent holds."""
    global _lock  # noqa: PLW0603
    _lock = threading.RLock()
    _counters.clear()


def reset() -> None:
    """Forget counters and what was already said (tests)."""
    after_fork()
    _said.clear()

"""The step of a trainer that says its number with its scopes, and not in a block."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from rollspan.api import step
from rollspan.scope import late_context

if TYPE_CHECKING:
    from rollspan.steps import Step

_lock = threading.RLock()
_open: Any = None


def at(number: int) -> Step:
    """The trainer is in this step now, which may be a new one."""
    global _open  # noqa: PLW0603 - a process has one trainer
    with _lock:
        if current() is None or _open.number != number:
            over()
            _open = step(number)._start()  # noqa: SLF001 - no block holds it
        return _open  # type: ignore[no-any-return]


def current() -> Step | None:
    """The step, or None."""
    here = _open
    return here if here is not None and not here.ended and not here.abandoned else None


def over() -> None:
    """The trainer has done with it."""
    global _open
    with _lock:
        here, _open = _open, None
        if here is not None:
            here.finish()
            late_context().stand_alone(here)

"""The public surface of `areal.utils.perf_tracer` as AReaL's pull request 539 had it, on rollspan."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rollspan import perf
from rollspan.perf import Category
from rollspan.perf.categories import CategoryLike

from . import surface
from .events import SessionTraceEvent539 as SessionTraceEvent
from .events import tell
from .session_tracer import SessionTracer539 as SessionTracer
from .sessions import found
from .surface import (
    __getattr__,  # noqa: F401 - the module's own
    get_session_id,
    get_session_tracer,
    get_tracer,
    instant,
    is_configured,
    reset,
    save,
    set_session_id,
    trace_perf,
)
from .tracer import PerfTracer539 as PerfTracer
from .tracked import TracedPhase

__all__ = [
    "GLOBAL_TRACER",  # noqa: F822 - by __getattr__
    "Category",
    "CategoryLike",
    "PerfTraceCategory",
    "PerfTracer",
    "SessionTraceEvent",
    "SessionTracer",
    "atrace_scope",
    "atrace_session_phase",
    "configure",
    "get_session_id",
    "get_session_tracer",
    "get_tracer",
    "instant",
    "is_configured",
    "register_submission",
    "reset",
    "save",
    "set_session_id",
    "trace_perf",
    "trace_scope",
    "trace_session",
    "trace_session_event",
    "trace_session_phase",
]

PerfTraceCategory = Category


def configure(config: Any, *, rank: int) -> PerfTracer:
    """Make the tracer; rollspan is turned on, where nobody has decided otherwise. Raises RuntimeError the second time."""
    return surface.set_up(lambda: PerfTracer(config, rank=rank))  # type: ignore[no-any-return]


def trace_scope(name: str, *, category: CategoryLike = None, args: dict[str, Any] | None = None) -> Any:
    """A timed scope, `with` or `async with`; without a tracer rollspan's own, which is nothing where that is off."""
    return (surface.current() or perf).trace_scope(name, category=category, args=args)


atrace_scope = trace_scope


def register_submission() -> int | None:
    """The number of a session that begins to wait now; None where no sessions are traced."""
    tracer = get_session_tracer()
    return None if tracer is None else tracer.register_submission()


def trace_session_event(session_id: int | None, method: str, **payload: Any) -> None:
    """Tell a session of an event: `mark_enqueued`, `mark_execution_end` with a status, and so on."""
    if session_id is not None:
        tell(found.get(session_id), method, payload)


def trace_session_phase(
    session_id: int | None,
    phase: str,
    *,
    start_payload: dict[str, Any] | None = None,
    end_payload: dict[str, Any] | None = None,
) -> Any:
    """A phase of a session: `with` or `async with`."""
    return TracedPhase(found.get(session_id), phase, start_payload, end_payload)


atrace_session_phase = trace_session_phase


def trace_session(phase: str) -> Callable[[Callable[..., Any]], Any]:
    """A decorator: each call of the function is a phase of the session that is current."""
    return lambda func: surface.traced_by(lambda: trace_session_phase(get_session_id(), phase), func)

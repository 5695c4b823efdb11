"""The public surface of `areal.utils.perf_tracer` (AReaL 1.0.4), on rollspan."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rollspan import health, perf
from rollspan.perf import Category
from rollspan.perf.categories import CategoryLike

from . import surface
from .events import SessionTraceEvent, tell
from .session_tracer import SessionTracer
from .sessions import found
from .surface import (
    __getattr__,  # noqa: F401 - the module's own
    get_session_id,
    get_session_tracer,
    get_task_id,
    get_tracer,
    instant,
    is_configured,
    reset,
    save,
    set_session_id,
    set_task_id,
    trace_perf,
)
from .tracer import PerfTracer
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
    "get_task_id",
    "get_tracer",
    "instant",
    "is_configured",
    "register_session",
    "register_task",
    "reset",
    "save",
    "session_context",
    "set_session_id",
    "set_task_id",
    "trace_perf",
    "trace_scope",
    "trace_session",
    "trace_session_event",
    "trace_session_phase",
]

PerfTraceCategory = Category


def configure(config: Any, *, rank: int, role: str | None = None) -> PerfTracer:
    """Make the tracer; rollspan is turned on, where nobody has decided otherwise. Raises RuntimeError the second time."""
    return surface.set_up(lambda: PerfTracer(config, rank=rank, role=role))  # type: ignore[no-any-return]


def trace_scope(
    name: str,
    *,
    category: CategoryLike = None,
    enable_profiler: bool = False,
    profiler_args: dict[str, Any] | None = None,
    args: dict[str, Any] | None = None,
) -> Any:
    """A timed scope, `with` or `async with`; without a tracer rollspan's own, which is nothing where that is off."""
    tracer = surface.current()
    if tracer is None:
        return perf.trace_scope(name, category=category, args=args)
    return tracer.trace_scope(
        name, category=category, enable_profiler=enable_profiler, profiler_args=profiler_args, args=args
    )


atrace_scope = trace_scope


# Sessions.


def register_task(task_id: int) -> None:
    """A task is known, and has no session yet."""
    tracer = get_session_tracer()
    if tracer is not None:
        tracer.register_task(task_id)


def register_session(task_id: int) -> int | None:
    """The number of a session of this task; None where no sessions are traced."""
    tracer = get_session_tracer()
    return None if tracer is None else tracer.register_session(task_id)


def trace_session_event(
    method: str, session_id: int | None = None, task_id: int | None = None, **payload: Any
) -> None:
    """Tell a session, or all of a task, or the one that is current, of an event: `mark_generate_start` and so on."""
    try:
        if session_id is not None:
            told = [found.get(session_id)]
        elif task_id is not None:
            tracer = get_session_tracer()
            told = [] if tracer is None else [found.get(n) for n in tracer.get_session_ids(task_id)]
        else:
            told = [found.here()]
    except Exception:  # noqa: BLE001
        health.internal_error("compat.areal.event")
        return
    for tracked in told:
        tell(tracked, method, payload)


def trace_session_phase(
    phase: str,
    *,
    start_payload: dict[str, Any] | None = None,
    end_payload: dict[str, Any] | None = None,
) -> Any:
    """A phase of the session that is current: `with` or `async with`."""
    return TracedPhase(found.here(), phase, start_payload, end_payload)


atrace_session_phase = trace_session_phase


def trace_session(phase: str) -> Callable[[Callable[..., Any]], Any]:
    """A decorator: each call of the function is a phase of the session that is current."""
    return lambda func: surface.traced_by(lambda: trace_session_phase(phase), func)


def session_context() -> Callable[[Callable[..., Any]], Any]:
    """A decorator: each call of the function is a session of the task that is current, and runs in it."""

    def enter() -> Any:
        task = get_task_id()
        number = None if task is None else register_session(task)
        set_session_id(number)
        return found.running(number)

    return lambda func: surface.traced_by(enter, func)

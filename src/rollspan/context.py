"""Which phase is current: kept in the OpenTelemetry context, so that it goes where that context goes.

Our key holds the innermost phase beside OpenTelemetry's own current span: a span of somebody else's in
between (an HTTP client's) changes the latter and leaves ours.
"""

from __future__ import annotations

import gc
import sys
from collections import OrderedDict
from contextvars import ContextVar
from typing import Any

from opentelemetry import context as otel_context
from opentelemetry import trace as otel_trace
from opentelemetry.context import Context

from . import native
from .lines import END
from .span import RolloutSpan

PHASE_KEY = "rollspan-phase"
_STEP_KEY = "rollspan-step"


# Where the API still keeps its context in a variable of this name, that is asked directly: every phase does so often.
_variable = getattr(getattr(otel_context, "_RUNTIME_CONTEXT", None), "_current_context", None)
get_current, set_current, reset = (
    (_variable.get, _variable.set, _variable.reset)
    if isinstance(_variable, ContextVar)
    else (otel_context.get_current, otel_context.attach, otel_context.detach)
)

SPAN_KEY = next(iter(otel_trace.set_span_in_context(otel_trace.INVALID_SPAN, Context())))


otel_trace.Span.register(RolloutSpan)


def attach(span: RolloutSpan) -> Any:
    """Make `span` current in this thread or task; returns what `detach` wants."""
    return set_current(Context({**get_current(), SPAN_KEY: span, PHASE_KEY: span}))


def attach_step(span: RolloutSpan) -> Any:
    """Make a trainer's step current: its own spans hang below it, sessions only link to it."""
    here = get_current()
    inside = {**here, SPAN_KEY: span, _STEP_KEY: span}
    around = current()
    if around is None or not hasattr(
        around.owner, "session_id"
    ):  # a session goes on in a step that begins inside of it
        inside[PHASE_KEY] = span
    return set_current(Context(inside))


def fall_back_to(span: RolloutSpan) -> None:
    """Have phases that begin here, where nothing is current, be those of a step that is in no block.

    It stays so until `stand_alone`, or the step is over: ended spans are skipped. For OpenTelemetry nothing is current.
    """
    set_current(Context({**get_current(), PHASE_KEY: span}))


def stand_alone(span: RolloutSpan) -> None:
    """Take `fall_back_to` back, where this is the context in which it was said."""
    if falls_back_to(span):
        set_current(Context({key: value for key, value in get_current().items() if key != PHASE_KEY}))


def falls_back_to(span: RolloutSpan) -> bool:
    """Whether that was said here, and nothing is current in between."""
    return get_current().get(PHASE_KEY) is span


def detach(token: Any) -> None:
    """Undo an `attach`. In another context than it was made in there is nothing of ours to undo."""
    try:  # noqa: SIM105 - on every session's way
        reset(token)
    except (ValueError, RuntimeError):  # left in another context (an abandoned generator), or left twice
        pass


# What the garbage collector did last comes last. Called by it, and in C: no signal handler runs in there, whose exception
# would be lost.
_collector = OrderedDict(start=None, stop=None)
gc.callbacks.append(_collector.move_to_end)  # type: ignore[arg-type]


def in_a_finalizer() -> bool:
    """Whether this runs because garbage is collected here: in the middle of code that knows nothing of it.

    That code's context is then left alone. Before Python 3.12 it may just be changing it itself, and a change by
    a finalizer crashes the interpreter.
    """
    return next(reversed(_collector)) == "start"


def current() -> RolloutSpan | None:
    """The innermost span of ours that is open in the current context; ended ones are skipped."""
    span: RolloutSpan | None = get_current().get(PHASE_KEY)  # type: ignore[assignment]
    while span is not None and (span.row[END] is not None or span.owner.runtime.abandoned):
        span = span.parent
    return span


def current_step() -> RolloutSpan | None:
    """The step that is open in the current context."""
    span: RolloutSpan | None = get_current().get(_STEP_KEY)  # type: ignore[assignment]
    return span if span is not None and not span.ended and not span.owner.runtime.abandoned else None


if isinstance(_variable, ContextVar):
    native.works_with(context=Context, variable=_variable, span_key=SPAN_KEY, phase_key=PHASE_KEY)
    native.stands_for("current", sys.modules[__name__], "current")

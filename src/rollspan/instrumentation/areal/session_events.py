"""What AReaL's own session tracer is told: phases and counters of the session that is current.

Generations and rewards are known from where they happen. A phase of that name is taken only where nothing of the kind
happens in it, since a workflow may have an engine of its own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from types import ModuleType
from typing import Any, Final

import rollspan
from rollspan import clock, context, health, semconv
from rollspan.attributes import fit_name
from rollspan.instrumentation.patches import Patches
from rollspan.span import RolloutSpan

from .timed import Both

KNOWN_ELSEWHERE: Final = frozenset({semconv.GENERATE, semconv.REWARD})
_told: ContextVar[bool] = ContextVar("rollspan-areal-told", default=False)
"""True where a phase's own events are none to follow."""


class IfNothingElse:
    """A phase that is made when it is over, unless one of its name began inside."""

    __slots__ = ("_above", "_name", "_start", "_token", "found")

    def __init__(self, above: RolloutSpan, name: str) -> None:
        self._above = above
        self._name = name
        self.found = False

    def __enter__(self) -> IfNothingElse:
        self._start = clock.monotonic_ns() + self._above.owner.offset
        self._token = _waiting.set(self)
        return self

    def __exit__(self, kind: object, exc: BaseException | None, traceback: object) -> None:
        try:  # noqa: SIM105 - on the way of every session
            _waiting.reset(self._token)
        except ValueError:  # left in another context
            pass
        if self.found:
            made(self._name)
            return
        try:
            self._above.owner.add_span(self._name, self._above, self._start, exc)  # type: ignore[attr-defined]
        except Exception:  # noqa: BLE001
            health.internal_error("areal.phase")

    async def __aenter__(self) -> IfNothingElse:
        return self.__enter__()

    async def __aexit__(self, kind: object, exc: BaseException | None, traceback: object) -> None:
        self.__exit__(kind, exc, traceback)

    def meets(self, name: str) -> None:
        """A phase of that name began inside."""
        self.found = self.found or name == self._name


_waiting: ContextVar[IfNothingElse | None] = ContextVar("rollspan-areal-waiting", default=None)
"""The innermost one."""


def made(name: str) -> None:
    """A phase of that name has begun where it happens."""
    inside = _waiting.get()
    if inside is not None:
        inside.meets(name)


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    token = _told.set(True)
    try:
        yield
    finally:
        _told.reset(token)


class _Quiet:
    """A phase of AReaL's, whose events are known already."""

    __slots__ = ("_inside",)

    def __init__(self, inside: Any) -> None:
        self._inside = inside

    def __enter__(self) -> Any:
        with _quietly():
            return self._inside.__enter__()

    def __exit__(self, *left_by: Any) -> Any:
        with _quietly():
            return self._inside.__exit__(*left_by)

    async def __aenter__(self) -> Any:
        with _quietly():
            return await self._inside.__aenter__()

    async def __aexit__(self, *left_by: Any) -> Any:
        with _quietly():
            return await self._inside.__aexit__(*left_by)


def _current() -> RolloutSpan | None:
    """The innermost open span of a session of this process."""
    span = context.current()
    return span if span is not None and hasattr(span.owner, "count") else None


class _Marks:
    """Phases that are begun and ended by events, the last one begun first."""

    def __init__(self) -> None:
        self._open: ContextVar[tuple[RolloutSpan, ...]] = ContextVar("rollspan-areal-marks", default=())

    def begin(self, above: RolloutSpan, name: str) -> None:
        span = above.owner.start_phase(name, {}, above)
        if span is not None:
            self._open.set((*self._open.get(), span))

    def end(self, name: str) -> None:
        spans = self._open.get()
        for span in reversed(spans):
            if span.name == name:
                span.end()
                self._open.set(tuple(other for other in spans if other is not span))
                return


_marks = _Marks()


def _event(method: str, payload: dict[str, Any]) -> None:
    """Follow one event of the session that is current."""
    above = _current()
    if above is None:
        return
    if method == "increment_counter":
        if payload.get("name"):
            above.owner.count(payload["name"], payload.get("value", 1))  # type: ignore[attr-defined]
        return
    name = method.removeprefix("mark_").removesuffix("_start").removesuffix("_end")
    if name in KNOWN_ELSEWHERE:
        return
    if method.endswith("_start"):
        _marks.begin(above, fit_name(name))
    elif method.endswith("_end"):
        _marks.end(fit_name(name))


def wrap(patches: Patches, tracer: ModuleType) -> None:
    """Follow the session functions of `areal.utils.perf_tracer`, whether AReaL's own tracer is on or not."""
    nothing = tracer._NullContext  # noqa: SLF001 - what its phases are while its tracer is off

    def phase(inside: Callable[..., Any]) -> Callable[..., Any]:
        def trace_session_phase(phase: str, **kwargs: Any) -> Any:
            theirs = inside(phase, **kwargs)
            try:
                above = _current()
                if above is None or not patches.active:
                    return theirs
                name = fit_name(phase)
                ours = IfNothingElse(above, name) if name in KNOWN_ELSEWHERE else rollspan.phase(name)
                return ours if type(theirs) is nothing else Both(ours, _Quiet(theirs))
            except Exception:  # noqa: BLE001
                health.internal_error("areal.phase")
                return theirs

        return trace_session_phase

    def event(inside: Callable[..., Any]) -> Callable[..., Any]:
        def trace_session_event(method: str, *args: Any, **kwargs: Any) -> Any:
            if method != "mark_finalized" and patches.active and not _told.get():
                try:
                    _event(method, kwargs)
                except Exception:  # noqa: BLE001
                    health.internal_error("areal.event")
            return inside(method, *args, **kwargs)

        return trace_session_event

    patches.wrap(tracer, "trace_session_phase", phase)
    patches.wrap(tracer, "atrace_session_phase", phase)
    patches.wrap(tracer, "trace_session_event", event)

"""One of AReaL's sessions, and the session of rollspan's that it is: phases, events, verdicts."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextvars import ContextVar
from types import SimpleNamespace
from typing import Any, Final

from rollspan import health, semconv
from rollspan.attributes import fit_name
from rollspan.null import NULL

from .records import REASON, REASONS, SESSION, TASK

_INSTRUMENTED: Final = "rollspan.instrumentation.areal"
_JUDGED_ELSEWHERE: Final = "areal.is_eval"
"""Attribute: the instrumentor has followed this session from its submission, and knows its verdict better."""

_begun: ContextVar[tuple[_Mark, ...]] = ContextVar("rollspan-areal-begun", default=())


class _Mark:
    """A phase between two events."""

    __slots__ = ("over", "thing")

    def __init__(self, thing: Any) -> None:
        self.thing = thing
        self.over = False


class Tracked:
    """A session under AReaL's number. `own`: it was begun here and is over with its verdict."""

    def __init__(self, session: Any, *, own: bool = False) -> None:
        self.session = session
        self.own = own
        said = session.attributes
        self.number: int = said[semconv.REQUEST_ID]
        self._is_judged_elsewhere = _JUDGED_ELSEWHERE in said
        self._open: dict[str, list[_Mark]] = {}

    def describe(self, task: Any) -> None:
        """Say on the session which one of AReaL's it is."""
        known = self.session.attributes
        said = {SESSION: self.number, **({TASK: task} if task is not None else {})}
        self.session.set_attributes({key: value for key, value in said.items() if key not in known})

    # Phases.

    def phase(self, name: str, given: Mapping[str, Any]) -> Any:
        """A phase, to be entered."""
        # Off, nothing loads OpenTelemetry.
        from rollspan.instrumentation.areal.session_events import IfNothingElse  # noqa: PLC0415
        from rollspan.instrumentation.areal.timed import Timed  # noqa: PLC0415
        from rollspan.session_scopes import Execution  # noqa: PLC0415

        name = fit_name(name)
        if self.session.ended:
            return NULL
        if name == semconv.EXECUTION:
            return NULL if self._is_judged_elsewhere else Execution(self.session, name, given)
        if _known_elsewhere(name):
            return IfNothingElse(self._above(), name)
        return Timed(self._above(), name, given)

    def begin(self, name: str, given: Mapping[str, Any]) -> None:
        """A phase begins, which another event ends: nothing is current in between."""
        name = fit_name(name)
        if self.session.ended or (name == semconv.EXECUTION and self._is_judged_elsewhere):
            return
        if name == semconv.EXECUTION:
            thing: Any = self.session.start_execution(given)
        elif _known_elsewhere(name):
            thing = self.phase(name, given)
            thing.__enter__()
        else:
            thing = self.session.start_phase(name, given, self._above())
        if thing is not None:
            mark = _Mark(thing)
            self._open.setdefault(name, []).append(mark)
            _begun.set((*(m for m in _begun.get() if not m.over), mark))

    def end(self, name: str, given: Mapping[str, Any]) -> None:
        """The last one of that name that was begun here ends, or the oldest that was elsewhere."""
        marks = self._open.get(fit_name(name))
        if not marks:
            return
        mine = [mark for mark in _begun.get() if mark in marks]
        mark = mine[-1] if mine else marks[0]
        marks.remove(mark)
        mark.over = True
        if hasattr(mark.thing, "end"):
            mark.thing.set_attributes(given)
            mark.thing.end()
        else:
            mark.thing.__exit__(None, None, None)

    def _above(self) -> Any:
        from rollspan import context  # noqa: PLC0415

        current = context.current()
        if current is not None and current.owner is self.session:
            return current
        executions = self._open.get(semconv.EXECUTION)
        return executions[-1].thing if executions else self.session

    # Verdicts.

    def judge(self, status: str | None, reason: str | None, stats: Any = None) -> None:
        """What AReaL says of it. One that the instrumentor follows has its verdict from there."""
        session = self.session
        if self._is_judged_elsewhere or session.ended:
            return
        stats = _stats(stats)
        reason = REASONS.get(reason, reason) if isinstance(reason, str) else None
        if status in (None, semconv.ACCEPTED):
            session.mark_accepted(stats=stats)
        elif status == semconv.REJECTED:
            session.mark_rejected(reason or semconv.SHOULD_ACCEPT_FALSE, stats=stats)
        elif status == semconv.FAILED:
            if reason not in (None, semconv.WORKFLOW_EXCEPTION):
                session.set_attribute(REASON, reason)
            session.mark_failed(sys.exc_info()[1], stats=stats)
        else:
            session.mark_dropped(reason or str(status), stats=stats)

    def finalize(self, status: str | None, reason: str | None) -> None:
        """It has its verdict, and nothing comes after that."""
        self.judge(status, reason)
        if self.own and not self.session.ended:
            if self.session.status == semconv.ACCEPTED:
                self.session.mark_consumed()
            self.session._end_block()  # noqa: SLF001 - nobody will leave it


def _known_elsewhere(name: str) -> bool:
    """Whether the instrumentor sees where it happens."""
    areal = sys.modules.get(_INSTRUMENTED)
    if areal is None or not areal.is_enabled():
        return False
    from rollspan.instrumentation.areal.session_events import KNOWN_ELSEWHERE  # noqa: PLC0415

    return name in KNOWN_ELSEWHERE


def _stats(given: Any) -> Any:
    return SimpleNamespace(**given) if isinstance(given, dict) else given


class TracedPhase:
    """A phase of a session: `with` or `async with`. What AReaL calls payloads are its attributes."""

    __slots__ = ("_end", "_scope", "_span")

    def __init__(self, tracked: Tracked | None, name: str, start: Any = None, end: Any = None) -> None:
        self._end = end
        self._span: Any = None
        try:
            self._scope: Any = NULL if tracked is None else tracked.phase(name, dict(start or {}))
        except Exception:  # noqa: BLE001
            health.internal_error("compat.areal.phase")
            self._scope = NULL

    def __enter__(self) -> TracedPhase:
        self._span = self._scope.__enter__()
        return self

    def __exit__(self, *left_by: Any) -> None:
        if self._end and self._span is not None:
            self._span.set_attributes(self._end)
        self._scope.__exit__(*left_by)

    async def __aenter__(self) -> TracedPhase:
        return self.__enter__()

    async def __aexit__(self, *left_by: Any) -> None:
        self.__exit__(*left_by)

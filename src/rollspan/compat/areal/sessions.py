"""AReaL's sessions of this process, found by their numbers or by what is current."""

from __future__ import annotations

import itertools
from contextvars import ContextVar
from typing import Any, Final

import rollspan
from rollspan import semconv, switch

from .records import TASK
from .tracked import TracedPhase, Tracked

session_id: ContextVar[int | None] = ContextVar("rollspan-areal-session", default=None)
task_id: ContextVar[int | None] = ContextVar("rollspan-areal-task", default=None)


class Sessions:
    """Those of this process."""

    def __init__(self) -> None:
        self._found: dict[int, Tracked] = {}
        self._most = 1024
        self._while_off = itertools.count()

    def get(self, number: Any) -> Tracked | None:
        """The one of this number, if it is open."""
        try:
            found = self._found.get(number)
        except TypeError:  # it is no number
            return None
        return None if found is None or found.session.ended or found.session.abandoned else found

    def here(self) -> Tracked | None:
        """The one that is current: by AReaL's context variable, else by rollspan's."""
        if switch.runtime() is None:
            return None
        session = _around()
        return self.get(session_id.get()) or (None if session is None else self._of(session))

    def begin(self, task: Any) -> int:
        """The session that is current gets a number; else one is begun that is a block: nothing waits in it."""
        if switch.runtime() is None:
            return next(self._while_off)
        session = _around()
        if session is None:
            begun = rollspan.session(task_id=task, **{TASK: task})._start()  # noqa: SLF001 - no block holds it
            return self._numbered(begun and begun.owner, task)
        tracked = self._of(session)
        if tracked is None:  # the sample of a group that goes on although the group has failed
            return session.attributes[semconv.REQUEST_ID]  # type: ignore[no-any-return]
        tracked.describe(task)
        return tracked.number

    def running(self, number: Any) -> Any:
        """What to be in while one that was begun here runs; one that was found is current as it is."""
        tracked = self.get(number)
        return TracedPhase(tracked if tracked and tracked.own else None, semconv.EXECUTION)

    def submit(self) -> int:
        """A session begins with its submission, and waits in a queue."""
        if switch.runtime() is None:
            return next(self._while_off)
        return self._numbered(rollspan.start_session(), None)

    def abort(self) -> None:
        """Those that were begun here and had no end are cancelled."""
        for tracked in list(self._found.values()):
            if tracked.own and not tracked.session.abandoned:
                tracked.session.abort(semconv.CANCELLED)

    def _of(self, session: Any) -> Tracked | None:
        """The one that a session is, unless that is over."""
        if session.ended:
            return None
        return self.get(session.attributes[semconv.REQUEST_ID]) or self._add(Tracked(session))

    def _numbered(self, session: Any, task: Any) -> int:
        if not session:
            return next(self._while_off)
        tracked = self._add(Tracked(session, own=True))
        tracked.describe(task)
        return tracked.number

    def _add(self, tracked: Tracked) -> Tracked:
        if len(self._found) >= self._most:
            for number, known in list(self._found.items()):
                if known.session.ended or known.session.abandoned:
                    self._found.pop(number, None)
            self._most = max(1024, 2 * len(self._found))
        self._found[tracked.number] = tracked
        return tracked


def _around() -> Any:
    """The session of this process in which this runs, be it over or not; None where there is none."""
    from rollspan import context  # noqa: PLC0415 - off, nothing loads OpenTelemetry

    span: Any = context.get_current().get(context.PHASE_KEY)
    if span is None or not isinstance(span.owner, switch.Session) or span.owner.abandoned:
        return None
    return span.owner


found: Final = Sessions()

"""The intervals in which a session waits for somebody else: they never overlap, and each is a span."""

from __future__ import annotations

from . import ids, semconv
from .lines import NAME, REF, START
from .span import RolloutSpan
from .spandata import KIND_INTERNAL, STATUS_UNSET
from .tracelog import TraceLog


class WaitingTrace(TraceLog):
    """A trace with at most one open wait, whose name may be certain only when it ends."""

    __slots__ = ("_wait",)

    _wait: RolloutSpan | None
    """Set by whoever makes it."""

    def _open_wait(self, name: str, start: int) -> None:
        # With a mirror, the real span of a wait is made when its name is certain; until then it has an id of its own.
        ref = next(self._indices) if self.tracer is None else f"{ids.span_id():016x}"
        row = [ref, self.row[REF], name, KIND_INTERNAL, start, None, {}, STATUS_UNSET, ""]
        self._wait = RolloutSpan(self, row, self)
        self.bare = False
        self.spans.append(self._wait)

    def _close_wait(self, end: int, name: str | None = None) -> None:
        """End the wait that is open; `name` where only now it is certain what it was."""
        wait, self._wait = self._wait, None
        if wait is None:
            return
        row = wait.row
        if name is not None:
            row[NAME] = name
        if self.tracer is not None:
            wait.mirror = self._mirrored(self.tracer, row, self).mirror
        TraceLog.end_span(self, wait, max(end, row[START]))

    def _waits_for(self, name: str) -> bool:
        return self._wait is not None and self._wait.row[NAME] == name

    def _wait_for_trainer(self) -> None:
        """Accepted without an execution that still runs, or that has just ended: `post_wait` begins here."""
        if self._waits_for(semconv.POST_WAIT):
            return
        now = self.now()
        self._close_wait(now)
        self._open_wait(semconv.POST_WAIT, now)

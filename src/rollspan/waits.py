"""The intervals in which a session waits for somebody else: they never overlap, and each is a span."""

from __future__ import annotations

from typing import Any

from . import ids, semconv
from .spandata import KIND_INTERNAL, STATUS_UNSET
from .tracelog import TraceLog


class WaitingTrace(TraceLog):
    """A trace with at most one open wait, whose name may be certain only when it ends."""

    __slots__ = ("_wait",)

    _wait: tuple[str, int | str, int] | None
    """Name, ref, start; set by whoever makes it."""

    def _open_wait(self, name: str, start: int) -> None:
        # With a mirror, the span of a wait is made when its name is certain, under an id of its own.
        ref = next(self._indices) if self.tracer is None else f"{ids.span_id():016x}"
        self._wait = (name, ref, start)

    def _close_wait(self, end: int, name: str | None = None) -> None:
        """End the wait that is open; `name` where only now it is certain what it was."""
        wait, self._wait = self._wait, None
        if wait is None:
            return
        opened_as, ref, start = wait
        name = name or opened_as
        end = max(end, start)
        if self.tracer is None:
            self.keep([ref, self.root.ref, name, KIND_INTERNAL, start, end, {}, STATUS_UNSET, ""])
        else:
            span = self._mirrored(self.tracer, name, self.root, start, KIND_INTERNAL)
            self._open[span.ref] = span
            self.end_span(span, end)

    def _open_rows(self) -> list[list[Any]]:
        if not self._open and self._wait is None:
            return []
        rows = super()._open_rows()
        if self._wait is not None:
            name, ref, start = self._wait
            rows.append([ref, self.root.ref, name, KIND_INTERNAL, start, {}])
        return rows

    def _wait_for_trainer(self) -> None:
        """Accepted without an execution that still runs, or that has just ended: `post_wait` begins here."""
        if self._wait is not None and self._wait[0] == semconv.POST_WAIT:
            return
        now = self.now()
        self._close_wait(now)
        self._open_wait(semconv.POST_WAIT, now)

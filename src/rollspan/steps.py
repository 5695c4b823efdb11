"""A trainer's step: a trace of its own, to which the sessions link that it submitted and consumed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import health, semconv
from .attributes import clean
from .lines import END
from .tracelog import TraceLog

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

    from .machinery import Machinery

_TALLIES = {semconv.LINK_DISPATCH: semconv.STEP_DISPATCHED, semconv.LINK_CONSUME: semconv.STEP_CONSUMED}


class Step(TraceLog):
    """Carries counts instead of links to its sessions: a span keeps 128 links, a step has thousands."""

    __slots__ = ("_counts", "number")

    root_name = semconv.STEP_NAME

    def __init__(
        self, runtime: Machinery, number: Any, attributes: dict[str, Any], tracer: Tracer | None
    ) -> None:
        super().__init__(runtime, tracer)
        self.number = clean(number)
        self._counts: dict[str, int] = {}
        self._put({semconv.STEP: self.number, **attributes})
        runtime.steps[self.trace_hex] = self
        with self.lock:
            self._write_first()

    def __repr__(self) -> str:
        return f"<rollspan step {self.number}>"

    def tally(self, link: str) -> None:
        """One more session links to this step."""
        if not self.ended:
            self._counts[link] = self._counts.get(link, 0) + 1

    def finish(self, exc: BaseException | None = None) -> None:
        """End the step."""
        if self.abandoned:
            return
        with self.lock:
            if self.ended:
                return
            if exc is not None:
                self.fail(exc)
            end = self.now()
            for span in self.open_spans():
                self.end_span(span, end, late=True)
            counts = {key: self._counts.get(link, 0) for link, key in _TALLIES.items()}
            self._change(counts)
            self.row[END] = end
            self.runtime.steps.pop(self.trace_hex, None)
            self._write_end(end)
            if self.mirror is not None:
                self.mirror.end(end)

    def checkpoint(self, older_than_ns: int) -> None:
        """Nothing: a step's first line is enough to find it again."""

    def abort(self, reason: str) -> None:
        """The process ends in good order inside the step."""
        try:
            self.finish()
        except Exception:  # noqa: BLE001
            health.internal_error("step.abort")

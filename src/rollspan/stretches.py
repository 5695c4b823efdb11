"""A stretch of a process's life: the trace of scopes that are timed outside of any step and session."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from . import semconv
from .lines import START
from .work import Work

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.trace import Tracer

    from .machinery import Machinery
    from .span import RolloutSpan

_LONGEST_NS: Final = 10_000_000_000  # after which it ends as soon as nothing is open in it


class Stretch(Work):
    """Ends by itself, so that its scopes are seen before the process is over."""

    __slots__ = ()

    root_name = semconv.PROCESS_NAME

    def __init__(self, runtime: Machinery, tracer: Tracer | None) -> None:
        super().__init__(runtime, tracer, {}, {}, runtime.stretches)

    def __repr__(self) -> str:
        return f"<rollspan stretch {self.trace_id}>"

    def start_phase(
        self, name: str, given: Mapping[str, Any], parent: RolloutSpan | None = None
    ) -> RolloutSpan | None:
        """As `TraceLog.start_phase`; None where it has ended meanwhile."""
        with self.lock:
            return None if self.ended else super().start_phase(name, given, parent)

    def keep_up(self) -> None:
        """Write what has ended meanwhile; end it where its time is over."""
        super().keep_up()
        if self.now() - self.row[START] >= _LONGEST_NS:
            self.end_idle()

    def end_idle(self) -> None:
        """End it, unless something is open in it."""
        if self.abandoned:
            return
        with self.lock:
            bare, self.bare = self.bare, False  # from here on scopes are begun under the lock
            if self.open_spans():
                self.bare = bare
            else:
                self.finish()


def end_idle(runtime: Machinery) -> None:
    """What was timed so far shall be delivered: end the stretches in which nothing is open."""
    for stretch in list(runtime.stretches.values()):
        stretch.end_idle()


def start_phase(
    runtime: Machinery, tracer: Tracer | None, name: str, given: Mapping[str, Any]
) -> RolloutSpan | None:
    """Open a phase in the stretch that this process is in, or in a new one."""
    for stretch in list(runtime.stretches.values()):
        span: RolloutSpan | None = stretch.start_phase(name, given)
        if span is not None:
            return span
    return Stretch(runtime, tracer).start_phase(name, given)

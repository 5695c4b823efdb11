"""A trace without a session: timed scopes of a trainer's step, or of a process between its steps."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Any

from . import health
from .lines import END
from .tracelog import TraceLog

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

    from .machinery import Machinery


class Work(TraceLog):
    """Its lines are written by the worker, a few times a second: whoever times a scope does not wait for that."""

    __slots__ = ("_open",)

    def __init__(
        self,
        runtime: Machinery,
        tracer: Tracer | None,
        own: dict[str, Any],
        given: dict[str, Any],
        open_ones: MutableMapping[bytes, Any],
    ) -> None:
        """`own` attributes are in their form, `given` ones need not be. `open_ones` is where it stands while open."""
        super().__init__(runtime, tracer)
        self._put_clean(own)
        if given:
            self._put(given)
        self._open = open_ones
        open_ones[self.trace_hex] = self
        with self.lock:
            self._write_first()
        self.bare = self.tracer is None

    def finish(self, exc: BaseException | None = None) -> None:
        """End it, and what is still open in it."""
        if self.abandoned:
            return
        with self.lock:
            if self.ended:
                return
            self.bare = False
            if exc is not None:
                self.fail(exc)
            end = self.now()
            for span in self.open_spans():
                self.end_span(span, end, late=True)
            self._change(self._sums())
            self._write_end(end)
            self.row[END] = end  # once the line is written: broken off before, it can be ended again
            self._open.pop(self.trace_hex, None)
            if self.mirror is not None:
                self.mirror.end(end)

    def _sums(self) -> dict[str, Any]:
        """What the root says in the end."""
        return {}

    def keep_up(self) -> None:
        """Write what has ended meanwhile; called by the worker."""
        if self.abandoned or self.ended:
            return
        with self.lock:
            if self._new():
                self._write()

    def checkpoint(self, older_than_ns: int) -> None:
        """Nothing: `keep_up` comes more often."""

    def abort(self, reason: str) -> None:
        """The process ends in good order inside of it."""
        try:
            self.finish()
        except Exception:  # noqa: BLE001
            health.internal_error("work.abort")

"""A trace that is being produced: its open spans, and what of it the journal has not got yet."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import orjson

from . import clock, describe, health, ids, lines, semconv
from .attributes import salvage
from .span import RolloutSpan
from .spandata import KIND_CLIENT, KIND_INTERNAL

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

    from .machinery import Machinery

_WRITE_EVERY = 512  # finished spans: bounds a line's length and what a session holds in memory
_SPECIAL = semconv.WAITS | {semconv.GENERATE}


class TraceLog:
    """Owner of a trace's spans. Several threads may be at it: the journal's lock guards what matters."""

    __slots__ = (
        "__weakref__",
        "_changes",
        "_indices",
        "_kept",
        "_links",
        "_open",
        "_open_written",
        "_rows",
        "_sequence",
        "offset",
        "root",
        "runtime",
        "sampled",
        "trace_hex",
        "trace_int",
        "tracer",
    )  # fmt: skip

    root_name = semconv.ROOT_NAME

    def __init__(self, runtime: Machinery, tracer: Tracer | None = None) -> None:
        """With a `tracer` every span has a real one made by it beside it, which its provider exports."""
        self.runtime = runtime
        self.offset = clock.anchor()
        self.tracer = tracer
        self.sampled = True
        self._changes: dict[str, Any] = {}
        self._links: list[Any] = []
        self._indices: Iterator[int | str] = itertools.count(1)
        self._open: dict[int | str, RolloutSpan] = {}
        self._rows: list[list[Any]] = []
        self._kept: list[list[Any]] | None = None
        self._sequence = 0
        self._open_written: list[tuple[Any, int]] = []
        self._identify()

    def _identify(self) -> None:
        start = clock.monotonic_ns() + self.offset
        if self.tracer is not None:
            from opentelemetry.context import Context  # noqa: PLC0415

            mirror = self.tracer.start_span(self.root_name, Context(), start_time=start)
            context = mirror.get_span_context()
            if mirror.is_recording():
                self.trace_int = context.trace_id
                self.trace_hex = b"%032x" % context.trace_id
                self.root = RolloutSpan(
                    self, f"{context.span_id:016x}", self.root_name, None, start, mirror=mirror
                )
                self._kept = []
                return
            self.tracer = None  # their sampler left it out: the record is ours all the same
            self.sampled = False
        self.trace_int = ids.trace_id()
        self.trace_hex = b"%032x" % self.trace_int
        if self.sampled:
            self.sampled = self.runtime.samples(self.trace_int)
        self.root = RolloutSpan(self, 0, self.root_name, None, start)

    @property
    def trace_id(self) -> str:
        """The trace id, 32 hex digits."""
        return self.trace_hex.decode()

    @property
    def abandoned(self) -> bool:
        """Whether its runtime is gone: after a shutdown, or in a forked child, which must leave it alone."""
        return self.runtime.abandoned

    def now(self) -> int:
        """Epoch nanoseconds by the monotonic clock."""
        return clock.monotonic_ns() + self.offset

    # Spans.

    def start_phase(
        self, name: str, given: Mapping[str, Any], parent: RolloutSpan | None = None
    ) -> RolloutSpan | None:
        """Open a phase below `parent`, else below the root; None where the trace is over."""
        return self.start_span(name, self.root if parent is None else parent, given)

    def start_span(
        self, name: str, parent: RolloutSpan, given: Mapping[str, Any], start_ns: int | None = None
    ) -> RolloutSpan:
        """Open a phase below `parent`."""
        start = clock.monotonic_ns() + self.offset if start_ns is None else start_ns
        kind = KIND_INTERNAL
        if name in _SPECIAL:
            if name in semconv.WAITS:  # those are ours to make
                name += "_"
            elif name == semconv.GENERATE:
                kind = KIND_CLIENT
        if self.tracer is None:
            span = RolloutSpan(self, next(self._indices), name, parent, start, kind)
        else:
            span = self._mirrored(self.tracer, name, parent, start, kind)
        if name in describe.OPERATIONS:
            operation = describe.OPERATIONS[name]
            span.attributes[semconv.OPERATION_NAME] = operation
            if span.mirror is not None:
                span.mirror.set_attribute(semconv.OPERATION_NAME, operation)
        if given:
            span._put(given)  # noqa: SLF001
        self._open[span.ref] = span
        return span

    def find_open(self, span_id: int) -> RolloutSpan:
        """The open span of this id, else the root."""
        for span in list(self._open.values()):
            if span.get_span_context().span_id == span_id:
                return span
        return self.root

    def _mirrored(self, tracer: Tracer, name: str, parent: RolloutSpan, start: int, kind: int) -> RolloutSpan:
        from opentelemetry.context import Context  # noqa: PLC0415
        from opentelemetry.trace import SpanKind, set_span_in_context  # noqa: PLC0415

        mirror = tracer.start_span(
            name,
            set_span_in_context(parent, Context()),
            kind=SpanKind.CLIENT if kind == KIND_CLIENT else SpanKind.INTERNAL,
            attributes=self._common_attributes(name, parent),
            start_time=start,
        )
        ref = f"{mirror.get_span_context().span_id:016x}"
        return RolloutSpan(self, ref, name, parent, start, kind, mirror)

    def _common_attributes(self, name: str, parent: RolloutSpan) -> dict[str, Any]:
        """What the light route adds when it reads the journal back."""
        return {semconv.PHASE: name}

    def end_span(self, span: RolloutSpan, end_ns: int | None = None, *, late: bool = False) -> bool:
        """Close a phase; False where it was closed before (by hand, or with its session)."""
        return self._close(span, clock.monotonic_ns() + self.offset if end_ns is None else end_ns, late)

    def _close(self, span: RolloutSpan, end: int, late: bool) -> bool:
        if self.runtime.abandoned or self._open.pop(span.ref, None) is None:
            return False
        if end < span.start_ns:
            health.warn_once(
                "api.end_before_start",
                "rollspan: phase %r was to end before its start; it ends at its start",
                span.name,
            )
            end = span.start_ns
        if late:
            span._put_clean({semconv.LATE: True})  # noqa: SLF001
        span.ended = True
        if span.mirror is not None:
            span.mirror.end(end)
        self.keep(
            [
                span.ref,
                span.parent.ref if span.parent is not None else 0,
                span.name,
                span.kind,
                span.start_ns,
                end,
                span.attributes,
                span.status,
                span.status_message,
            ]
        )
        return True

    def keep(self, row: list[Any]) -> None:
        """Take a finished span's row to be written with the trace's next line."""
        self._rows.append(row)
        if self._kept is not None:
            self._kept.append(row)
        if len(self._rows) >= _WRITE_EVERY:
            self.write()

    # Lines.

    def _open_rows(self) -> list[list[Any]]:
        if not self._open:
            return []
        return [
            [s.ref, s.parent.ref if s.parent is not None else 0, s.name, s.kind, s.start_ns, s.attributes]
            for s in list(self._open.values())
        ]

    def _new(self) -> bool:
        """Whether there is anything that the journal has not got, but for the time."""
        return bool(self._rows or self._changes or self._links) or self._open_written != [
            (row[0], len(row[-1])) for row in self._open_rows()
        ]

    def write(self, *, end_ns: int | None = None) -> None:
        """Write what is new to the journal; with `end_ns` for the last time."""
        with self.runtime.lock:
            self._write(end_ns)

    def _write(self, end_ns: int | None = None) -> None:
        """As `write`, for a caller that holds the lock: taking it again is a good part of what a line costs."""
        part: dict[str, Any] = {"n": self._sequence}
        if self._sequence == 0:
            self._first(part)
        self._sequence += 1
        if self._changes:
            part["a"], self._changes = self._changes, {}
        if self._links:
            part["l"], self._links = self._links, []
        taken = self._rows[:]  # others may append meanwhile, without the lock
        if taken:
            part["s"] = taken
        kind = lines.GOES_ON
        if end_ns is not None:
            part["e"] = end_ns
            kind = lines.ENDS
        else:
            if still_open := self._open_rows():
                part["o"] = still_open
                part["u"] = self.now()
            self._open_written = [(row[0], len(row[-1])) for row in still_open]
        root = self.root
        if root.status:
            part["st"] = [root.status, root.status_message]
        try:
            payload = orjson.dumps(part)
        except Exception:  # noqa: BLE001 - a value that came past the cleaning must not cost the session
            health.internal_error("tracelog.write")
            payload = orjson.dumps(salvage(part))
        if taken:
            del self._rows[: len(taken)]
        self.runtime.journal.append_locked(lines.frame(kind, self.trace_hex, payload))

    def _first(self, part: dict[str, Any]) -> None:
        root = self.root
        part["t"] = root.start_ns
        if root.ref != 0:
            part["r"] = root.ref
        if self.root_name != semconv.ROOT_NAME:
            part["m"] = self.root_name
        if root.mirror is not None or not self.sampled:
            part["x"] = False

    def change(self, attributes: dict[str, Any]) -> None:
        """Set (clean) attributes of the root."""
        self._changes.update(attributes)
        root = self.root
        if root.mirror is not None:
            root.attributes.update(attributes)
            root.mirror.set_attributes(attributes)

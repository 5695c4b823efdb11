"""A trace that is being produced: its open spans, and what of it the journal has not got yet."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import orjson
from opentelemetry.context import Context
from opentelemetry.trace import SpanKind, set_span_in_context

from . import clock, describe, health, ids, lines, semconv
from .attributes import fit, salvage
from .lines import ATTRIBUTES, END, KIND, NAME, REF, START, STATUS
from .span import RolloutSpan
from .spandata import KIND_CLIENT, KIND_INTERNAL, STATUS_UNSET

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

    from .machinery import Machinery

_WRITE_EVERY = 512  # finished spans: bounds a line's length and what a session holds in memory

# What the name of a phase alone says: its name on the wire, kind and attributes.
_Said = tuple[str, int, dict[str, Any]]
_SAID: dict[str, _Said] = {
    **{wait: (f"{wait}_", KIND_INTERNAL, {}) for wait in semconv.WAITS},  # those are ours to make
    **{
        name: (
            name,
            KIND_CLIENT if name == semconv.GENERATE else KIND_INTERNAL,
            {semconv.OPERATION_NAME: operation},
        )
        for name, operation in describe.OPERATIONS.items()
    },
}


class TraceLog:
    """Owner of a trace's spans; `spans` are those that the journal has not got whole.

    Several threads may be at it. To begin a span and to end it are single steps, on the list and on the span's row,
    and need no lock. `lock` guards everything else. It is the journal's own, but where spans are mirrored: a user's
    processors may run while it is held, and others shall not wait for them.
    """

    __slots__ = (
        "__weakref__",
        "_changes",
        "_end_wanted",
        "_indices",
        "_kept",
        "_links",
        "_open_written",
        "_sequence",
        "_write_at",
        "_writing",
        "lock",
        "offset",
        "root",
        "runtime",
        "sampled",
        "spans",
        "trace_hex",
        "trace_int",
        "tracer",
    )  # fmt: skip

    root_name = semconv.ROOT_NAME

    def __init__(self, runtime: Machinery, tracer: Tracer | None = None) -> None:
        """With a `tracer` every span has a real one made by it beside it, which its provider exports."""
        self.runtime = runtime
        self.tracer: Tracer | None = None
        self.sampled = True
        self.spans: list[RolloutSpan] = []
        self._changes: dict[str, Any] = {}
        self._links: list[Any] = []
        self._kept: list[list[Any]] | None = None
        self._indices: Iterator[int | str] = itertools.count(1)
        self._sequence = 0
        self._write_at = _WRITE_EVERY
        self._writing = False
        self._end_wanted: int | None = None
        self._open_written: Sequence[tuple[Any, int]] = ()
        now = clock.monotonic_ns()
        start = clock.time_ns()
        self.offset = start - now
        row: list[Any] = [0, None, self.root_name, KIND_INTERNAL, start, None, {}, STATUS_UNSET, ""]
        self.root = RolloutSpan(self, row, None)
        if tracer is None or not self._mirror_root(tracer):
            self.trace_int = ids.trace_id()
            self.lock = runtime.lock
            if self.sampled and runtime.sampler is not None:
                self.sampled = runtime.sampler(self.trace_int)
        self.trace_hex = b"%032x" % self.trace_int

    def _mirror_root(self, tracer: Tracer) -> bool:
        """Make the real root; False where their sampler leaves the trace out: the record is ours all the same."""
        root = self.root
        mirror = tracer.start_span(self.root_name, Context(), start_time=root.row[START])
        self.sampled = mirror.is_recording()
        if self.sampled:
            root.mirror = mirror
            context = mirror.get_span_context()
            root.row[REF] = f"{context.span_id:016x}"
            self.trace_int = context.trace_id
            self.tracer = tracer
            self.lock = threading.RLock()
            self._kept = []
        return self.sampled

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

    def finish(self, exc: BaseException | None = None) -> None:
        """End the trace, left normally or by `exc`."""
        raise NotImplementedError

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
        attributes: dict[str, Any] = {}
        if name in _SAID:
            name, kind, said = _SAID[name]
            attributes.update(said)
        if self.tracer is None:
            row = [
                next(self._indices),
                parent.row[REF],
                name,
                kind,
                start,
                None,
                attributes,
                STATUS_UNSET,
                "",
            ]
            span = RolloutSpan(self, row, parent)
            if given:
                describe.put(attributes, name, given, self.runtime.settings)
        else:
            row = [None, parent.row[REF], name, kind, start, None, attributes, STATUS_UNSET, ""]
            span = self._mirrored(self.tracer, row, parent)
            if given:
                span._put(given)  # noqa: SLF001
        self.spans.append(span)
        return span

    def find_open(self, span_id: int) -> RolloutSpan:
        """The open span of this id, else the root."""
        for span in self.open_spans():
            if span.get_span_context().span_id == span_id:
                return span
        return self.root

    def open_spans(self) -> list[RolloutSpan]:
        """Its spans that are open."""
        return [span for span in self.spans[:] if span.row[END] is None]

    def _mirrored(self, tracer: Tracer, row: list[Any], parent: RolloutSpan) -> RolloutSpan:
        mirror = tracer.start_span(
            row[NAME],
            set_span_in_context(parent, Context()),
            kind=SpanKind.CLIENT if row[KIND] == KIND_CLIENT else SpanKind.INTERNAL,
            attributes={**self._common_attributes(row[NAME], parent), **row[ATTRIBUTES]},
            start_time=row[START],
        )
        row[REF] = f"{mirror.get_span_context().span_id:016x}"
        if self._kept is not None:
            self._kept.append(row)
        return RolloutSpan(self, row, parent, mirror)

    def _common_attributes(self, name: str, parent: RolloutSpan) -> dict[str, Any]:
        """What the light route adds when it reads the journal back."""
        return {semconv.PHASE: name}

    def end_span(self, span: RolloutSpan, end_ns: int | None = None, *, late: bool = False) -> bool:
        """Close a phase; False where it was closed before (by hand, or with its session)."""
        row = span.row
        if row[END] is not None:
            return False
        if end_ns is None:
            end_ns = clock.monotonic_ns() + self.offset
        elif end_ns < row[START]:
            health.warn_once(
                "api.end_before_start",
                "rollspan: phase %r was to end before its start; it ends at its start",
                span.name,
            )
            end_ns = row[START]
        if late:
            span._put_clean({semconv.LATE: True})  # noqa: SLF001
        row[END] = end_ns
        if span.mirror is not None:
            span.mirror.end(end_ns)
        if len(self.spans) >= self._write_at:
            self.write()
        return True

    def keep(self, row: list[Any]) -> None:
        """Take a finished span, given as its row, to be written with the trace's next line."""
        self.spans.append(RolloutSpan(self, row, self.root))
        if self._kept is not None:
            self._kept.append(row)
        if len(self.spans) >= self._write_at:
            self.write()

    # Lines.

    def _new(self) -> bool:
        """Whether there is anything that the journal has not got, but for the time."""
        spans = self.spans[:]
        return bool(self._changes or self._links or any(span.row[END] is not None for span in spans)) or list(
            self._open_written
        ) != [(span.row[REF], len(span.row[ATTRIBUTES])) for span in spans]

    def write(self) -> None:
        """Write what is new to the journal."""
        if not self.runtime.abandoned:
            with self.lock:
                self._write()

    def _write(self) -> None:
        """As `write`, for a caller that holds the lock: taking it again is a good part of what a line costs."""
        if self._writing or self.root.row[END] is not None:
            return
        self._writing = True
        try:
            part: dict[str, Any] = {"n": self._sequence}
            if self._sequence == 0:
                self._first(part)
            if self.spans:
                self._take_finished(part)
            self._write_line(lines.GOES_ON, part)
        finally:
            self._writing = False
            if self._end_wanted is not None:
                self._write_end(self._end_wanted)

    def _write_end(self, end_ns: int) -> None:
        """Write the last line. The caller holds the lock."""
        if self._writing:  # a finalizer or a signal's handler has come in between, in this very thread
            self._end_wanted = end_ns
            return
        part: dict[str, Any] = {"n": self._sequence}
        if self.spans:
            part["s"] = [span.row for span in self.spans]
            self.spans = []
        part["e"] = end_ns
        self._write_line(lines.ENDS, part)

    def _write_line(self, kind: bytes, part: dict[str, Any]) -> None:
        self._sequence += 1
        if self._changes:
            part["a"], self._changes = self._changes, {}
        if self._links:
            part["l"], self._links = self._links, []
        root = self.root.row
        if root[STATUS]:
            part["st"] = root[STATUS:]
        try:
            payload = orjson.dumps(part)
        except orjson.JSONEncodeError:
            payload = b"null"
        if len(payload) > self.runtime.settings.attribute_max_bytes or payload.find(b"null") >= 0:
            payload = self._fit(part)  # values that JSON does not have, or that are too long
        line = lines.frame(kind, self.trace_hex, payload)
        if self.tracer is None:
            self.runtime.journal.append_locked(line)
        else:
            self.runtime.journal.append(line)

    def _fit(self, part: dict[str, Any]) -> bytes:
        """The line's JSON, after all its values were brought into their form."""
        limit = self.runtime.settings.attribute_max_bytes
        for row in (*part.get("s", ()), *part.get("o", ())):
            at = ATTRIBUTES if len(row) > ATTRIBUTES else -1
            row[at] = fit(row[at], limit)
        if "a" in part:
            part["a"] = fit(part["a"], limit)
        try:
            return orjson.dumps(part)
        except orjson.JSONEncodeError:
            health.internal_error("tracelog.write")
            return orjson.dumps(salvage(part))

    def _take_finished(self, part: dict[str, Any]) -> None:
        """Move the finished spans into `part`, and say which are open."""
        taken = self.spans[:]  # others may append meanwhile, without the lock, and end what is open
        finished: list[list[Any]] = []
        still_open: list[RolloutSpan] = []
        for span in taken:
            if span.row[END] is None:
                still_open.append(span)
            else:
                finished.append(span.row)
        self.spans[: len(taken)] = still_open
        self._write_at = len(still_open) + _WRITE_EVERY
        if finished:
            part["s"] = finished
        if still_open:
            part["o"] = [[*span.row[:END], span.row[ATTRIBUTES]] for span in still_open]
            part["u"] = self.now()
        self._open_written = [(span.row[REF], len(span.row[ATTRIBUTES])) for span in still_open]

    def _first(self, part: dict[str, Any]) -> None:
        root = self.root
        part["t"] = root.row[START]
        if root.row[REF] != 0:
            part["r"] = root.row[REF]
        if self.root_name != semconv.ROOT_NAME:
            part["m"] = self.root_name
        if root.mirror is not None or not self.sampled:
            part["x"] = False

    def change(self, attributes: dict[str, Any]) -> None:
        """Set (clean) attributes of the root."""
        if self.abandoned:  # the lock may be held for good by a thread that a forked child has not got
            return
        with self.lock:
            self._change(attributes)

    def _change(self, attributes: dict[str, Any]) -> None:
        """As `change`, for a caller that holds the lock."""
        self.root.row[ATTRIBUTES].update(attributes)
        self._changes.update(attributes)
        if self.root.mirror is not None:
            self.root.mirror.set_attributes(attributes)

"""A trace that is being produced: its open spans, and what of it the journal has not got yet."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from typing import TYPE_CHECKING, Any

import orjson
from opentelemetry.context import Context
from opentelemetry.trace import SpanKind, set_span_in_context

from . import clock, health, ids, lines, names, native, plain, semconv
from .attributes import fit, salvage
from .lines import ATTRIBUTES, END, KIND, NAME, REF, START, STATUS, WRITE_EVERY
from .span import RolloutSpan
from .spandata import KIND_CLIENT, KIND_INTERNAL, STATUS_UNSET

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

    from .machinery import Machinery

_dumps, _frame = orjson.dumps, lines.frame


class TraceLog(RolloutSpan):
    """A trace's root span, and the owner of its other spans; `spans` are those that the journal has not got whole.

    Several threads may be at it. To begin a span and to end it are single steps, on the list and on the span's row,
    and need no lock. `lock` guards everything else. It is the journal's own, but where spans are mirrored: a user's
    processors may run while it is held, and others shall not wait for them.

    While it is `bare`, a phase needs nothing but its row: there are no mirrors, nothing waits for its begin or end, and
    the trace is this process's.
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
        "bare",
        "lock",
        "offset",
        "runtime",
        "sampled",
        "spans",
        "trace_hex",
        "tracer",
    )  # fmt: skip

    root_name = semconv.ROOT_NAME

    def __init__(self, runtime: Machinery, tracer: Tracer | None = None) -> None:
        """With a `tracer` every span has a real one made by it beside it, which its provider exports."""
        self.runtime = runtime
        self.lock = runtime.lock
        self.parent = self.mirror = self._span_context = None
        self.tracer: Tracer | None = None
        self.bare = False
        self.sampled = True
        self.spans: list[RolloutSpan] = []
        self._changes: dict[str, Any] = {}
        self._links: Sequence[Any] = ()
        self._kept: list[list[Any]] | None = None
        self._indices: Iterator[int | str] = count(1)
        self._sequence = 0
        self._write_at = WRITE_EVERY
        self._writing = False
        self._end_wanted: int | None = None
        self._open_written: Sequence[tuple[Any, int]] = ()
        start = clock.time_ns()
        self.offset = start - clock.monotonic_ns()
        self.row = [0, None, self.root_name, KIND_INTERNAL, start, None, {}, STATUS_UNSET, ""]
        if tracer is None or not self._mirror_root(tracer):
            self.trace_hex = ids.trace_hex()
            if runtime.sampler is not None and self.sampled:
                self.sampled = runtime.sampler(int(self.trace_hex, 16))

    @property
    def owner(self) -> TraceLog:  # type: ignore[override]
        """Itself. Were that an attribute, each trace would be left to the garbage collector."""
        return self

    def _mirror_root(self, tracer: Tracer) -> bool:
        """Make the real root; False where their sampler leaves the trace out: the record is ours all the same."""
        mirror = tracer.start_span(self.root_name, Context(), start_time=self.row[START])
        self.sampled = mirror.is_recording()
        if self.sampled:
            self.mirror = mirror
            context = mirror.get_span_context()
            self.row[REF] = f"{context.span_id:016x}"
            self.trace_hex = b"%032x" % context.trace_id
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
        return self.start_span(name, self if parent is None else parent, given)

    def start_span(
        self, name: str, parent: RolloutSpan, given: Mapping[str, Any], start_ns: int | None = None
    ) -> RolloutSpan:
        """Open a phase below `parent`."""
        start = clock.monotonic_ns() + self.offset if start_ns is None else start_ns
        name, kind, said, _ = names.said_by(name)
        attributes: dict[str, Any] = {**said} if said else {}
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
                plain.put(attributes, name, given, self.runtime.settings)
        else:
            row = [None, parent.row[REF], name, kind, start, None, attributes, STATUS_UNSET, ""]
            span = self._mirrored(self.tracer, row, parent)
            if given:
                span._put(given)  # noqa: SLF001
        self.spans.append(span)
        return span

    def add_span(self, name: str, parent: RolloutSpan, start: int, exc: BaseException | None = None) -> None:
        """A phase below `parent` began at `start` and ends now, by `exc`: only now it is known that it is one."""
        if self.bare and exc is None:
            name, kind, said, _ = names.said_by(name)
            attributes = {**said} if said else {}
            above = parent.row[REF]
            self.keep(
                [next(self._indices), above, name, kind, start, self.now(), attributes, STATUS_UNSET, ""]
            )
        elif not self.ended and not self.abandoned:
            span = self.start_span(name, parent, {}, start)
            if exc is not None:
                span.fail(exc)
            self.end_span(span)

    def find_open(self, span_id: int) -> RolloutSpan:
        """The open span of this id, else the root."""
        for span in self.open_spans():
            if span.get_span_context().span_id == span_id:
                return span
        return self

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
        self.spans.append(RolloutSpan(self, row, self))
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
        if self._writing or self.row[END] is not None:
            return
        self._writing = True
        before = self.spans[:]
        try:
            part: dict[str, Any] = {"n": self._sequence}
            if before:
                self._take_finished(part)
            self._write_line(lines.GOES_ON, part)
        except BaseException:
            self.spans[:0] = [span for span in before if span not in self.spans]
            raise
        finally:
            self._writing = False
            if self._end_wanted is not None:
                self._write_end(self._end_wanted)

    def _write_first(self) -> None:
        """Write the first line. The caller holds the lock."""
        row = self.row
        part: dict[str, Any] = {"n": 0, "t": row[START], "a": self._changes}
        self._changes = {}
        if self.root_name is semconv.ROOT_NAME:
            part["c"] = self.runtime.common_json
        else:
            part["m"] = self.root_name
        if row[REF] != 0:
            part["r"] = row[REF]
        if self.mirror is not None or not self.sampled:
            part["x"] = False
        if self.spans:
            self._take_finished(part)
        if self._links:
            part["l"], self._links = self._links, ()
        self._send(lines.GOES_ON, part)

    def _write_end(self, end_ns: int, rows: list[list[Any]] | None = None) -> None:
        """Write the last line; `rows` are those of `spans`, which all have ended. The caller holds the lock."""
        if self._writing:  # a finalizer or a signal's handler has come in between, in this very thread
            self._end_wanted = end_ns
            return
        part: dict[str, Any] = {"n": self._sequence, "e": end_ns}
        if self.spans:
            part["s"] = [span.row for span in self.spans] if rows is None else rows
        self._write_line(lines.ENDS, part)
        self.spans = []

    def _write_line(self, kind: bytes, part: dict[str, Any]) -> None:
        try:
            if self._changes:
                part["a"], self._changes = self._changes, {}
            if self._links:
                part["l"], self._links = self._links, ()
            if self.row[STATUS]:
                part["st"] = self.row[STATUS:]
            self._send(kind, part)
        except BaseException:  # a signal handler's: what was taken belongs to the line that is written next
            self._changes = {**part.get("a", {}), **self._changes}
            self._links = (*part.get("l", ()), *self._links)
            raise

    def _send(self, kind: bytes, part: dict[str, Any]) -> None:
        self._sequence += 1
        runtime = self.runtime
        try:
            payload = _dumps(part)
        except orjson.JSONEncodeError:  # values that JSON has not got
            payload = b""
        if not payload or len(payload) > runtime.settings.attribute_max_bytes:
            payload = self._fit(part)
        runtime.journal.append(_frame(kind, self.trace_hex, payload))

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
        self._write_at = len(still_open) + WRITE_EVERY
        if finished:
            part["s"] = finished
        if still_open:
            part["o"] = [[*span.row[:END], span.row[ATTRIBUTES]] for span in still_open]
            part["u"] = self.now()
        self._open_written = [(span.row[REF], len(span.row[ATTRIBUTES])) for span in still_open]

    def change(self, attributes: dict[str, Any]) -> None:
        """Set (clean) attributes of the root."""
        if self.abandoned:  # the lock may be held for good by a thread that a forked child has not got
            return
        with self.lock:
            self._change(attributes)

    def _change(self, attributes: dict[str, Any]) -> None:
        """As `change`, for a caller that holds the lock."""
        self.row[ATTRIBUTES].update(attributes)
        self._changes.update(attributes)
        if self.mirror is not None:
            self.mirror.set_attributes(attributes)


native.works_with(trace=TraceLog, dumps=orjson.dumps, write_every=WRITE_EVERY)
native.stands_for("send", TraceLog, "_send")

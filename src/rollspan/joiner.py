"""From the journal's lines to finished traces: one way for live, dead and kept journals."""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from . import fold, health, lines, record
from .attributes import MAX_SPAN_ATTRIBUTES
from .journal import Position
from .lines import Line
from .spandata import FinishedTrace, SpanData

_ENDS = lines.ENDS[0]
_PASSES = lines.PASSES[0]
_NUMBER = re.compile(rb'\{"n":(\d+)')


class Finished(NamedTuple):
    """A finished trace and the position behind its last line."""

    at: Position
    trace: FinishedTrace


class ReachesBack(NamedTuple):
    """A trace that ended in a later segment than the first that holds a line of it."""

    end: Position
    first_segment: int


class _OpenTrace:
    """Lines by number, each with its segment. A line that comes again, carried forward, lies where it came last."""

    __slots__ = ("placed",)

    def __init__(self) -> None:
        self.placed: dict[int, tuple[int, Line]] = {}

    @property
    def lines(self) -> list[Line]:
        return [line for _, line in self.placed.values()]


class Joiner:
    """Collects the lines of open traces until their last one comes."""

    def __init__(self) -> None:
        self.open: dict[bytes, _OpenTrace] = {}
        self.live_bytes: Counter[int] = Counter()
        """What the lines of open traces take, by segment."""
        self.reaching_back: deque[ReachesBack] = deque()
        """In the order of their ends; whoever reads the journal for good takes out what is done with."""

    def feed(self, chunk: bytes, begins: Position, deliver_from: Position | None = None) -> list[Finished]:
        """Take whole lines that begin at `begins`; the traces that ended in them.

        What ended up to `deliver_from` is passed over without being put together: it was delivered.
        """
        finished: list[Finished] = []
        for line in lines.split(chunk):
            at = Position(begins.segment, begins.offset + line.end)
            skip = deliver_from is not None and at <= deliver_from
            if line.kind == _PASSES:
                if not skip:
                    self._add(finished, at, lambda line=line: FinishedTrace(lines.passing(line), None))
                continue
            trace = self.open.get(line.trace)
            if trace is None:
                trace = self.open[line.trace] = _OpenTrace()
            self._place(trace, line, at.segment)
            if line.kind == _ENDS:
                self._close(line.trace, at)
                if not skip:
                    self._add(finished, at, lambda trace=trace, line=line: finish(line.trace, trace.lines))
        return finished

    def _place(self, trace: _OpenTrace, line: Line, segment: int) -> None:
        numbered = _NUMBER.match(line.payload)
        number = int(numbered[1]) if numbered is not None else -1 - len(trace.placed)
        known = trace.placed.get(number)
        if known is not None:
            self.live_bytes[known[0]] -= len(known[1].raw)
        trace.placed[number] = segment, line
        self.live_bytes[segment] += len(line.raw)

    def _close(self, trace_hex: bytes, at: Position) -> None:
        placed = self.open.pop(trace_hex).placed.values()
        for segment, line in placed:
            self.live_bytes[segment] -= len(line.raw)
        first = min(segment for segment, _ in placed)
        if first < at.segment:
            self.reaching_back.append(ReachesBack(at, first))

    def _add(self, finished: list[Finished], at: Position, make: object) -> None:
        try:
            trace = make()  # type: ignore[operator]
        except Exception:  # noqa: BLE001 - a line of ours that cannot be read must not stop those behind it
            health.internal_error("joiner")
            return
        if trace is not None:
            finished.append(Finished(at, trace))

    def rest(self, segment: int) -> list[Finished]:
        """The traces that have no end, because their process died; in the order in which they began.

        Each is given a place of its own in `segment`, one behind all that were written: cursors tell them apart.
        """
        finished: list[Finished] = []
        for place, (trace_hex, trace) in enumerate(self.open.items(), 1):
            at = Position(segment, place)
            self._add(finished, at, lambda h=trace_hex, t=trace: finish(h, t.lines))
        self.open.clear()
        return finished


def with_record(spans: Sequence[SpanData], *, export_spans: bool) -> FinishedTrace:
    """Fold a trace, and put on its root what it came to."""
    folded = fold.fold_trace(spans)
    if folded is None:
        return FinishedTrace(spans, None, export_spans)
    root = spans[0]
    attributes = dict(root.attributes)
    for name, value in record.root_attributes(folded).items():
        if len(attributes) >= MAX_SPAN_ATTRIBUTES and name not in attributes:
            break  # dozens of different phases: their durations stand in the record and on their spans
        attributes[name] = value
    root = root._replace(attributes=attributes)
    return FinishedTrace([root, *spans[1:]], folded, export_spans)


def finish(trace_hex: bytes, of_trace: Iterable[Line]) -> FinishedTrace | None:
    """Put a trace together from its lines; None where its first line is missing."""
    assembled = lines.assemble(trace_hex, of_trace)
    if assembled is None:
        return None
    return with_record(assembled.spans, export_spans=assembled.export_spans)

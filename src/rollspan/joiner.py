"""From the journal's lines to finished traces: one way for live, dead and kept journals."""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from . import fold, health, lines
from .attributes import MAX_SPAN_ATTRIBUTES
from .journal import Position
from .lines import Line
from .record import Record, root_attributes
from .spandata import FinishedTrace
from .usual import usual_session

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
        segment, offset = begins
        open_traces = self.open
        for line in lines.split(chunk):
            kind, trace_hex, _, end = line
            if kind == _PASSES:
                at = Position(segment, offset + end)
                if deliver_from is None or at > deliver_from:
                    self._add(finished, at, _pass, line)
                continue
            trace = open_traces.get(trace_hex)
            if trace is None:
                trace = open_traces[trace_hex] = _OpenTrace()
            self._place(trace, line, segment)
            if kind == _ENDS:
                at = Position(segment, offset + end)
                self._close(trace_hex, at)
                if deliver_from is None or at > deliver_from:
                    self._add(finished, at, finish, trace_hex, trace.lines)
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

    def _add(
        self, finished: list[Finished], at: Position, make: Callable[..., FinishedTrace | None], *given: Any
    ) -> None:
        try:
            trace = make(*given)
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
            self._add(finished, at, finish, trace_hex, trace.lines)
        self.open.clear()
        return finished


def _put_on_root(attributes: dict[str, Any], record: Record) -> None:
    """Add to the root's attributes what the session came to."""
    room = max(MAX_SPAN_ATTRIBUTES, len(attributes))
    attributes.update(root_attributes(record))
    while len(attributes) > room:  # dozens of phases: their durations stand in the record and on their spans
        attributes.popitem()


def _pass(line: Line) -> FinishedTrace:
    return FinishedTrace(lines.passing(line), None)


def finish(trace_hex: bytes, of_trace: Iterable[Line]) -> FinishedTrace | None:
    """Put a trace together from its lines; None where its first line is missing."""
    parts = lines.parts_of(of_trace)
    usual = usual_session(trace_hex, parts)
    if usual is not None:
        spans, record = usual
        _put_on_root(spans[0].attributes, record)  # type: ignore[arg-type]
        return FinishedTrace(spans, record, parts[0].get("x", True))
    assembled = lines.assemble_parts(trace_hex, parts)
    if assembled is None:
        return None
    folded = fold.fold_trace(assembled.spans)
    if folded is not None:
        _put_on_root(assembled.spans[0].attributes, folded)  # type: ignore[arg-type]
    return FinishedTrace(assembled.spans, folded, assembled.export_spans)

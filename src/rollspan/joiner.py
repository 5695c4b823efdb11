"""From the journal's lines to finished traces: one way for live, dead and kept journals."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from functools import partial
from operator import itemgetter
from typing import Final, NamedTuple, TypeAlias

from . import fold, health, lines
from .finished import FinishedTrace
from .journal import Position
from .lines import JSON_AT, KIND_AT, TRACE
from .rows import with_record
from .shapes import see
from .usual import seen_session, usual_session

_ENDS = lines.ENDS[0]
_PASSES = lines.PASSES[0]


# A named tuple's own constructor is a function in Python.
_position: Final[Callable[[tuple[int, int]], Position]] = partial(tuple.__new__, Position)


class ReachesBack(NamedTuple):
    """A trace that ended in a later segment than the first that holds a line of it."""

    end: Position
    first_segment: int


_OpenTrace: TypeAlias = dict[bytes, tuple[int, bytes]]
"""Lines by number, each with its segment. A line that comes again, carried forward, lies where it came last."""


class Joiner:
    """Collects the lines of open traces until their last one comes."""

    def __init__(self) -> None:
        self.open: dict[bytes, _OpenTrace] = {}
        self.live_bytes: Counter[int] = Counter()
        """What the lines of open traces take, by segment."""
        self.reaching_back: deque[ReachesBack] = deque()
        """In the order of their ends; whoever reads the journal for good takes out what is done with."""

    def feed(
        self, chunk: bytes, begins: Position, deliver_from: Position | None = None
    ) -> list[FinishedTrace]:
        """Take whole lines that begin at `begins`; the traces that ended in them.

        What ended up to `deliver_from` is passed over without being put together: it was delivered.
        """
        finished: list[FinishedTrace] = []
        segment, offset = begins
        open_traces, live_bytes = self.open, self.live_bytes
        live_here = 0
        for line, end in lines.split(chunk):
            if line[KIND_AT] == _PASSES:
                trace = None
            else:
                trace_hex = line[TRACE]
                trace = open_traces.get(trace_hex)
                if trace is None:
                    trace = open_traces[trace_hex] = {}
                number = line[JSON_AT : line.find(b",", JSON_AT)]
                if number in trace:
                    before, same = trace[number]
                    live_bytes[before] -= len(same)
                trace[number] = segment, line
                live_here += len(line)
                if line[KIND_AT] != _ENDS:
                    continue
                del open_traces[trace_hex]
                first = segment
                for where, each in trace.values():
                    if where == segment:
                        live_here -= len(each)
                    else:
                        live_bytes[where] -= len(each)
                        first = min(first, where)
                if first < segment:
                    self.reaching_back.append(ReachesBack(_position((segment, offset + end)), first))
            at = _position((segment, offset + end))
            if deliver_from is None or at > deliver_from:
                self._add(finished, at, line, trace)
        if live_here:
            live_bytes[segment] += live_here
        return finished

    def _add(
        self, finished: list[FinishedTrace], at: Position, last: bytes, trace: _OpenTrace | None
    ) -> None:
        try:
            whole = _pass(last) if trace is None else finish(last[TRACE], lines_of(trace))
        except Exception:  # noqa: BLE001 - a line of ours that cannot be read must not stop those behind it
            health.internal_error("joiner")
            return
        if whole is not None:
            whole.at = at
            finished.append(whole)

    def rest(self, segment: int) -> list[FinishedTrace]:
        """The traces that have no end, because their process died; in the order in which they began.

        Each is given a place of its own in `segment`, one behind all that were written: cursors tell them apart.
        """
        finished: list[FinishedTrace] = []
        for place, trace in enumerate(self.open.values(), 1):
            at = Position(segment, place)
            self._add(finished, at, lines_of(trace)[-1], trace)
        self.open.clear()
        return finished


def _pass(line: bytes) -> FinishedTrace:
    return FinishedTrace(lines.passing(line), None)


def lines_of(trace: _OpenTrace) -> list[bytes]:
    """Those of an open trace, in the order in which they were met."""
    return list(map(itemgetter(1), trace.values()))


def finish(trace_hex: bytes, unparsed: list[bytes]) -> FinishedTrace | None:
    """Put a trace together from its lines; None where its first line is missing."""
    seen = seen_session(trace_hex, unparsed)
    if seen is not None:
        return seen
    given = list(map(lines.part_of, unparsed))
    usual = usual_session(trace_hex, given)
    if usual is not None:
        if usual.shape is not None:
            see(usual.shape, usual.values, trace_hex.decode(), unparsed)
        return usual
    parts = lines.by_number(given)
    lines.describe_parts(parts)
    assembled = lines.assemble_parts(trace_hex, parts)
    if assembled is None:
        return None
    spans = list(assembled.spans)
    folded = fold.fold_trace(spans)
    if folded is not None:
        spans[0] = spans[0]._replace(attributes=with_record(spans[0].attributes, folded))
    return FinishedTrace(spans, folded, assembled.export_spans)

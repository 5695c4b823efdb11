"""The rows of a waterfall: one per interval of a record, in order, nested.

A record holds the intervals of phases, but neither those of waits nor who is whose child. What can be
derived honestly is derived; a wait that the record does not place gets a row without a bar.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from rollspan import semconv
from rollspan.record import Record
from rollspan.view.reading import intervals, submitted, total
from rollspan.view.text import number

_EDGE = 2e-6  # epoch seconds as floats are good to some 0.2 µs
_SUM = 1e-5


@dataclass
class Row:
    """One bar: its intervals in seconds since the submission (several once rows were merged)."""

    name: str
    spans: list[tuple[float, float]]
    seconds: float
    is_wait: bool = False
    children: list[Row] = field(default_factory=list)
    depth: int = 0

    @property
    def start(self) -> float:
        return min((start for start, _ in self.spans), default=float("inf"))


def rows(record: Record, most: int) -> tuple[list[Row], int]:
    """At most `most` rows in the order of showing, and how many were left out.

    Too many rows: siblings of one name become one row; where that is not enough, the shortest go.
    """
    top = sorted(_phase_tree(record) + _waits(record), key=lambda row: row.start)
    result = list(_walk(top))
    if len(result) > most:
        result = list(_walk(_merged(top)))
    if len(result) <= most:
        return result, 0
    keep = sorted(result, key=lambda row: (not row.is_wait, -row.seconds))[:most]
    kept = {id(row) for row in keep}
    return [row for row in result if id(row) in kept], len(result) - len(keep)


def _phase_tree(record: Record) -> list[Row]:
    """Phases nested by containment, never below one of the same name (those ran side by side)."""
    begin, end_of_all = submitted(record), total(record)
    found = [
        Row(name, [(start - begin, max(start - begin, end_of_all if end is None else end - begin))], 0.0)
        for name, spans in intervals(record).items()
        for start, end in spans
    ]
    found.sort(key=lambda row: (row.spans[0][0], -row.spans[0][1], row.name != semconv.EXECUTION, row.name))
    top: list[Row] = []
    open_rows: list[Row] = []
    for row in found:
        start, end = row.spans[0]
        row.seconds = end - start
        open_rows = [other for other in open_rows if other.spans[0][1] >= start - _EDGE]
        holders = (other for other in reversed(open_rows) if _holds(other, row))
        parent = next(holders, None)
        (top if parent is None else parent.children).append(row)
        open_rows.append(row)
    return top


def _holds(outer: Row, inner: Row) -> bool:
    (start, end), (inner_start, inner_end) = outer.spans[0], inner.spans[0]
    if outer.name == inner.name or end - start < inner_end - inner_start - _EDGE:
        return False
    touches = inner_start >= end - _EDGE and inner_end > inner_start + _EDGE
    return start <= inner_start + _EDGE and inner_end <= end + _EDGE and not touches


def _waits(record: Record) -> list[Row]:
    begin, length = submitted(record), total(record)

    def since(key: str) -> float | None:
        stamp = number(record, key)
        return None if stamp is None else stamp - begin

    runs = sorted(
        (start - begin, length if end is None else end - begin)
        for start, end in intervals(record).get(semconv.EXECUTION, [])
    )
    queue = number(record, f"{semconv.QUEUE_WAIT}_s") or 0.0
    enqueued = since("enqueue_ts")
    handed_over = queue if enqueued is None else enqueued

    result = _placed(semconv.QUEUE_WAIT, queue, [[(0.0, handed_over)], [(0.0, queue)]], length)

    runner = number(record, f"{semconv.RUNNER_WAIT}_s") or 0.0
    gaps, free_since = [], handed_over
    for start, end in runs:
        if start > free_since:
            gaps.append((free_since, start))
        free_since = max(free_since, end)
    guesses = [gaps, gaps[:1]] if runs else [[(handed_over, handed_over + runner)]]
    result += _placed(semconv.RUNNER_WAIT, runner, guesses, length)

    post = number(record, f"{semconv.POST_WAIT}_s") or 0.0
    ended = max((end for _, end in runs), default=None)
    returned = since("wait_return_ts")
    over = length if returned is None else returned
    guess = (over - post, over) if ended is None else (ended, ended + post)
    return result + _placed(semconv.POST_WAIT, post, [[guess]], length)


def _placed(
    name: str, seconds: float, guesses: Iterable[list[tuple[float, float]]], length: float
) -> list[Row]:
    """Rows for the first guess that adds up to `seconds` and lies within the session; else one unplaced."""
    if seconds <= 0:
        return []
    for guess in guesses:
        fits = all(-_SUM <= start <= end <= length + _SUM for start, end in guess)
        if fits and abs(sum(end - start for start, end in guess) - seconds) <= _SUM:
            return [Row(name, [span], span[1] - span[0], is_wait=True) for span in guess]
    return [Row(name, [], seconds, is_wait=True)]


def _walk(siblings: list[Row], depth: int = 0) -> Iterator[Row]:
    for row in siblings:
        row.depth = depth
        yield row
        yield from _walk(row.children, depth + 1)


def _merged(siblings: list[Row]) -> list[Row]:
    groups: dict[tuple[str, bool], Row] = {}
    for row in siblings:
        same = groups.get((row.name, row.is_wait))
        if same is None:
            groups[row.name, row.is_wait] = Row(
                row.name, list(row.spans), row.seconds, row.is_wait, list(row.children)
            )
        else:
            same.spans += row.spans
            same.seconds += row.seconds
            same.children += row.children
    for row in groups.values():
        row.children = _merged(row.children)
    return list(groups.values())

"""Lanes: what overlaps on one thread without nesting, laid on tracks where everything nests."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

# Epoch microseconds as floats are good to a quarter of one, so neighbours may seem to overlap by that much.
_EDGE_NS = 300


@dataclass(slots=True)
class Slice:
    """An interval in nanoseconds and the event it stands for. A point has no length and takes no room."""

    start: int
    end: int
    event: dict[str, Any] = field(default_factory=dict)
    is_point: bool = False
    trace: str = ""
    span: str = ""
    parent: str = ""


def nest(slices: Iterable[Slice]) -> Iterator[tuple[int, Slice]]:
    """Each slice with its lane, from 0, in order of time.

    The intervals of a lane are disjoint or one in the other. One goes below what is open only where that may
    be its parent; what was made by another task of the same thread gets a lane of its own. An end is moved by
    a fraction of a microsecond where rounding has put it beyond its neighbour, which may be after the slice
    was yielded: use the slices once all have come.
    """
    lanes: list[list[Slice]] = []
    lane_of: dict[str, int] = {}
    for one in sorted(slices, key=lambda each: (each.start, each.is_point, -each.end)):
        home = lane_of.get(one.parent)
        if one.is_point:
            yield _innermost(lanes, one) if home is None else home, one
            continue
        candidates = range(len(lanes)) if home is None else [home, *range(len(lanes))]
        lane = next((at for at in candidates if _has_room(lanes[at], one, lane_of)), len(lanes))
        if lane == len(lanes):
            lanes.append([])
        lanes[lane].append(one)
        if one.span:
            lane_of[one.span] = lane
        yield lane, one


def _has_room(lane: list[Slice], one: Slice, known: dict[str, int]) -> bool:
    """Whether `one` may come next on a lane, of which the open slices are given; closes what is over by then."""
    while lane:
        top = lane[-1]
        if top.end > one.start:
            if one.end <= top.end + _EDGE_NS and _may_hold(top, one, known):
                one.end = min(one.end, top.end)
                return True
            if top.end > one.start + _EDGE_NS:
                return False
            top.end = one.start
        lane.pop()
    return True


def _may_hold(outer: Slice, inner: Slice, known: dict[str, int]) -> bool:
    """Whether `inner` may be below `outer`: it names it, or nothing says otherwise."""
    if not outer.span or not inner.span or inner.parent == outer.span:
        return True
    return inner.trace == outer.trace and inner.parent not in known


def _innermost(lanes: list[list[Slice]], point: Slice) -> int:
    """The lane on which a point lies inside of what began last."""
    begun = {
        at: open_there[-1].start
        for at, lane in enumerate(lanes)
        if (open_there := [each for each in lane if each.end >= point.start])
    }
    return max(begun, key=begun.__getitem__, default=0)

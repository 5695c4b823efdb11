"""Lengths of a session's waits and phases, in integer nanoseconds until they stand in the record."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Container, Mapping, Sequence
from functools import lru_cache
from operator import itemgetter
from typing import Any, Final

from . import semconv
from .record import MAX_DURATION_PHASES, Record
from .spandata import SpanData

SECOND: Final = 1_000_000_000  # an int: int / int rounds once, so half a second comes out as .5

KNOWN_PHASES: Final = (semconv.EXECUTION, semconv.GENERATE, semconv.REWARD, semconv.TOOLCALL)
_WAIT_FIELDS: Final = {name: f"{name}_s" for name in semconv.WAITS}
GENERATE_PAUSED: Final = "generate_paused_s"
# Phases whose `<phase>_s` would be a field that means something else.
_TAKEN_NAMES: Final = semconv.WAITS | {"total", "unattributed", "reward_calc", "generate_paused"}

# Start, end, name.
Wait = tuple[int, int, str]
# Start, minus the end (so that what encloses sorts first), name, span id, parent id, attributes.
Work = tuple[int, int, str, int, int, Mapping[str, Any]]
Interval = tuple[int, int]

_minus_end = itemgetter(0)


def measure_waits(
    waits: Sequence[Wait], work: Sequence[Work], start: int
) -> tuple[dict[str, int], list[Interval], int | None]:
    """Sum per wait in ns by the record's field, the waits' intervals, and when the session was enqueued.

    Waits never overlap; where some do all the same, the later one begins when the earlier one ends.
    """
    sums: dict[str, int] = {}
    intervals: list[Interval] = []
    free = start
    begun_waiting = left_queue = None
    for begun, ended, name in waits:
        since = begun if begun > free else free
        free = ended if ended > since else since
        field = _WAIT_FIELDS[name]
        sums[field] = sums.get(field, 0) + free - since
        intervals.append((since, free))
        if name == semconv.RUNNER_WAIT and begun_waiting is None:
            begun_waiting = since
        elif name == semconv.QUEUE_WAIT and left_queue is None:
            left_queue = free
    if left_queue is None:
        return sums, intervals, begun_waiting
    went_on = begun_waiting is not None or (bool(work) and work[-1][0] >= left_queue)
    return sums, intervals, left_queue if went_on else None


def measure_phases(work: Sequence[Work], record: Record) -> dict[str, list[dict[str, float]]]:
    """The record's `phases`; the sums and the lengths of the unions go into `record`."""
    phases: dict[str, list[dict[str, float]]] = {}
    sums: dict[str, int] = {}
    for item in work:
        begun, ended, name = item[0], -item[1], item[2]
        entry = {"start_ts": begun / SECOND, "end_ts": ended / SECOND}
        if name in phases:
            phases[name].append(entry)
            sums[name] += ended - begun
        else:
            phases[name] = [entry]
            sums[name] = ended - begun
    unions = _unions(work) if len(sums) < len(work) else sums
    for name, field, wall_field in _duration_fields(tuple(sums)):
        total = sums[name]
        record[field] = total / SECOND
        if unions[name] != total:
            record[wall_field] = unions[name] / SECOND
    return phases


def _unions(work: Sequence[Work]) -> dict[str, int]:
    """Length of the union of each phase's intervals."""
    lengths: dict[str, int] = {}
    ends: dict[str, int] = {}
    for begun, minus_end, name, _, _, _ in work:
        free = ends.get(name, begun)
        ended = max(-minus_end, free)
        lengths[name] = lengths.get(name, 0) + ended - max(begun, free)
        ends[name] = ended
    return lengths


@lru_cache(maxsize=1024)
def _duration_fields(names: tuple[str, ...]) -> list[tuple[str, str, str]]:
    """Which phases have duration fields, and their names; sessions of a job mostly have the same phases."""
    return [(name, f"{base}_s", f"{base}_wall_s") for name, base in _base_names(names)]


def _base_names(names: Sequence[str]) -> list[tuple[str, str]]:
    """Which phases have duration fields, and under which name."""
    if len(names) > MAX_DURATION_PHASES:
        known = [name for name in names if name in KNOWN_PHASES]
        others = [name for name in names if name not in KNOWN_PHASES]
        names = known + others[: MAX_DURATION_PHASES - len(known)]
    pairs = [(name, _base_name(name)) for name in names]
    if len({base for _, base in pairs}) == len(pairs):
        return pairs
    # Both "total" and "total_": the one that has its own name keeps it.
    pairs.sort(key=lambda pair: pair[0] != pair[1])
    names_by_base: dict[str, str] = {}
    for name, base in pairs:
        free = base
        while free in names_by_base:
            free += "_"
        names_by_base[free] = name
    return [(name, base) for base, name in names_by_base.items()]


def add_leaves(
    unique: Mapping[int, SpanData], work: Sequence[Work], root_id: int, intervals: list[Interval]
) -> None:
    """Append the intervals of the phases that have no phase below them."""
    ids = {item[3] for item in work}
    inner = set()
    lost = set()  # ids of phases below a span that is lacking
    for item in work:
        above = item[4]
        if above == root_id:
            continue
        if above in ids and above != item[3]:
            inner.add(above)
            continue
        seen = {item[3]}
        while above in unique and above not in ids and above != root_id and above not in seen:
            seen.add(above)  # a span that is no phase
            above = unique[above].parent_id
        if above in ids and above not in seen:
            inner.add(above)
        elif above not in unique:
            lost.add(item[3])
    if lost:
        inner |= _holders(work, lost)
    intervals.extend((item[0], -item[1]) for item in work if item[3] not in inner)


def _holders(work: Sequence[Work], lost: Container[int]) -> set[int]:
    """The phases around the `lost` ones: the innermost that is called as `rollout.parent_phase` says."""
    holders = set()
    # By name, the phases that may still be an innermost one: (minus the end, id), the ends descending.
    candidates: dict[str, list[tuple[int, int]]] = {}
    for _, minus_end, name, span_id, _, attributes in work:
        if span_id in lost:
            wanted = attributes.get(semconv.PARENT_PHASE)
            around = candidates.get(wanted, ()) if type(wanted) is str else ()
            at = bisect_right(around, minus_end, key=_minus_end)
            if at:
                holders.add(around[at - 1][1])
        same = candidates.setdefault(name, [])
        while same and same[-1][0] >= minus_end:  # began earlier and ends no later: never the innermost
            same.pop()
        same.append((minus_end, span_id))
    return holders


def covered(intervals: list[Interval]) -> int:
    """Length of the union of `intervals` in ns."""
    intervals.sort()
    total = 0
    free = intervals[0][0] if intervals else 0
    for begun, ended in intervals:
        if ended > free:
            total += ended - (begun if begun > free else free)
            free = ended
    return total


def _base_name(phase: str) -> str:
    """What `_s` and `_wall_s` are put behind."""
    if phase == semconv.REWARD:
        return "reward_calc"
    return f"{phase}_" if phase in _TAKEN_NAMES or phase.endswith("_wall") else phase

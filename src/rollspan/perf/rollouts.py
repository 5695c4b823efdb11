"""Sessions on the timeline: nested slices of their waits and phases, those of one group together."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

from rollspan.perf.lanes import Slice, nest
from rollspan.perf.output import Output
from rollspan.record import Record
from rollspan.view.reading import label, submitted, total
from rollspan.view.tree import Row, rows

_CATEGORY = "rollout"


class Owner(NamedTuple):
    """Whose a session is."""

    rank: int
    role: str


def owner(record: Record) -> Owner:
    """The rank and role of a record; 0 and none where it says neither."""
    rank, role = record.get("rank"), record.get("role")
    return Owner(rank if isinstance(rank, int) else 0, str(role or ""))


def interval(record: Record, shift: int) -> tuple[int, int]:
    """Begin and end of a session, in nanoseconds."""
    begin = round(submitted(record) * 1e9) + shift
    return begin, begin + round(total(record) * 1e9)


def short_name(record: Record) -> str:
    """How a session is called in the timeline."""
    return label(record, 8) if record.get("session_id") is None else str(record["session_id"])[:8]


def write_session(record: Record, shift: int, pid: int, output: Output, flow: str | None) -> None:
    """Write a session as nestable async events of the process `pid`; `flow` is what a step is bound by.

    Viewers put what begins with slices of one name under one another, so the group's name is the outermost.
    What ran beside another phase without nesting gets an id of its own below the same name, and says whose it is.
    """
    group = _group(record)
    lanes: dict[int, list[Slice]] = {}
    for lane, one in nest(_slices(record, shift, flow)):
        lanes.setdefault(lane, []).append(one)
    for lane, slices in lanes.items():
        if lane > 0:
            for one in slices:
                one.event["args"] = {"session_id": record.get("session_id")}
        # A local id: what bears a global one Perfetto shows outside of all processes.
        common = {"cat": _CATEGORY, "id2": {"local": f"{output.number():#x}"}, "pid": pid, "tid": pid}
        whole = Slice(slices[0].start, max(one.end for one in slices), {"name": group})
        for kind, at, event in _begins_and_ends([whole, *slices]):
            output.event({**event, **common, "ph": kind}, at)


def _slices(record: Record, shift: int, flow: str | None) -> Iterator[Slice]:
    begin, end = interval(record, shift)
    bound = {"bind_id": flow, "flow_out": True} if flow else {}
    name = f"session {short_name(record)} · {record.get('status')}"
    yield Slice(begin, end, {"name": name, "args": _flat(record), **bound}, span="session")

    def of(siblings: list[Row], parent: str) -> Iterator[Slice]:
        for number, row in enumerate(siblings):
            # A wait is nobody's parent but may have work in it, as a reward during `post_wait`.
            span = "" if row.is_wait else f"{parent}/{number}"
            for pair in row.spans:
                start, stop = (min(max(begin + round(at * 1e9), begin), end) for at in pair)
                yield Slice(start, stop, {"name": row.name}, span=span, parent=parent)
            yield from of(row.children, span)

    everything, _ = rows(record, sys.maxsize)
    yield from of([row for row in everything if row.depth == 0], "session")


def _begins_and_ends(nested: list[Slice]) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """The slices of one lane, the outer ones first, as begins and ends in order."""
    is_open: list[Slice] = []
    for one in nested:
        while is_open and is_open[-1].end <= one.start and len(is_open) > 1:
            over = is_open.pop()
            yield "e", over.end, {"name": over.event["name"]}
        is_open.append(one)
        yield "b", one.start, one.event
    for over in reversed(is_open):
        yield "e", over.end, {"name": over.event["name"]}


def _group(record: Record) -> str:
    for field, name in (("group_id", "group"), ("task_id", "task")):
        if (value := record.get(field)) is not None:
            return f"{name} {value}"
    return "sessions"


def _flat(record: Record) -> dict[str, Any]:
    return {key: value for key, value in record.items() if isinstance(value, str | int | float)}

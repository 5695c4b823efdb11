"""What is wrong with a Chrome trace, by the format's own rules and by those of Perfetto's importer."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

KEYS = {
    "X": {"name", "cat", "ts", "dur", "pid", "tid"},
    "i": {"name", "ts", "pid", "tid", "s"},
    "C": {"name", "ts", "pid", "args"},
    "b": {"name", "cat", "id2", "ts", "pid"},
    "e": {"name", "cat", "id2", "ts", "pid"},
    "s": {"name", "cat", "id", "ts", "pid", "tid"},
    "t": {"name", "cat", "id", "ts", "pid", "tid"},
    "f": {"name", "cat", "id", "ts", "pid", "tid"},
    "M": {"name", "pid", "args"},
}

Event = dict[str, Any]


def faults(trace: Any) -> list[str]:
    """All that is wrong with a trace; nothing where it is well-formed."""
    events = trace["traceEvents"]
    found = [*_keys(events), *_names(events), *_nesting(events), *_async(events), *_flows(events)]
    return found + ([] if trace["displayTimeUnit"] in ("ms", "ns") else ["displayTimeUnit"])


def ns(event: Event) -> int:
    """When an event begins."""
    return round(event["ts"] * 1000)


def end(event: Event) -> int:
    """When an event is over."""
    return ns(event) + round(event.get("dur", 0) * 1000)


def by_time(events: list[Event]) -> list[Event]:
    """The events as a reader takes them: by time, and as they stand in the file where that is equal."""
    return sorted((event for event in events if event["ph"] != "M"), key=ns)


def _keys(events: list[Event]) -> Iterator[str]:
    for event in events:
        if missing := KEYS[event["ph"]] - event.keys():
            yield f"{sorted(missing)} missing in {event}"
        if event["ph"] != "M" and ns(event) < 0:
            yield f"before the beginning: {event}"
        if event.get("dur", 0) < 0:
            yield f"negative: {event}"


def _names(events: list[Event]) -> Iterator[str]:
    named = Counter((e["name"], e["pid"], e["tid"]) for e in events if e["ph"] == "M")
    yield from (f"{key} is named {times} times" for key, times in named.items() if times > 1)
    processes = {pid for name, pid, _ in named if name == "process_name"}
    threads = {(pid, tid) for name, pid, tid in named if name == "thread_name"}
    numbers = [tid for _, tid in threads] + list(processes)
    if len(numbers) != len(set(numbers)):
        yield "a number of a process or thread is given twice"
    for event in events:
        if event["pid"] not in processes:
            yield f"its process has no name: {event}"
        if event["ph"] in "Xistf" and (event["pid"], event["tid"]) not in threads:
            yield f"its thread has no name: {event}"


def _nesting(events: list[Event]) -> Iterator[str]:
    open_on: dict[Any, list[Event]] = defaultdict(list)
    for event in by_time([e for e in events if e["ph"] == "X"]):
        stack = open_on[event["tid"]]
        while stack and end(stack[-1]) <= ns(event):
            stack.pop()
        if stack and end(stack[-1]) < end(event):
            yield f"{event} is not within {stack[-1]}"
        stack.append(event)


def _async(events: list[Event]) -> Iterator[str]:
    open_by: dict[Any, list[Event]] = defaultdict(list)
    for event in by_time([e for e in events if e["ph"] in "be"]):
        stack = open_by[event["pid"], event["cat"], event["id2"]["local"]]
        if event["ph"] == "b":
            stack.append(event)
        elif not stack or stack[-1]["name"] != event["name"]:
            yield f"{event} does not end {stack[-1:]}"
        else:
            stack.pop()
    yield from (f"{stack} are not ended" for stack in open_by.values() if stack)


def _flows(events: list[Event]) -> Iterator[str]:
    for way in ("flow_out", "flow_in"):
        bound = Counter(e["bind_id"] for e in events if e.get(way))
        yield from (f"{key} is bound {times} times by {way}" for key, times in bound.items() if times > 1)
    going, coming = ({e["bind_id"] for e in events if e.get(way)} for way in ("flow_out", "flow_in"))
    if going ^ coming:
        yield f"flows with one end: {going ^ coming}"
    for event in events:
        if event["ph"] in "stf" and not any(
            e["ph"] == "X" and e["tid"] == event["tid"] and ns(e) <= ns(event) <= end(e) for e in events
        ):
            yield f"no slice to bind to: {event}"

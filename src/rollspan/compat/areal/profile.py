"""What torch's profiler recorded, as events of a tracer's process, on its clock and on lanes of their own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any, Final

_NAMES: Final = frozenset(
    {"process_name", "process_sort_index", "process_labels", "thread_name", "thread_sort_index"}
)

Lanes = MutableMapping[tuple[int, int], int]


def merged(
    trace: Mapping[str, Any], *, start_us: float, pid: int, who: Mapping[str, Any], lanes: Lanes
) -> Iterator[dict[str, Any]]:
    """Its events, the first of them at `start_us`. A thread's lane is the same each time: below 0, where no thread is.

    Raises RuntimeError where no event has a time.
    """
    events = [event for event in trace.get("traceEvents") or () if isinstance(event, Mapping)]
    times = [event["ts"] for event in events if isinstance(event.get("ts"), int | float)]
    if not events:
        return
    if not times:
        raise RuntimeError("the profile has no event with a time (`ts`)")
    shift = start_us - min(times)
    names = {
        _thread(event): event["args"].get("name")
        for event in events
        if event.get("name") == "thread_name" and isinstance(event.get("args"), Mapping)
    }
    for event in events:
        thread = _thread(event)
        if thread is None or (event.get("ph") == "M" and event.get("name") in _NAMES):
            continue
        if thread not in lanes:
            lane = lanes[thread] = -1 - len(lanes)
            name = f"[Profiler] {names.get(thread) or thread[1]}"
            yield {"name": "thread_name", "ph": "M", "pid": pid, "tid": lane, "args": {"name": name, **who}}
        args = event.get("args")
        own = {
            "pid": pid,
            "tid": lanes[thread],
            "args": {**(args if isinstance(args, Mapping) else {}), **who},
        }
        yield {**event, **({"ts": event["ts"] + shift} if event.get("ts") in times else {}), **own}


def _thread(event: Mapping[str, Any]) -> tuple[int, int] | None:
    """None for what the profiler keeps for itself: rows that are no process's."""
    try:
        pid, tid = int(event.get("pid", -1)), int(event.get("tid", -1))
    except (TypeError, ValueError):
        return None
    return (pid, tid) if pid >= 0 else None

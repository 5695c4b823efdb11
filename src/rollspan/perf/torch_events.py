"""What torch's profiler wrote, as slices on tracks of the process it ran in."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator
from typing import Any, NamedTuple

from rollspan import semconv
from rollspan.perf.lanes import Slice
from rollspan.perf.sources import Process, Source, as_process, as_slice

_FLOWS = frozenset("stf")
_KEPT = frozenset("XiCstf")


class Track(NamedTuple):
    """A thread of a process: one of its own, or one that only the profiler tells of, such as a GPU's stream."""

    process: Process
    tid: int
    torch: str = ""


def process_of(profile: dict[str, Any], source: Source, known: Iterable[Process]) -> Process:
    """The process that a profile is of: the known one that it names, else one of what it says of itself."""
    said = profile.get(semconv.PROCESS_EVENT)
    given = as_process(said if isinstance(said, dict) else {"host": profile.get("host_name")}, source.rank)
    same = (each for each in known if each[:-1] == given[:-1] and given.run in ("", each.run))
    return next(same, given)


def torch_slices(
    profile: dict[str, Any], process: Process, own: Container[int], shift: int, number: Callable[[], int]
) -> Iterator[tuple[Track, Slice]]:
    """The profile's events, each on its track.

    Threads of the process that are in `own` are that thread, all others get a track of their own; `number`
    gives numbers for flows, which each profile counts for itself.
    """
    base = profile.get("baseTimeNanoseconds", 0)
    shift += base if isinstance(base, int) else 0  # older ones say the time since the epoch itself
    names = _names(profile["traceEvents"])
    flows: dict[Any, int] = {}
    for event in profile["traceEvents"]:
        kind, pid, tid = event.get("ph"), event.get("pid"), event.get("tid")
        one = as_slice(event, shift) if kind in _KEPT else None
        if one is None:
            continue
        if kind in _FLOWS:
            known_as = (str(event.get("id")), event.get("cat"), event.get("name"))
            event["id"] = flows.get(known_as) or flows.setdefault(known_as, number())
        elif kind == "i":
            event["s"] = "t"
        is_own = pid == process.pid and isinstance(tid, int) and tid in own
        yield Track(process, tid) if is_own else Track(process, 0, _called(pid, tid, process, names)), one


def _names(events: list[dict[str, Any]]) -> dict[tuple[str, Any, Any], str]:
    """Names of threads and labels of processes, by what they name."""
    found = {}
    for event in events:
        args, kind = event.get("args"), event.get("name")
        if event.get("ph") == "M" and isinstance(args, dict):
            if kind == "thread_name":
                found["thread", event.get("pid"), event.get("tid")] = str(args.get("name"))
            elif kind == "process_labels":
                found["process", event.get("pid"), None] = str(args.get("labels"))
    return found


def _called(pid: Any, tid: Any, process: Process, names: dict[tuple[str, Any, Any], str]) -> str:
    thread = names.get(("thread", pid, tid), f"{tid}")
    if pid == process.pid:
        return f"torch: {thread}"
    return f"torch: {names.get(('process', pid, None), pid)} {thread}"

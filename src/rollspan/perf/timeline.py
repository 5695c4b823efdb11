"""The merge: the scopes, profiles and sessions of all ranks as one Chrome trace."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO, NamedTuple

from rollspan.perf.lanes import Slice, nest
from rollspan.perf.output import Output
from rollspan.perf.rollouts import Owner, interval, owner, short_name, write_session
from rollspan.perf.sources import Process, read_perf, read_profile
from rollspan.perf.survey import Survey, Window, step_number
from rollspan.perf.torch_events import Track, process_of, torch_slices
from rollspan.record import Record
from rollspan.view.text import number


@dataclass
class Contents:
    """What is in a timeline."""

    ranks: set[int] = field(default_factory=set)
    steps: set[int] = field(default_factory=set)
    sessions: int = 0
    scopes: int = 0
    profiles: int = 0


class Step(NamedTuple):
    """A step as it was written: where, and from when to when."""

    number: int
    rank: int
    start: int
    end: int
    pid: int
    tid: int

    def misses(self, at: int) -> int:
        """How far a time is outside of it."""
        return max(self.start - at, at - self.end, 0)


def write_timeline(survey: Survey, file: BinaryIO, window: Window | None = None) -> Contents:
    """Write all that was found to `file`, or what overlaps a window, and say what was written.

    A rank's events are held to sort them, one rank at a time.
    """
    writing = _Writing(survey, file, window)
    for rank in sorted({source.rank for source in [*survey.perf, *survey.profiles]}):
        writing.write_rank(rank)
    for record in survey.records:
        writing.write_record(record)
    writing.write_consumed()
    writing.output.end()
    return writing.contents


class _Writing:
    def __init__(self, survey: Survey, file: BinaryIO, window: Window | None) -> None:
        self.output = Output(file, survey.origin)
        self.contents = Contents()
        self._survey, self._window = survey, window
        self._pids: dict[Process | Owner, int] = {}
        self._steps: dict[int, list[Step]] = {}
        self._consumed: list[tuple[Step, int, str, str]] = []
        tracks: set[Process | Owner] = {*survey.processes, *map(owner, survey.records)}
        for each in sorted(tracks, key=lambda each: (_place(each), each)):
            self._pid(each)  # those made first are shown first

    def _pid(self, whose: Process | Owner) -> int:
        if whose not in self._pids:
            self._pids[whose] = self.output.process(_title(whose), _place(whose))
        return self._pids[whose]

    def write_rank(self, rank: int) -> None:
        """Write the scopes and profiles of a rank."""
        tracks: dict[Track, list[Slice]] = {}
        for track, one in self._slices(rank):
            if self._is_wanted(one.start, one.end):
                tracks.setdefault(track, []).append(one)
                self.contents.ranks.add(track.process.rank)
                self.contents.scopes += bool(one.span) and step_number(one) is None
        for track in sorted(tracks, key=_order):
            self._write_track(track, tracks.pop(track))

    def _slices(self, rank: int) -> Iterator[tuple[Track, Slice]]:
        """The events of a rank with their tracks, none twice: recovery may have written one again."""
        seen: set[tuple[str, str]] = set()
        own: dict[Process, set[int]] = {}
        for source in self._survey.perf:
            if source.rank != rank:
                continue
            for process, one in read_perf(source, self._survey.names, []):
                ids = (one.trace, one.span)
                if not self._survey.has(process.run) or (one.span and ids in seen):
                    continue
                seen.add(ids)
                shift = self._survey.shift(process)
                one.start, one.end = one.start + shift, one.end + shift
                tid: int = one.event["tid"]
                own.setdefault(process, set()).add(tid)
                yield Track(process, tid), one
        for source in self._survey.profiles:
            if source.rank != rank or not (profile := read_profile(source, [])):
                continue
            process = process_of(profile, source, self._survey.everyone)
            if self._survey.has(process.run):
                self.contents.profiles += 1
                threads, shift = own.get(process, ()), self._survey.shift(process)
                yield from torch_slices(profile, process, threads, shift, self.output.number)

    def _write_track(self, track: Track, slices: list[Slice]) -> None:
        pid = self._pid(track.process)
        name = track.torch or self._survey.names.get((track.process, track.tid), f"thread {track.tid}")
        tids: list[int] = []
        for lane, one in list(nest(slices)):  # to its end first, for ends may still be moved
            while lane >= len(tids):
                tids.append(self.output.thread(pid, f"{name} ({len(tids) + 1})" if tids else name))
            if (which := step_number(one)) is not None:
                self.contents.steps.add(which)
                step = Step(which, track.process.rank, one.start, one.end, pid, tids[lane])
                self._steps.setdefault(which, []).append(step)
            one.event.update(pid=pid, tid=tids[lane])
            self.output.event(one.event, one.start, None if one.is_point else one.end)

    def write_record(self, record: Record) -> None:
        """Write a session, and remember which step consumed it."""
        shift = self._survey.shift_of(record)
        begin, end = interval(record, shift)
        if not self._is_wanted(begin, end):
            return
        self.contents.ranks.add(owner(record).rank)
        self.contents.sessions += 1
        flow = None
        step, at = self._consumer(record, shift)
        if step is not None and at >= begin:  # a flow goes forward, whatever clocks say
            flow = f"{self.output.number():#x}"
            self._consumed.append((step, at, flow, short_name(record)))
        write_session(record, shift, self._pid(owner(record)), self.output, flow)

    def _consumer(self, record: Record, shift: int) -> tuple[Step | None, int]:
        """The step that a record says it was consumed by, and when: of its own rank where that one has it."""
        links, returned = record.get("links"), number(record, "wait_return_ts")
        wanted = links.get("consume_step") if isinstance(links, dict) else None
        if returned is None or not isinstance(wanted, int):
            return None, 0
        at = round(returned * 1e9) + shift
        steps, rank = self._steps.get(wanted, []), owner(record).rank
        step = min(steps, key=lambda each: (each.rank != rank, each.misses(at)), default=None)
        return step, at if step is None else min(max(at, step.start), step.end)

    def write_consumed(self) -> None:
        """Write the ends of flows, as points within the steps: a slice takes in one flow, a step many sessions.

        Points of one moment would be put into one another, so each has a nanosecond of its own.
        """
        next_free: dict[Step, int] = {}
        for step, returned, flow, name in sorted(self._consumed):
            at = max(returned, next_free.get(step, 0))
            next_free[step] = at + 1
            event = {"name": f"consume {name}", "cat": "rollout", "ph": "X", "pid": step.pid, "tid": step.tid}
            self.output.event({**event, "bind_id": flow, "flow_in": True}, at, at)

    def _is_wanted(self, start: int, end: int) -> bool:
        return self._window is None or self._window.overlaps(start, end)


def _place(whose: Process | Owner) -> int:
    """Ranks in order, of each its processes before its rollouts."""
    return 2 * whose.rank + isinstance(whose, Owner)


def _order(track: Track) -> tuple[Any, ...]:
    """In a process its main thread comes first, and last what only torch's profiler tells of."""
    return track.process, track.torch, track.tid != track.process.pid, track.tid


def _title(whose: Process | Owner) -> str:
    name = f"rank {whose.rank} {whose.role}".rstrip()
    if isinstance(whose, Owner):
        return f"rollouts, {name}"
    where = ", ".join(str(part) for part in (whose.host, whose.pid) if part)
    return f"{name} ({where})" if where else name

"""A first look through all that was recorded: who is in it, when it began, what the clocks need."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from rollspan.perf.clocks import Clocks
from rollspan.perf.lanes import Slice
from rollspan.perf.rollouts import interval, owner
from rollspan.perf.sources import Process, perf_sources, profile_sources, read_perf, read_profile
from rollspan.perf.torch_events import process_of, torch_slices
from rollspan.record import Record
from rollspan.view.files import load
from rollspan.view.reading import submitted


class Window(NamedTuple):
    """The part of a timeline that is wanted, in nanoseconds."""

    start: int
    end: int

    def overlaps(self, start: int, end: int) -> bool:
        """Whether something from `start` to `end` is partly inside."""
        return start <= self.end and end >= self.start


class Survey:
    """What is below a directory. Problems in the files are described in `problems`."""

    def __init__(self, directory: Path, problems: list[str]) -> None:
        everything = load(directory, problems)
        self.records = [record for record in everything if submitted(record) > 0]
        if untimed := len(everything) - len(self.records):
            problems.append(f"{directory}: left out: {untimed} records without a time, as submit_ts")
        self.perf, self.profiles = perf_sources(directory), profile_sources(directory)
        self.processes: set[Process] = set()
        self.names: dict[tuple[Process, int], str] = {}
        self._clocks = Clocks()
        self._first: dict[str, int] = {}
        self._steps: list[tuple[str, int, Slice]] = []
        for source in self.perf:
            for process, one in read_perf(source, self.names, problems):
                self._clocks.watch(process, one)
                self._note(process, one)
                if (number := step_number(one)) is not None:
                    self._steps.append((process.host, number, Slice(one.start, one.end)))
        for source in self.profiles:
            if profile := read_profile(source, problems):
                process = process_of(profile, source)
                for _, one in torch_slices(profile, process, (), 0, int):
                    self._note(process, one)
        self.shifts = self._clocks.shifts()
        self._hosts = {process.rank: process.host for process in sorted(self.processes, reverse=True)}

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to show."""
        return not (self.records or self.processes)

    @property
    def reference(self) -> str:
        """The host after whose clock the others are set."""
        return self._clocks.reference

    @property
    def origin(self) -> int:
        """When the first of all began, in nanoseconds since the epoch."""
        begun = [at + self.shifts.get(host, 0) for host, at in self._first.items()]
        begun += [interval(record, self.shift_of(record))[0] for record in self.records]
        return min(begun)

    def shift_of(self, record: Record) -> int:
        """What to add to a record's times: it was made on the host of its rank."""
        return self.shifts.get(self._hosts.get(owner(record).rank, ""), 0)

    def window(self, first: int, last: int) -> Window | None:
        """From when to when the steps of these numbers went, on all ranks; None where there are none."""
        found = [
            (one.start + self.shifts.get(host, 0), one.end + self.shifts.get(host, 0))
            for host, number, one in self._steps
            if first <= number <= last
        ]
        return Window(min(found)[0], max(end for _, end in found)) if found else None

    def step_numbers(self) -> set[int]:
        """The numbers of all steps."""
        return {number for _, number, _ in self._steps}

    def _note(self, process: Process, one: Slice) -> None:
        self.processes.add(process)
        self._first[process.host] = min(one.start, self._first.get(process.host, one.start))


def step_number(one: Slice) -> int | None:
    """The number of the step that a slice is, else None."""
    args = one.event.get("args")
    if one.event.get("cat") != "step" or one.is_point or not isinstance(args, dict):
        return None
    number = args.get("rollout.step")
    return number if isinstance(number, int) else None

"""A first look through all that was recorded: who is in it, when it began, what the clocks need."""

from __future__ import annotations

from collections.abc import Collection, Iterator
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


class Run:
    """What was seen of one run in files of scopes and profiles."""

    def __init__(self) -> None:
        self.clocks = Clocks()
        self.shifts: dict[str, int] = {}
        self.first: dict[Process, int] = {}
        self.steps: list[tuple[Process, int, Slice]] = []

    def note(self, process: Process, one: Slice) -> None:
        """Take a slice into account."""
        self.first[process] = min(one.start, self.first.get(process, one.start))


class Survey:
    """What is below a directory. Problems in the files are described in `problems`.

    What says no run is taken to be part of any.
    """

    def __init__(self, directory: Path, problems: list[str]) -> None:
        everything = load(directory, problems)
        self._records = [record for record in everything if submitted(record) > 0]
        if untimed := len(everything) - len(self._records):
            problems.append(f"{directory}: left out: {untimed} records without a time, as submit_ts")
        self.perf, self.profiles = perf_sources(directory), profile_sources(directory)
        self.names: dict[tuple[Process, int], str] = {}
        self._runs: dict[str, Run] = {}
        for source in self.perf:
            for process, one in read_perf(source, self.names, problems):
                run = self._runs.setdefault(process.run, Run())
                run.clocks.watch(process, one)
                run.note(process, one)
                if (number := step_number(one)) is not None:
                    run.steps.append((process, number, Slice(one.start, one.end)))
        for source in self.profiles:
            if profile := read_profile(source, problems):
                process = process_of(profile, source, self.everyone)
                for _, one in torch_slices(profile, process, (), 0, int):
                    self._runs.setdefault(process.run, Run()).note(process, one)
        for run in self._runs.values():
            run.shifts = run.clocks.shifts()
        self._by_rank = {(key, each.rank): each for each in self.everyone for key in ("", each.run)}
        self._chosen: Collection[str] = self.runs

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to show."""
        return not (self._records or self._runs)

    @property
    def runs(self) -> list[str]:
        """The ids of all runs, the one that began last at the end."""
        begun = {run_id: min(run.first.values()) for run_id, run in self._runs.items()}
        for record in self._records:
            run_id, at = run_of(record), interval(record, 0)[0]
            begun[run_id] = min(at, begun.get(run_id, at))
        return sorted(begun.keys() - {""}, key=lambda run_id: (begun[run_id], run_id))

    def choose(self, runs: Collection[str]) -> None:
        """Leave out all other runs."""
        self._chosen = runs

    def has(self, run_id: str) -> bool:
        """Whether what is of this run is wanted."""
        return not run_id or run_id in self._chosen

    @property
    def records(self) -> list[Record]:
        """The records of sessions."""
        return [record for record in self._records if self.has(run_of(record))]

    @property
    def everyone(self) -> list[Process]:
        """The processes of all runs."""
        return sorted(process for run in self._runs.values() for process in run.first)

    @property
    def processes(self) -> list[Process]:
        """The processes that left scopes or profiles, in the order of their ranks."""
        return [process for process in self.everyone if self.has(process.run)]

    @property
    def origin(self) -> int:
        """When the first of all began, in nanoseconds since the epoch."""
        begun = [self._runs[each.run].first[each] + self.shift(each) for each in self.processes]
        return min(begun + [interval(record, self.shift_of(record))[0] for record in self.records])

    def shift(self, process: Process) -> int:
        """What to add to a process's times, in nanoseconds."""
        run = self._runs.get(process.run)
        return 0 if run is None else run.shifts.get(process.host, 0)

    def shift_of(self, record: Record) -> int:
        """What to add to a record's times: it was made on the host of its rank."""
        process = self._by_rank.get((run_of(record), owner(record).rank))
        return 0 if process is None else self.shift(process)

    def moved(self) -> Iterator[tuple[str, str, int]]:
        """The hosts whose clocks are set, each with the one they are set after, and by how much."""
        for run_id, run in self._runs.items():
            if self.has(run_id):
                yield from ((host, run.clocks.reference, shift) for host, shift in run.shifts.items())

    def window(self, first: int, last: int) -> Window | None:
        """From when to when the steps of these numbers went, on all ranks; None where there are none."""
        found = [
            (one.start + self.shift(process), one.end + self.shift(process))
            for process, number, one in self._steps()
            if first <= number <= last
        ]
        return Window(min(found)[0], max(end for _, end in found)) if found else None

    def step_numbers(self) -> set[int]:
        """The numbers of all steps."""
        return {number for _, number, _ in self._steps()}

    def _steps(self) -> Iterator[tuple[Process, int, Slice]]:
        for run_id, run in self._runs.items():
            if self.has(run_id):
                yield from run.steps


def run_of(record: Record) -> str:
    """The id of the run that a record is of; empty where it says none."""
    return str(record.get("run_id") or "")


def step_number(one: Slice) -> int | None:
    """The number of the step that a slice is, else None."""
    args = one.event.get("args")
    if one.event.get("cat") != "step" or one.is_point or not isinstance(args, dict):
        return None
    number = args.get("rollout.step")
    return number if isinstance(number, int) else None

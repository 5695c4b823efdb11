"""What tracing one rollout costs, beside other ways of tracing it, in one interleaved run.

Ratios within a round are what counts: on a noisy machine the microseconds change from run to run, they do not.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import track

from . import areal_environment, report
from .contenders import AREAL, ENTRIES, Entry
from .driver import BenchmarkError, Child, Round, Sink, rounds, running

_NAMES = [entry.name for entry in ENTRIES]
# AReaL writes its file with each 256th session: with another number some of that would not be on the caller.
_SESSIONS = 1024


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 1 where something failed, or with --check a bound does not hold."""
    parser = _parser()
    asked = parser.parse_args(arguments)
    entries = [entry for entry in ENTRIES if entry.name not in asked.skip]
    if asked.profile:
        entries = [entry for entry in ENTRIES if entry.name == asked.profile]
    names = [entry.name for entry in entries]
    if not entries:
        parser.error("nothing is left to run")
    if asked.check and not {AREAL, *(bound.contender for bound in report.BOUNDS)} <= set(names):
        parser.error("--check compares rollspan-otlp with areal: neither can be left out")
    console = Console(highlight=False)
    notes = Console(stderr=True, highlight=False)
    try:
        pythons = {AREAL: str(areal_environment.python(notes.print))} if AREAL in names else {}
        # Contenders write where programs usually do, on a disk.
        with (
            tempfile.TemporaryDirectory(prefix="rollspan-bench-") as folder,
            running(entries, pythons, Path(folder)) as (sink, children),
        ):
            if asked.profile:
                _profile(console, children[0], asked.sessions)
                return 0
            return _compare(console, notes, asked, entries, sink, children)
    except (BenchmarkError, areal_environment.NoArealError) as error:
        notes.print(str(error), style="red", markup=False)
        return 1


def _compare(
    console: Console,
    notes: Console,
    asked: argparse.Namespace,
    entries: Sequence[Entry],
    sink: Sink,
    children: Sequence[Child],
) -> int:
    machine = report.machine()
    versions = {name: v for child in children for name, v in child.versions.items()}
    to = report.reference([entry.name for entry in entries])
    running_rounds = rounds(sink, children, asked.rounds, asked.sessions)
    done: list[Round] = list(
        track(running_rounds, "rounds", asked.rounds, console=notes, transient=True)
        if notes.is_terminal
        else running_rounds
    )
    report.show(console, entries, asked.sessions, done, to, machine, versions)
    measured = report.as_json(asked.sessions, done, to, machine, versions)
    if asked.json:
        asked.json.write_text(json.dumps(measured, indent=1) + "\n")
    return 1 if asked.check and not all(bound["holds"] for bound in measured["bounds"]) else 0


def _profile(console: Console, child: Child, sessions: int) -> None:
    child.ask("round", sessions)  # warm
    console.print(child.ask("profile", sessions)["profile"], markup=False, soft_wrap=True)
    console.print(
        "The calling thread alone. A profile makes calls dearer than they are: compare, do not add up."
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=_at_least(2), default=40, help="rounds that count (%(default)s)")
    parser.add_argument(
        "--sessions",
        type=_at_least(1),
        default=_SESSIONS,
        help="sessions in a round; AReaL's flush wants a multiple of 256 (%(default)s)",
    )
    parser.add_argument(
        "--skip",
        action="append",
        default=[],
        choices=_NAMES,
        metavar="NAME",
        help="leave one out: %(choices)s",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every round there too")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a bound does not hold")
    parser.add_argument(
        "--profile", choices=_NAMES, metavar="NAME", help="profile the calls of one contender instead"
    )
    return parser


def _at_least(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"{value} is less than {least}")
        return value

    return number


if __name__ == "__main__":
    sys.exit(main())

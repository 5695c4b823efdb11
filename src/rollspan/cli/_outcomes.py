"""What recovery and replay ask for and have to say."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import click

from rollspan import config, left, recovery
from rollspan.recovery import Outcome

_FEW = 10
_DEEPEST = 6  # so many folders below: AReaL's trial is the fourth below its `fileroot`, its run the fifth
_OF_AREAL = "session_tracer"  # where the drop-in for AReaL's tracer has files whose names are like ours


def _existing(context: click.Context, parameter: click.Parameter, directory: Path) -> Path:
    if not directory.is_dir() and not left.journals(directory):
        raise click.UsageError(
            f"No such directory: {directory}. Name the directory that the run wrote to (its ROLLSPAN_DIR)."
        )
    return directory


directory_argument = click.argument(
    "directory",
    metavar="[DIR]",
    envvar="ROLLSPAN_DIR",
    default="rollspan-data",
    type=click.Path(path_type=Path),
    callback=_existing,
)


def settings_for(directory: Path, endpoint: str | None) -> config.Settings:
    """The settings of this shell, for that data directory and endpoint. What is wrong with these is wrong use."""
    resolved = config.resolve(dir=directory, endpoint=endpoint)
    for problem in resolved.problems:
        if problem.variable.startswith("argument "):
            raise click.UsageError(str(problem).partition(";")[0])
    return resolved.settings


def _what(exporter: str) -> str:
    return "traces" if exporter.endswith("traces") else "records"


def report(outcomes: Sequence[Outcome]) -> int:
    """Print a line for each journal; 1 where something is left, else 0."""
    for outcome in outcomes:
        done = [f"{n} {_what(name)} to {name}" for name, n in outcome.delivered.items() if n]
        done += [f"{outcome.works} steps and other traces of scopes to file"] if outcome.works else []
        done += [f"thrown away what {name} did not take" for name in outcome.discarded]
        if outcome.gone:
            done.append(f"given up what lay in the memory of host {outcome.gone}")
        if done or not outcome.left_because:
            click.echo(f"{outcome.name}: {', '.join(done) or 'nothing that had not been delivered'}")
        if outcome.left_because:
            click.echo(f"{outcome.name}: something stays in the journal: {outcome.left_because}", err=True)
    return int(any(outcome.left_because for outcome in outcomes))


def folders_below(directory: Path) -> list[Path]:
    """The runs' folders below `directory`, where it is none itself: somebody named a folder above them."""
    if _is_a_runs(directory):
        return []
    found = []
    for name, below, _ in os.walk(directory):
        folder = Path(name)
        if _is_a_runs(folder):
            found.append(folder)
            below.clear()
        elif len(folder.relative_to(directory).parts) == _DEEPEST:
            below.clear()
        elif _OF_AREAL in below:
            below.remove(_OF_AREAL)
    return sorted(found)


def one_too_high(directory: Path) -> str:
    """That it is no run's folder, and which runs' are below it; "" where none is."""
    below = folders_below(directory)
    more = f" and {len(below) - _FEW} more" if len(below) > _FEW else ""
    named = ", ".join(map(str, below[:_FEW]))
    return f"{directory} is no run's folder. Below it are: {named}{more}" if below else ""


def _is_a_runs(folder: Path) -> bool:
    return (
        (folder / "journal").is_dir()
        or any(folder.glob("sessions-*.jsonl"))
        or any(folder.glob("perf-*.json"))
    )


def undelivered(directory: Path) -> str:
    """That some may lack, for processes of this run, or of those below, left journals; "" where none did."""
    found: dict[Path, int] = {}
    for folder in (directory, *folders_below(directory)):
        if number := sum(1 for _ in recovery.held(settings_for(folder, None))):
            found[folder] = number
    if not found:
        return ""
    number = sum(found.values())
    of = "journal of a process that is over is" if number == 1 else "journals of processes that are over are"
    commands = ", ".join(f"`rollspan recover {folder}`" for folder in list(found)[:_FEW])
    return f"{number} {of} not delivered yet, so rollouts and scopes may lack here; {commands} delivers what is in there"


def still_written(directory: Path) -> str:
    """That processes of this run, or of those below, go on, and what is not there yet; "" where none does."""
    found = {folder: n for folder in (directory, *folders_below(directory)) if (n := _writing_to(folder))}
    if not found:
        return ""
    number = sum(found.values())
    who = "1 process still writes" if number == 1 else f"{number} processes still write"
    commands = ", ".join(f"`rollspan show --open {folder}`" for folder in list(found)[:_FEW])
    return (
        f"{who} here: a step or session that is open, with all that is in it, comes into the files when it is over; "
        f"{commands} shows open rollouts"
    )


def _writing_to(folder: Path) -> int:
    """How many processes."""
    settings = settings_for(folder, None)
    number = 0
    for journal in left.journals(settings.dir, settings.journal_dir):
        with journal.locked() as standing:
            number += standing is left.Standing.HELD and not journal.kept
    return number

"""What recovery and replay ask for and have to say."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from rollspan import config, left
from rollspan.recovery import Outcome


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
        done += [f"thrown away what {name} did not take" for name in outcome.discarded]
        if outcome.gone:
            done.append(f"given up what lay in the memory of host {outcome.gone}")
        if done or not outcome.left_because:
            click.echo(f"{outcome.name}: {', '.join(done) or 'nothing that had not been delivered'}")
        if outcome.left_because:
            click.echo(f"{outcome.name}: something stays in the journal: {outcome.left_because}", err=True)
    return int(any(outcome.left_because for outcome in outcomes))


def folders_below(directory: Path) -> list[Path]:
    """The runs' folders in `directory`, where it is none itself: somebody named the folder above."""
    if _is_a_runs(directory):
        return []
    return sorted(folder for folder in directory.glob("*/") if _is_a_runs(folder))


def _is_a_runs(folder: Path) -> bool:
    return (folder / "journal").is_dir() or any(folder.glob("sessions-*.jsonl"))

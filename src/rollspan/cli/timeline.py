"""`rollspan timeline`: scopes, profiles and sessions of all ranks in one file that Perfetto opens."""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import click

from rollspan.cli._outcomes import settings_for, still_written, undelivered
from rollspan.cli._output import raw_output
from rollspan.perf.survey import Survey, Window
from rollspan.perf.timeline import Contents, write_timeline
from rollspan.view.files import shortened
from rollspan.view.text import count, duration, safe

_FEW = 10
_READ = re.compile(r"(sessions|perf|profile)-r\d")
_STEPS = re.compile(r"(\d+)(?:-(\d+))?", re.ASCII)


@click.command(name="timeline")
@click.argument("directory", metavar="[DIR]", envvar="ROLLSPAN_DIR", default="rollspan-data")
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    help="Where to write it: .gz at its end packs it, - is standard output. [default: DIR/timeline.json.gz]",
)
@click.option("--steps", metavar="A-B", help="Only what overlaps these steps, or a single one.")
@click.option(
    "--run", "run_id", metavar="ID", help="The run of this id, or how that begins. [default: the latest]"
)
@click.option("--all-runs", is_flag=True, help="All runs that wrote to DIR, together.")
@click.pass_context
def command(
    context: click.Context,
    directory: str,
    output: str | None,
    steps: str | None,
    run_id: str | None,
    all_runs: bool,
) -> None:
    """Put all ranks' scopes, profiles and rollouts into one file for https://ui.perfetto.dev.

    DIR is what ROLLSPAN_DIR named for the run [default: $ROLLSPAN_DIR, else ./rollspan-data]. What is in it and
    below, plain or packed, is merged: perf-r*.json with scopes and steps, profile-r*.json of torch's profiler,
    sessions-r*.jsonl with rollouts. The file is a Chrome trace, which other viewers open too.

    Exit codes: 0; 1 nothing found, or something damaged (the good is written); 2 wrong use.
    """
    folder = Path(directory)
    wanted = None if steps is None else _numbers(steps)
    if not folder.is_dir():
        raise click.UsageError(
            f"No such directory: {directory}. Name the one that the run wrote to, its ROLLSPAN_DIR; without "
            "ROLLSPAN_ENABLED=1 in the run's environment nothing is recorded."
        )
    problems: list[str] = []
    survey = Survey(folder, problems)
    for said in [*shortened(problems), undelivered(folder), still_written(folder)]:
        if said:
            _tell(said)
    if survey.is_empty:
        _tell(
            f"nothing found in {directory}; expected files named perf-r*.json, profile-r*.json or sessions-r*.jsonl "
            "in it or below. A run writes them with ROLLSPAN_ENABLED=1."
        )
        context.exit(1)
    if not all_runs:
        _choose(context, survey, run_id)
    window = None if wanted is None else _window(context, survey, *wanted)
    target = str(folder / "timeline.json.gz") if output is None else output
    if _READ.match(Path(target).name):
        raise click.UsageError(
            f"-o {safe(target, 400)}: that is the name of a file that is read; give it another."
        )
    try:
        with _opened(target, settings_for(folder, None).file_mode) as file:
            contents = write_timeline(survey, file, window)
    except OSError as error:
        _tell(f"cannot write {safe(target, 400)}: {error.strerror}; -o FILE names another place.")
        context.exit(1)
    for line in _said(survey, contents, target):
        click.echo(line, err=target == "-")
    context.exit(1 if problems else 0)


def _numbers(steps: str) -> tuple[int, int]:
    match = _STEPS.fullmatch(steps.strip())
    if match is None:
        raise click.UsageError(f"--steps {steps}: expected a step's number or two, as in 12 or 12-15.")
    first, last = int(match[1]), int(match[2] or match[1])
    if first > last:
        raise click.UsageError(f"--steps {steps}: expected the lower number first, as in {last}-{first}.")
    return first, last


def _choose(context: click.Context, survey: Survey, run_id: str | None) -> None:
    """Keep the runs that begin so, else the latest."""
    shown = ", ".join(map(safe, survey.runs[-_FEW:]))
    chosen = survey.runs[-1:] if run_id is None else [each for each in survey.runs if each.startswith(run_id)]
    if run_id is not None and not chosen:
        _tell(f"no run here begins with {run_id!r}; there are: {shown}")
        context.exit(1)
    if run_id is None and len(survey.runs) > 1:
        _tell(
            f"{len(survey.runs)} runs are in here, this is the latest; --run ID or --all-runs shows others: {shown}"
        )
    survey.choose(chosen)


def _window(context: click.Context, survey: Survey, first: int, last: int) -> Window:
    window = survey.window(first, last)
    if window is None:
        known = survey.step_numbers()
        there = f"there are {min(known)} to {max(known)}" if known else "no perf-r*.json here has any step"
        _tell(f"no step from {first} to {last}; {there}.")
        context.exit(1)
    return window


@contextmanager
def _opened(target: str, mode: int) -> Iterator[BinaryIO]:
    """The file to write to, with the permissions `mode`; one that has a name gets it once it is whole."""
    if target == "-":
        with raw_output() as file:
            yield file
        return
    if (
        Path(target).exists() and not Path(target).is_file()
    ):  # a device, a pipe: nothing that another may replace
        with Path(target).open("wb") as raw:
            yield raw
        return
    path = Path(target).resolve()  # what a link leads to, and not the link
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("wb") as raw:
            with suppress(OSError):  # a file system without permissions
                part.chmod(mode)
            if path.suffix == ".gz":
                packed: Any = gzip.GzipFile(path.stem, "wb", compresslevel=5, fileobj=raw)
                with packed:
                    yield packed
            else:
                yield raw
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _said(survey: Survey, contents: Contents, target: str) -> Iterator[str]:
    for host, reference, shift in survey.moved():
        word = "behind" if shift > 0 else "ahead of"
        off = duration(abs(shift) / 1e9)
        yield f"The clock of {safe(host)} is {off} {word} that of {safe(reference)}; set right here."
    parts = [
        (len(contents.ranks), "rank"),
        (len(contents.steps), "step"),
        (contents.sessions, "session"),
        (contents.scopes, "scope"),
        (contents.profiles, "profile"),
    ]
    found = ", ".join(f"{count(number)} {name}{'' if number == 1 else 's'}" for number, name in parts)
    yield f"{found}" if target == "-" else f"{found}: {safe(target, 400)}, for https://ui.perfetto.dev"


def _tell(message: str) -> None:
    click.echo(f"rollspan timeline: {message}", err=True)

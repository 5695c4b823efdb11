"""`rollspan show`: the table of a run and the waterfall of its slowest rollout, or what is open now."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import click
import orjson

from rollspan import recovery, view
from rollspan.cli._outcomes import one_too_high, undelivered
from rollspan.cli._output import print_parts, write_lines
from rollspan.record import Record, to_line

_FEW = 10


@click.command(name="show")
@click.argument("path", metavar="[DIR|FILE]", envvar="ROLLSPAN_DIR", default="rollspan-data")
@click.option(
    "--session",
    "wanted",
    metavar="ID",
    help="Only this rollout: its session or trace id, or how that begins.",
)
@click.option(
    "--slowest",
    metavar="N",
    type=click.IntRange(min=0),
    help="Waterfalls of the N slowest rollouts. [default: 1]",
)
@click.option(
    "--run", "run_id", metavar="ID", help="The run of this id, or how that begins. [default: the latest]"
)
@click.option("--all-runs", is_flag=True, help="All runs that wrote to DIR, together.")
@click.option(
    "--open",
    "is_open",
    is_flag=True,
    help="What is open now in a job that writes to DIR, or was when it died.",
)
@click.option(
    "--json", "as_json", is_flag=True, help="For programs: the figures, or the chosen records one a line."
)
@click.pass_context
def command(
    context: click.Context,
    path: str,
    wanted: str | None,
    slowest: int | None,
    run_id: str | None,
    all_runs: bool,
    is_open: bool,
    as_json: bool,
) -> None:
    """Show the rollouts that a run recorded: how they ended, where their time went, the slowest to scale.

    DIR is what ROLLSPAN_DIR named for the run [default: $ROLLSPAN_DIR, else ./rollspan-data]; FILE holds
    records, or the record events or spans that an OpenTelemetry Collector wrote as OTLP/JSON lines; - is
    standard input.

    Exit codes: 0; 1 nothing found, or something damaged; 2 wrong use.
    """
    chosen = [name for name, given in _options(wanted, slowest, is_open) if given]
    if len(chosen) > 1:
        raise click.UsageError(f"{' and '.join(chosen)} exclude each other; give one of them.")
    if path != "-" and not Path(path).exists():
        raise click.UsageError(
            f"No such file or directory: {path}. Either nothing was recorded, as happens without "
            "ROLLSPAN_ENABLED=1 in the run's environment, or its ROLLSPAN_DIR is another: name the directory that "
            "the run wrote to, or a file of records."
        )
    if is_open:
        _show_open(context, path, as_json)
        return
    records, found_problem = _load(context, path)
    if wanted is not None:
        records = [_the_one(context, records, wanted, path)]
    elif not all_runs:
        records = _of_one_run(context, records, run_id)
    if as_json:
        _print_json(records, slowest, wanted)
    else:
        _print_text(records, slowest, wanted)
    context.exit(1 if found_problem else 0)


def _options(wanted: str | None, slowest: int | None, is_open: bool) -> list[tuple[str, bool]]:
    return [("--session", wanted is not None), ("--slowest", slowest is not None), ("--open", is_open)]


def _load(context: click.Context, path: str) -> tuple[list[Record], bool]:
    problems: list[str] = []
    records = view.load(path, problems)
    for problem in problems:
        _tell(problem)
    if Path(path).is_dir() and (said := undelivered(Path(path))):
        _tell(said)
    if not records:
        where = "standard input" if path == "-" else path
        looked = "files named sessions-r*.jsonl in and below " if path != "-" and Path(path).is_dir() else ""
        _give_up(
            context,
            f"no records found; looked for {looked or 'them in '}{where}. A run writes them with "
            "ROLLSPAN_ENABLED=1 as its rollouts end; `rollspan show --open DIR` shows those still open, "
            "`rollspan recover DIR` delivers what a killed process left.",
        )
    return records, bool(problems)


def _the_one(context: click.Context, records: list[Record], wanted: str, path: str) -> Record:
    found = view.find(records, wanted)
    if not found:
        _give_up(
            context,
            f"no rollout with a session or trace id of {wanted!r}, or one that begins so, is among the "
            f"{len(records)} in {path}; `rollspan show --json --slowest {len(records)} {path}` lists all.",
        )
    if len(found) > 1:
        ids = [view.safe(record.get("session_id", record.get("trace_id", "?"))) for record in found[:_FEW]]
        more = f"\n  and {len(found) - _FEW} more" if len(found) > _FEW else ""
        listed = "\n  ".join(ids) + more
        _give_up(context, f"{len(found)} rollouts fit {wanted!r}; give more of the id:\n  {listed}")
    return found[0]


def _of_one_run(context: click.Context, records: list[Record], run_id: str | None) -> list[Record]:
    """The records of the run that begins so, else of the one that submitted a rollout last."""
    if run_id is None:
        latest = max(records, key=lambda record: float(record.get("submit_ts", 0.0))).get("run_id")
        chosen = [record for record in records if record.get("run_id") == latest]
    else:
        chosen = [record for record in records if str(record.get("run_id", "")).startswith(run_id)]
    runs = sorted({str(record.get("run_id", "without an id")) for record in records})
    shown = ", ".join(map(view.safe, runs[-_FEW:]))
    if not chosen:
        _give_up(context, f"no run here begins with {run_id!r}; there are: {shown}")
    fit = sorted({str(record.get("run_id")) for record in chosen})
    if len(fit) > 1 and run_id not in fit:
        shown = ", ".join(map(view.safe, fit[-_FEW:]))
        _give_up(context, f"{len(fit)} runs begin with {run_id!r}, give more of the id: {shown}")
    if run_id in fit:
        chosen = [record for record in chosen if record.get("run_id") == run_id]
    if run_id is None and len(runs) > 1:
        _tell(
            f"{len(runs)} runs are in here, this is the latest; --run ID or --all-runs shows others: {shown}"
        )
    return chosen


def _print_json(records: list[Record], slowest: int | None, wanted: str | None) -> None:
    if wanted is None and slowest is None:
        figures = orjson.dumps(view.summary(records), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
        write_lines([figures])
        return
    write_lines(map(to_line, records if slowest is None else view.slowest(records, slowest)))


def _print_text(records: list[Record], slowest: int | None, wanted: str | None) -> None:
    parts: list[Any] = []
    if wanted is None:
        parts.append(view.summary_table(records))
        records = view.slowest(records, 1 if slowest is None else slowest)
    parts += map(view.waterfall, records)
    print_parts(parts)


def _show_open(context: click.Context, path: str, as_json: bool) -> None:
    if not Path(path).is_dir():
        raise click.UsageError(
            f"--open looks at a running job's directory (its ROLLSPAN_DIR); {path} is none."
        )
    sessions: list[Mapping[str, Any]] = view.by_age(recovery.open_sessions(Path(path)))
    if not sessions:
        _give_up(
            context,
            one_too_high(Path(path))
            or f"no rollout is open in a process that writes to {path}, running or dead. They show within "
            "ROLLSPAN_CHECKPOINT_INTERVAL (10 s) of what they do; finished ones: "
            f"`rollspan show {path}`.",
        )
    if as_json:
        write_lines(to_line(dict(session)) for session in sessions)
    else:
        print_parts([view.open_table(sessions, path)])


def _tell(message: str) -> None:
    click.echo(f"rollspan show: {message}", err=True)


def _give_up(context: click.Context, message: str) -> NoReturn:
    _tell(message)
    context.exit(1)

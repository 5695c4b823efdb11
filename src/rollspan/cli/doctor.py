"""`rollspan doctor`: how rollspan is set up here, what can be reached, and what is wrong."""

from __future__ import annotations

import json
import os
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from . import _checks


@click.command(name="doctor")
@click.argument("folder", metavar="[DIR]", required=False)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.pass_context
def command(context: click.Context, folder: str | None, as_json: bool) -> None:
    """Say how rollspan is set up here: settings and where each came from, endpoints, file systems, journals.

    DIR is what a run wrote to [default: $ROLLSPAN_DIR, else ./rollspan-data]. Each OTLP endpoint is sent an empty
    request, with the headers of the environment, to see whether it would take a run's.

    Exit codes: 0 all is well, 1 a problem was found, 2 wrong use.
    """
    if folder is not None and not os.path.isdir(folder):  # noqa: PTH112 - no other use of Path here
        raise click.UsageError(f"No such directory: {folder}. Name the directory that a run wrote to.")
    report = _checks.examine(folder, os.environ)
    if as_json:
        click.echo(json.dumps(report, indent=2))
    else:
        _print(report, Console())
    context.exit(1 if report["problems"] else 0)


def _print(report: dict[str, Any], console: Console) -> None:
    console.print(_settings(report["settings"]))
    if report["opentelemetry"]:
        table = _table("OpenTelemetry's variables", "variable", "value")
        for name, text in report["opentelemetry"].items():
            table.add_row(name, escape(text))
        console.print(table)
    if report["endpoints"]:
        table = _table("Endpoints", "signal", "endpoint", "takes data")
        for each in report["endpoints"]:
            word = {True: "yes", False: "no", None: "?"}[each["reachable"] and each["accepts"]]
            table.add_row(each["signal"], escape(each["endpoint"]), escape(f"{word} {each['error']}".strip()))
        console.print(table)
    console.print(_places(report["file_systems"]))
    journals = report["journals"]
    console.print(
        f"Journals of {escape(report['directory'])}: {journals['running']} of running processes, "
        f"{journals['left']} left behind, {journals['kept']} kept for replay",
        highlight=False,
        soft_wrap=True,
    )
    installed = ", ".join(f"{name} {number}" for name, number in report["versions"].items() if number)
    console.print(f"Versions: {escape(installed)}", highlight=False, soft_wrap=True)
    for note in report["notes"]:
        console.print(f"[cyan]note[/] {escape(note)}", highlight=False, soft_wrap=True)
    for problem in report["problems"]:
        console.print(f"[bold red]problem[/] {escape(problem)}", highlight=False, soft_wrap=True)
    if not report["problems"]:
        console.print("[green]No problem found.[/]")


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for index, column in enumerate(columns):
        table.add_column(column, overflow="fold", no_wrap=index == 0)
    return table


def _settings(settings: dict[str, Any]) -> Table:
    table = _table("Settings", "variable", "value", "from")
    for name, each in settings.items():
        variable = each["variables"][0] if each["variables"] else f"configure({name}=)"
        given = each["source"] not in ("default", "made")
        told = "this variable" if each["source"] == variable else each["source"]
        table.add_row(variable, escape(each["value"]), told, style="green" if given else None)
    return table


def _places(places: dict[str, Any]) -> Table:
    table = _table("File systems", "for", "folder", "type", "")
    free = places["data"]["free_bytes"]
    room = "" if free is None else f"{free / 2**30:.1f} GiB free"
    table.add_row("data", escape(places["data"]["folder"]), places["data"]["type"] or "unknown", room)
    for each in places["journal"]:
        word = "chosen" if each["chosen"] else ("next" if each["usable"] else "cannot be used")
        table.add_row("journal", escape(each["folder"]), each["type"] or "unknown", word)
    return table

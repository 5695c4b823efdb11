"""`rollspan recover`: deliver what dead processes left in their journals."""

from __future__ import annotations

from pathlib import Path

import click

from rollspan import recovery
from rollspan.cli._outcomes import directory_argument, one_too_high, report, settings_for


@click.command(name="recover")
@directory_argument
@click.option(
    "--endpoint",
    metavar="URL",
    help="Send traces and records to this OTLP endpoint instead of the run's own.",
)
@click.option("--timeout", default=60.0, show_default=True, metavar="SECONDS", help="For each dead process.")
@click.option(
    "--discard",
    is_flag=True,
    help="Throw away what no endpoint takes, once the file of records has its part; and go on without what lies in "
    "another host's memory.",
)
@click.option(
    "--to",
    metavar="OTHER",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write the file of records below this directory, where DIR takes no files.",
)
@click.pass_context
def command(
    context: click.Context,
    directory: Path,
    endpoint: str | None,
    timeout: float,
    discard: bool,
    to: Path | None,
) -> None:
    """Deliver the sessions of processes that died: to the file of records, and to where they were sent.

    DIR is the run's ROLLSPAN_DIR [default: $ROLLSPAN_DIR, else ./rollspan-data]. Run it on the machine where the
    processes ran: a journal may lie in that machine's memory. What live processes hold is left alone. It may be
    repeated: nothing gets into the file twice.

    Exit codes: 0; 1 something could not be delivered and stays; 2 wrong use.
    """
    outcomes = recovery.recover(
        settings_for(directory, endpoint),
        timeout=timeout,
        discard=discard,
        to=to.absolute() if to is not None else None,
    )
    if not outcomes and (said := one_too_high(directory)):
        click.echo(said, err=True)
        context.exit(2)
    if not outcomes:
        click.echo(f"Nothing to recover below {directory}: no process died here with sessions undelivered.")
    code = report(outcomes)
    if any("file" in outcome.unreached for outcome in outcomes):
        click.echo(
            f"Records cannot be written below {to or directory}; `rollspan recover {directory} --to OTHER` writes them "
            "below another directory.",
            err=True,
        )
    context.exit(code)

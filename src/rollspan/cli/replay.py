"""`rollspan replay`: send a kept journal to an endpoint."""

from __future__ import annotations

from pathlib import Path

import click

from rollspan import recovery
from rollspan.cli._outcomes import directory_argument, report, settings_for


@click.command(name="replay")
@directory_argument
@click.option("--endpoint", metavar="URL", help="OTLP endpoint [default: OTEL_EXPORTER_OTLP_ENDPOINT].")
@click.option(
    "--run", "run_id", metavar="ID", help="Only the run of this id, or how that begins. [default: all runs]"
)
@click.option(
    "--timeout", default=60.0, show_default=True, metavar="SECONDS", help="For each process of the run."
)
@click.pass_context
def command(
    context: click.Context, directory: Path, endpoint: str | None, run_id: str | None, timeout: float
) -> None:
    """Send the traces and records of runs that kept their journals (ROLLSPAN_JOURNAL_KEEP=1, or the demo's).

    Sent again, the spans are the same to the byte, so a backend that has them shows none twice. Records are log
    events, which have no id of their own: a backend that has them has them twice then.

    Exit codes: 0; 1 nothing found, or something could not be delivered; 2 wrong use.
    """
    settings = settings_for(directory, endpoint)
    if not (settings.traces_exporters or settings.records_exporters):
        raise click.UsageError("No endpoint. Give --endpoint, or set OTEL_EXPORTER_OTLP_ENDPOINT.")
    journals = recovery.replayable(settings)
    if not journals:
        click.echo(
            f"No journal below {directory}. A run keeps its journal only with ROLLSPAN_JOURNAL_KEEP=1; "
            "its records can be seen by `rollspan show`.",
            err=True,
        )
        context.exit(1)
    chosen = [left for left in journals if str(left.get("run_id", "")).startswith(run_id or "")]
    runs = ", ".join(
        sorted({str(left.get("run_id") or "a run without an id") for left in chosen or journals})
    )
    if not chosen:
        click.echo(f"No run kept below {directory} begins with {run_id!r}; there are: {runs}", err=True)
        context.exit(1)
    click.echo(f"Sending what was kept of {runs}")
    context.exit(report(recovery.replay(settings, chosen, timeout=timeout)))

"""`rollspan replay`: send a kept journal to an endpoint."""

from __future__ import annotations

from pathlib import Path

import click

from rollspan import config, recovery
from rollspan.cli._outcomes import directory_argument, report


@click.command(name="replay")
@directory_argument
@click.option("--endpoint", metavar="URL", help="OTLP endpoint [default: OTEL_EXPORTER_OTLP_ENDPOINT].")
@click.option(
    "--timeout", default=60.0, show_default=True, metavar="SECONDS", help="For each process of the run."
)
@click.pass_context
def command(context: click.Context, directory: Path, endpoint: str | None, timeout: float) -> None:
    """Send the traces and records of a run that kept its journal (ROLLSPAN_JOURNAL_KEEP=1, or the demo's).

    The spans are the same to the byte each time, so a backend that has them already shows nothing twice.

    Exit codes: 0; 1 nothing found, or something could not be delivered; 2 wrong use.
    """
    settings = config.resolve(dir=directory, endpoint=endpoint).settings
    if not (settings.traces_exporters or settings.records_exporters):
        raise click.UsageError("No endpoint. Give --endpoint, or set OTEL_EXPORTER_OTLP_ENDPOINT.")
    outcomes = recovery.replay(settings, timeout=timeout)
    if not outcomes:
        click.echo(
            f"No journal below {directory}. A run keeps its journal only with ROLLSPAN_JOURNAL_KEEP=1; "
            "its records can be seen by `rollspan show`.",
            err=True,
        )
        context.exit(1)
    context.exit(report(outcomes))

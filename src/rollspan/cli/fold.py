"""`rollspan fold`: spans as a Collector's file exporter writes them -> records."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import click

from rollspan.cli._output import write_lines
from rollspan.fold import fold
from rollspan.otlp_json import read_spans
from rollspan.record import to_line
from rollspan.spandata import SpanData
from rollspan.view.files import holds_records, open_bytes, shortened


@click.command(name="fold")
@click.argument(
    "files",
    metavar="FILE...",
    nargs=-1,
    required=True,
    type=click.Path(exists=True, dir_okay=False, allow_dash=True),
)
@click.pass_context
def command(context: click.Context, files: tuple[str, ...]) -> None:
    """Turn the spans of FILE (OTLP/JSON lines, plain or gzip; - is standard input) into records.

    The records go to standard output, one JSON object a line, ordered by submission. The spans of one
    rollout may be spread over all the files, so these are read to their end first.

    Exit codes: 0; 1 something damaged (the good is printed), or no rollout found; 2 wrong use.
    """
    problems: list[str] = []
    records = fold(span for file in files for span in _spans(file, problems))
    write_lines(map(to_line, records))
    for problem in shortened(problems):
        click.echo(f"rollspan fold: {problem}", err=True)
    if not records and not problems:
        click.echo(
            f"rollspan fold: no rollout found in {', '.join(files)}; expected OTLP/JSON lines with our "
            "spans (resourceSpans). `rollspan show` itself reads records and record events (resourceLogs).",
            err=True,
        )
    context.exit(0 if records and not problems else 1)


def _spans(name: str, problems: list[str]) -> Iterator[SpanData]:
    try:
        with open_bytes(name) as lines:
            if holds_records(lines):
                problems.append(
                    f"{name} holds records already, which `rollspan show {name}` shows; spans are what a Collector's "
                    "file exporter writes (resourceSpans)"
                )
                return
            yield from read_spans(lines, lambda at, why: problems.append(f"{name}:{at}: left out: {why}"))
    except (OSError, EOFError, zlib.error) as error:
        problems.append(f"{name}: cannot be read to its end: {error}")

"""Draw the pictures of docs/backends.md from a run of the demo against the real Collector and Jaeger.

    make backends
    python -m docs.images.backends

The first shows one rollout's trace as Jaeger's query API gives it, the second the run as the Collector's file of
records has it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from docs.images.make import chosen, draw
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from tests.backends.services import Collector, Jaeger, wait_until

from rollspan import view
from rollspan.spandata import SpanData

HERE = Path(__file__).parent
WIDTH = 104
_BAR = 46


def trace(spans: list[SpanData]) -> RenderableType:
    """Spans as Jaeger's page lays them out: a row each, below its parent, to scale."""
    root = next(span for span in spans if not span.parent_id)
    whole = root.end_ns - root.start_ns
    table = Table(box=None, pad_edge=False)
    table.add_column("span")
    table.add_column("", width=_BAR)
    table.add_column("duration", justify="right")

    def add(span: SpanData, depth: int) -> None:
        before = round((span.start_ns - root.start_ns) / whole * _BAR)
        length = max(round((span.end_ns - span.start_ns) / whole * _BAR), 1)
        bar = Text(" " * min(before, _BAR - 1) + "━" * length, "cyan" if span.kind == 3 else "green")
        bar.truncate(_BAR)
        table.add_row("  " * depth + span.name, bar, f"{(span.end_ns - span.start_ns) / 1e6:,.2f} ms")
        below = [child for child in spans if child.parent_id == span.span_id]
        for child in sorted(below, key=lambda child: child.start_ns):
            add(child, depth + 1)

    add(root, 0)
    generate = next(span for span in spans if span.name == "generate")
    tags = Table("generate", "", box=None, pad_edge=False)
    for name, value in sorted(generate.attributes.items()):
        tags.add_row(Text(name, "dim"), str(value))
    title = Text(f"trace {root.trace_id:032x} · {len(spans)} spans", "bold")
    return Group(title, Text(), table, Text(), tags)


def main() -> None:
    """Run everything, draw both pictures."""
    with tempfile.TemporaryDirectory() as folder:
        jaeger = Jaeger(Path(folder))
        jaeger.start()
        collector = Collector(Path(folder), jaeger)
        collector.start()
        try:
            out = Path(folder) / "out"
            subprocess.run(
                [sys.executable, "-m", "rollspan.cli.main", "demo", "--steps", "20", "--out", str(out)],
                env={
                    **os.environ,
                    "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint,
                    "OTEL_SERVICE_NAME": "demo",
                },
                check=True,
            )
            records = view.load(str(out))
            wait_until(lambda: len(collector.records()) == len(records), "the records")
            record = chosen(records)
            wait_until(lambda: record["trace_id"] in jaeger.traces("demo"), "the trace")
            draw(
                trace(jaeger.traces("demo")[record["trace_id"]]),
                HERE / "jaeger.svg",
                "Jaeger: one rollout",
                WIDTH,
            )
            draw(
                view.summary_table(collector.records()),
                HERE / "collector.svg",
                "rollspan show collector-data/records.jsonl",
                WIDTH,
            )
        finally:
            collector.stop()
            jaeger.stop()


if __name__ == "__main__":
    main()

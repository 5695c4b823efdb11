"""`rollspan demo`: train a tiny policy over real HTTP, and see every rollout traced."""

from __future__ import annotations

import importlib.util
import io
import os
import shlex
import shutil
import sys
import time
from pathlib import Path

import click
from rich.console import Console, RenderableType
from rich.text import Text

import rollspan
from rollspan import view

NEEDED = ("torch", "httpx")
INTERRUPTED = 130


@click.command(name="demo")
@click.option(
    "--steps", type=click.IntRange(min=1), default=40, show_default=True, help="Steps to train for."
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("rollspan-demo"),
    show_default=True,
    help="Where records and journal go.",
)
@click.pass_context
def command(context: click.Context, steps: int, out: Path) -> None:
    """Train a tiny policy to sort digits, with every rollout traced.

    A server in a second process speaks SGLang's protocol, a pool of processes scores the answers, and a trainer
    improves the policy: the parts of a real job, in about half a minute. Ctrl-C ends it early and still shows
    what was recorded. Needs torch and httpx: pip install '/path/to/rollspan[demo]'.

    Exit codes: 0; 1 nothing was recorded; 2 wrong use, or torch or httpx is missing; 130 interrupted.
    """
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise click.UsageError(
            f"The demo needs {' and '.join(missing)}, not installed here: pip install '/path/to/rollspan[demo]'"
        )
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    console = Console(highlight=False, markup=False, emoji=False)
    console.print(
        f"Training a tiny policy to sort digits; every rollout is traced into {out}", soft_wrap=True
    )

    started = time.time()
    rollspan.configure(
        enabled=True, dir=str(out), journal_keep=True, system="rollspan-demo", algorithm="grpo"
    )
    rewards, finished = train(console, steps)
    delivered = rollspan.shutdown(timeout=10)

    records = [record for record in view.load(out) if record["submit_ts"] >= started]
    if not records:
        raise click.ClickException(f"no rollout was recorded in {out}; `rollspan doctor` says what is wrong")
    if not finished:
        console.print("Interrupted; this is what was recorded until then.")
    for part in summary(records, rewards, out, console, delivered=delivered):
        console.print()
        console.print(part, soft_wrap=isinstance(part, Text))  # paths and addresses stay whole
    context.exit(0 if finished else INTERRUPTED)


def train(console: Console, steps: int) -> tuple[list[float], bool]:
    """Rewards of the steps, and whether all of them were done."""
    from rollspan.demo.config import DemoConfig  # noqa: PLC0415 - these load torch
    from rollspan.demo.report import Watch  # noqa: PLC0415
    from rollspan.demo.run import run  # noqa: PLC0415

    with Watch(console, steps) as watch:
        finished = run(DemoConfig(steps=steps), watch.step)
    return watch.rewards, finished


def summary(
    records: list[view.Record], rewards: list[float], out: Path, console: Console, *, delivered: bool
) -> list[RenderableType]:
    """The parts shown at the end."""
    from rollspan.demo.report import reward_chart  # noqa: PLC0415

    (slowest,) = view.slowest(records, 1)
    parts: list[RenderableType] = [view.summary_table(records), view.waterfall(slowest)]
    if rewards:
        ascii_only = not console.encoding.startswith("utf")
        parts.append(reward_chart(rewards, min(console.width, 100), ascii_only=ascii_only))
    return [*parts, what_next(out, str(slowest["trace_id"]), delivered=delivered)]


def what_next(out: Path, trace_id: str, *, delivered: bool) -> Text:
    """Where everything is, and how to see it in a tracing backend."""
    command, where = started_as(), shlex.quote(str(out))
    text = Text()
    text.append("Written\n", "bold")
    for path in [*sorted(out.glob("sessions-*.jsonl")), *sorted(out.glob("perf-*.json")), out / "journal"]:
        text.append(f"  {path}\n")
    text.append("Look again\n", "bold")
    text.append(f"  {command} show {where} --slowest 5\n  {command} show {where} --session {trace_id}\n")
    text.append("See rollouts beside the training, in https://ui.perfetto.dev\n", "bold")
    text.append(f"  {command} timeline {where}\n")
    endpoint = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or os.environ.get(
        "OTEL_EXPORTER_OTLP_ENDPOINT"
    )
    text.append("See the traces in Jaeger\n", "bold")
    if not endpoint:
        text.append(
            "  docker run --rm -p 16686:16686 -p 4318:4318 jaegertracing/jaeger\n"
            f"  {command} replay {where} --endpoint http://localhost:4318\n"
        )
    elif delivered:
        text.append(f"  they went to {endpoint}; search there for the id of the slowest: {trace_id}\n")
    else:
        text.append(f"  some have not reached {endpoint} yet; {command} recover {where} sends the rest\n")
    text.append(f"  with Jaeger on this machine: http://localhost:16686/trace/{trace_id}")
    return text


def started_as() -> str:
    """How to call this program again: not everybody has on the path the `rollspan` that is running."""
    script = Path(sys.argv[0])
    return _called(script) if script.stem == "rollspan" else f"{_called(Path(sys.executable))} -m rollspan"


def _called(program: Path) -> str:
    """The name alone where a shell finds this very program by it, else its path, from here where it is below."""
    program = program.absolute()
    found = shutil.which(program.name)
    if found and Path(found).parent.resolve() == program.parent.resolve():
        return program.name
    here = Path.cwd()
    below = program.is_relative_to(here) and program.parent != here
    return shlex.quote(str(program.relative_to(here) if below else program))

"""What tracing costs where AReaL runs: its executor over an engine that does nothing, untraced, with its own session
tracer, and with rollspan, in one interleaved run: `python -m benchmarks.areal_executor`.

It needs AReaL with all that it needs itself (`make bench-areal` installs it); else it says so and is skipped.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from . import report
from .driver import ROOT, BenchmarkError, end, line_of, start
from .executor_child import AREAL, MODES, ROLLSPAN, UNTRACED

BOUND = 1.0
"""What a session may cost with rollspan, in the time that the executor takes for it, in multiples of AReaL's tracer."""

_MEASURES = ("wall", "hot", "total")
_SEED = 539


class _Child:
    """The process of one mode."""

    def __init__(self, mode: str, python: str, folder: Path) -> None:
        self.mode = mode
        self._log = folder / f"{mode}.log"
        (folder / mode).mkdir()
        with self._log.open("w") as log:
            self._process = start(python, "benchmarks.executor_child", mode, str(folder / mode), stderr=log)
        self.versions: dict[str, str] = self._answer()["versions"]

    def round(self, tasks: int) -> dict[str, float]:
        """Let it run that many tasks."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{tasks}\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # `_answer` says why it is gone
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        text = line_of(self._process)
        if not text:
            raise BenchmarkError(f"{self.mode} ended early:\n{self._log.read_text()[-4000:]}")
        answer: dict[str, Any] = json.loads(text)
        return answer

    def close(self) -> None:
        end(self._process)


def missing(python: str) -> str | None:
    """Why AReaL cannot run in this interpreter, or None."""
    try:
        done = subprocess.run(
            [python, "-c", "import areal.infra.workflow_executor, orjson, opentelemetry.sdk"],
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError as error:
        return f"{python}: {error.strerror}"
    return done.stderr.strip().rpartition("\n")[2] or "it cannot be loaded" if done.returncode else None


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 1 where something failed, or with --check the bound does not hold."""
    asked = _parser().parse_args(arguments)
    console = Console(highlight=False)
    why = missing(asked.python)
    if why is not None:
        console.print(f"skipped: AReaL does not run in {asked.python}: {why}", markup=False, soft_wrap=True)
        return 0
    # The checkout's rollspan, and as many of torch's threads as a null workflow needs.
    os.environ.update(PYTHONPATH=str(ROOT / "src"), OMP_NUM_THREADS="1")
    children: list[_Child] = []
    with tempfile.TemporaryDirectory(prefix="rollspan-bench-") as folder:
        try:
            for mode in MODES:
                children.append(_Child(mode, asked.python, Path(folder)))
            rounds = _rounds(children, asked.rounds, asked.tasks)
        except BenchmarkError as error:
            console.print(str(error), style="red", markup=False, soft_wrap=True)
            return 1
        finally:
            for child in children:
                child.close()
    holds = _show(console, rounds, asked.tasks, children[0].versions)
    return 1 if asked.check and not holds else 0


def _rounds(children: Sequence[_Child], count: int, tasks: int) -> list[dict[str, dict[str, float]]]:
    """In each round every mode once, in a shuffled order; the first ones are not counted."""
    order = random.Random(_SEED)
    turns = (order.sample(children, len(children)) for _ in range(count + 2))
    return [{child.mode: child.round(tasks) for child in turn} for turn in turns][2:]


def _show(
    console: Console, rounds: Sequence[dict[str, dict[str, float]]], tasks: int, versions: dict[str, str]
) -> bool:
    for mode in MODES:
        told = []
        for measure in _MEASURES:
            each = [r[mode][measure] / r[AREAL][measure] for r in rounds]
            low, ratio, high = statistics.quantiles(each, n=4, method="inclusive")
            here = statistics.median(r[mode][measure] for r in rounds)
            told.append(f"{measure} {ratio:.2f} [{low:.2f}-{high:.2f}] {here:4.0f} µs")
        console.print(f"{mode:9} {'   '.join(told)}", markup=False, soft_wrap=True)
    ratio = statistics.median(r[ROLLSPAN]["wall"] / r[AREAL]["wall"] for r in rounds)
    cost = statistics.median(
        (r[ROLLSPAN]["wall"] - r[UNTRACED]["wall"]) / (r[AREAL]["wall"] - r[UNTRACED]["wall"]) for r in rounds
    )
    on = report.machine()
    console.print(
        f"Median and [quartiles] of {len(rounds)} interleaved rounds of {tasks} tasks, in multiples of AReaL's tracer in "
        "the same round. wall: until the trainer has all results; hot: the process's CPU time until then; total: until "
        f"rollspan has delivered too. Tracing alone: {cost:.2f} times AReaL's.\n"
        f"{on['cpu']}, {on['cpus']} CPUs, load {on['load']}, Python {on['python']}; "
        + ", ".join(f"{name} {number}" for name, number in versions.items()),
        markup=False,
        soft_wrap=True,
        style="dim",
    )
    holds = ratio <= BOUND
    console.print(
        f"rollspan wall: {ratio:.2f} times AReaL's; the bound of {BOUND} {'holds' if holds else 'is missed'}",
        style="green" if holds else "bold red",
    )
    return holds


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.areal_executor", description=__doc__)
    parser.add_argument("--rounds", type=int, default=20, help="rounds that count (%(default)s)")
    parser.add_argument("--tasks", type=int, default=1000, help="tasks in a round (%(default)s)")
    parser.add_argument(
        "--python",
        default=sys.executable,
        help="the interpreter that has AReaL and what rollspan needs (this one)",
    )
    parser.add_argument("--check", action="store_true", help="exit with 1 where the bound does not hold")
    return parser


if __name__ == "__main__":
    sys.exit(main())

"""Runs of AReaL itself, by turns in processes of their own: what the benchmarks beside its own tracer share."""

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

Round = dict[str, dict[str, float]]
"""What was measured, by mode and then by name."""

_SEED = 539


class Child:
    """The process of one mode."""

    def __init__(self, module: str, mode: str, python: str, folder: Path) -> None:
        self.mode = mode
        self._log = folder / f"{mode}.log"
        (folder / mode).mkdir()
        with self._log.open("w") as log:
            self._process = start(python, module, mode, str(folder / mode), stderr=log)
        self.versions: dict[str, str] = self._answer()["versions"]

    def round(self, size: int) -> dict[str, float]:
        """Let it run a round of that size."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{size}\n")
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
        """Have it end."""
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


def run(
    console: Console, asked: argparse.Namespace, module: str, modes: Sequence[str], size: int
) -> tuple[list[Round], dict[str, str]] | None:
    """Rounds of that size, and versions; None, and the reason is said, where AReaL does not run."""
    why = missing(asked.python)
    if why is not None:
        console.print(f"skipped: AReaL does not run in {asked.python}: {why}", markup=False, soft_wrap=True)
        return None
    # The checkout's rollspan, and as many of torch's threads as doing nothing needs.
    os.environ.update(PYTHONPATH=str(ROOT / "src"), OMP_NUM_THREADS="1")
    children: list[Child] = []
    with tempfile.TemporaryDirectory(prefix="rollspan-bench-") as folder:
        try:
            for mode in modes:
                children.append(Child(module, mode, asked.python, Path(folder)))
            return rounds(children, asked.rounds, size), children[0].versions
        finally:
            for child in children:
                child.close()


def rounds(children: Sequence[Child], count: int, size: int) -> list[dict[str, dict[str, float]]]:
    """In each round every mode once, in a shuffled order; the first ones are not counted."""
    order = random.Random(_SEED)
    turns = (order.sample(children, len(children)) for _ in range(count + 2))
    return [{child.mode: child.round(size) for child in turn} for turn in turns][2:]


def holds(console: Console, rounds: Sequence[Round], mode: str, against: str, bound: float) -> bool:
    """Whether the wall clock of a mode, in multiples of another's, is within the bound; it is said."""
    ratio = statistics.median(r[mode]["wall"] / r[against]["wall"] for r in rounds)
    is_within = ratio <= bound
    console.print(
        f"rollspan wall: {ratio:.2f} times AReaL's; the bound of {bound} {'holds' if is_within else 'is missed'}",
        style="green" if is_within else "bold red",
    )
    return is_within


def of_the_machine(versions: dict[str, str]) -> str:
    """What the figures are of."""
    on = report.machine()
    return f"{on['cpu']}, {on['cpus']} CPUs, load {on['load']}, Python {on['python']}; " + ", ".join(
        f"{name} {number}" for name, number in versions.items()
    )


def parser(module: str, description: str | None, rounds: int) -> argparse.ArgumentParser:
    """What they are asked by."""
    made = argparse.ArgumentParser(prog=f"python -m {module}", description=description)
    made.add_argument("--rounds", type=int, default=rounds, help="rounds that count (%(default)s)")
    made.add_argument(
        "--python",
        default=sys.executable,
        help="the interpreter that has AReaL and what rollspan needs (this one)",
    )
    made.add_argument("--check", action="store_true", help="exit with 1 where the bound does not hold")
    return made

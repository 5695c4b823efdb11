"""Many rollouts: what they cost and keep does not grow with how many there have been. No times are asserted."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rollspan.testing import Recording
from tests.conftest import CLEAN
from tests.faults.jobs import in_file
from tests.needs import need

try:
    import torch  # noqa: F401
except ModuleNotFoundError:
    need(False, "torch is not installed")

from rollspan.rollout import RolloutExecutor, Trajectory, WorkflowTaskInput

from .many_program import WAITING
from .workflows import NullEngine, Steps, one_token

ROOT = Path(__file__).resolve().parents[2]
GROWTH = 16 << 20
"""Bytes that the allocator may still come to hold; a hundred for each rollout would be half of it."""


class Program:
    """The program that runs many, with rollspan on."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.ran = 0
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.rollout.many_program"],
            cwd=ROOT,
            env={**CLEAN, "ROLLSPAN_ENABLED": "1", "ROLLSPAN_DIR": str(directory), "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, count: int) -> dict[str, Any]:
        """Let it run so many more."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{count}\n")
        self._process.stdin.flush()
        self.ran += count
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def end(self) -> int:
        """Its exit status."""
        self._process.communicate(timeout=120)
        return self._process.returncode

    def kill(self) -> None:
        """Where the test has failed."""
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Callable[[str], Program]]:
    """Starts one, and sees to its end."""
    made: list[Program] = []

    def start(name: str) -> Program:
        made.append(Program(tmp_path / name))
        return made[-1]

    yield start
    for each in made:
        each.kill()


def test_a_hundred_thousand_rollouts_leave_nothing_behind(program: Callable[[str], Program]) -> None:
    """The last cost what the first do and memory stays as it is, while 10,000 wait; each is recorded once."""
    old = program("old")
    warm = old.run(10_000)["memory"]
    old.run(75_000)
    young = program("young")
    young.run(1_000)
    ratios = []
    for number in range(14):
        order = (old, young) if number % 2 else (young, old)
        cpu = {each: each.run(1_000)["cpu"] for each in order}
        ratios.append(cpu[old] / cpu[young])
    # Whatever else the machine does makes half of them larger, or smaller: costs that grow, all of them.
    assert sorted(ratios)[len(ratios) // 4] <= 1.2, ratios
    assert old.run(1_000)["memory"] - warm <= GROWTH
    assert old.end() == young.end() == 0
    assert old.ran == 100_000
    records = in_file(old.directory)
    assert len({record["session_id"] for record in records}) == len(records)
    assert Counter("wait_return_ts" in record for record in records) == {True: 100_000, False: WAITING}


def test_two_thousand_rollouts_run_at_once(rec: Recording) -> None:
    """All of them are inside of the workflow before the first goes on, and each is recorded once."""
    count, inside = 2_000, 0
    all_inside = asyncio.Event()

    async def together(engine: Any, task: WorkflowTaskInput) -> Trajectory:
        nonlocal inside
        inside += 1
        if inside == count:
            all_inside.set()
        await all_inside.wait()
        return await one_token(engine, task)

    with RolloutExecutor(NullEngine(), max_concurrent_rollouts=count) as executor:
        for number in range(count):
            executor.submit({"task_id": number, "reward": number}, Steps(together))
        batch = executor.wait(count, timeout=60)
    assert [float(trajectory["rewards"]) for trajectory in batch] == [*range(count)]
    records = rec.records()
    assert sorted(record["task_id"] for record in records) == [*range(count)]
    assert {(record["status"], "wait_return_ts" in record) for record in records} == {("accepted", True)}
    executions = [record["phases"]["execution"][0] for record in records]
    assert max(e["start_ts"] for e in executions) <= min(e["end_ts"] for e in executions)

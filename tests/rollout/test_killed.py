"""A program with rollouts that is killed: each has its record all the same."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.conftest import CLEAN
from tests.faults.jobs import in_file

ROOT = Path(__file__).parents[2]
PROGRAM = """
import asyncio, sys, time
from rollspan.rollout import RolloutExecutor
from tests.rollout.workflows import NullEngine, Steps, for_ever, one_token

executor = RolloutExecutor(NullEngine(), max_concurrent_rollouts=2)
for _ in range(3):
    executor.submit({}, Steps(one_token))
executor.wait(2)
while executor.get_stats().accepted < 3:
    time.sleep(0.01)
for _ in range(5):
    executor.submit({}, Steps(for_ever))
while executor.get_stats().running < 2:
    time.sleep(0.01)
print("ready", flush=True)
time.sleep(600)
"""


def test_every_rollout_of_a_killed_program_has_its_record(tmp_path: Path) -> None:
    """Consumed ones as they were, an accepted one with its verdict, those that waited or ran as died with the process."""
    environment = {
        **CLEAN,
        "ROLLSPAN_ENABLED": "1",
        "ROLLSPAN_DIR": str(tmp_path),
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
    }
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM], env=environment, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    recovered = subprocess.run(
        [sys.executable, "-m", "rollspan", "recover", str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert recovered.returncode == 0, recovered.stderr
    records = sorted(in_file(tmp_path), key=lambda record: record["request_id"])
    ends = [(r["status"], r.get("rejection_reason"), "wait_return_ts" in r) for r in records]
    assert ends == [
        ("accepted", None, True),
        ("accepted", None, True),
        ("accepted", None, False),
        *[("dropped", "process_died", False)] * 5,
    ]

"""The benchmark of two executors measures ours everywhere, and AReaL's where that is. No times are asserted."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

from tests.needs import need

ROOT = Path(__file__).resolve().parents[2]


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the program in small."""
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "benchmarks.rollout_runtime",
            "--rounds",
            "2",
            "--sessions",
            "100",
            *arguments,
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_it_is_skipped_where_there_is_no_areal() -> None:
    """With the reason, and without an error."""
    done = bench("--python", "/nowhere/python", "--check")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("skipped: AReaL does not run in /nowhere/python: ")


def test_ours_is_measured_in_each_way_and_traced(tmp_path: Path) -> None:
    """Every session that the trainer took is in the file exactly once, accepted, with both phases."""
    need(importlib.util.find_spec("torch"), "torch is not installed")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.runtime_child", "rollspan", str(tmp_path)],
        cwd=ROOT,
        input="100\n200\n",
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    ready, *answers = map(json.loads, done.stdout.splitlines())
    assert ready["versions"]["torch"]
    ways = {"submit and wait", "prepare_batch", "submit and wait, checked"}
    assert [set(answer) for answer in answers] == [ways, ways]
    for answer in answers:
        for spent in answer.values():
            assert set(spent) == {"wall", "hot", "total"}
            assert 0 < spent["hot"] <= spent["total"]
    records = [json.loads(line) for line in (tmp_path / "sessions-r0.jsonl").read_text().splitlines()]
    assert len({record["session_id"] for record in records}) == len(records)
    consumed = [record for record in records if record.get("wait_return_ts")]
    assert len(consumed) == len(ways) * (
        100 + 100 + 100 + 200
    )  # each with a step before it that does not count
    for record in consumed:
        assert record["status"] == "accepted"
        assert {"generate", "reward"} <= set(record["phases"])


def test_both_are_measured() -> None:
    """Every rollout was accepted in both, in each way, and there is a verdict on those without checks."""
    need(importlib.util.find_spec("areal"), "areal is not installed: make test-areal")
    done = bench()
    assert done.returncode == 0, done.stdout + done.stderr
    for way in ("submit and wait", "prepare_batch", "submit and wait, checked"):
        assert f"\n{way}  " in f"\n{done.stdout}"
    assert done.stdout.count("the bound of 0.5") == 2

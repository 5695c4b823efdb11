"""The benchmark of AReaL's executor runs where AReaL is, and says why not where it is not. No times are asserted."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

from tests.needs import need

ROOT = Path(__file__).resolve().parents[2]


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the program in small."""
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.areal_executor", "--rounds", "2", "--tasks", "20", *arguments],
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


def test_it_measures_all_three() -> None:
    """Every task was accepted in each mode, and rollspan was on."""
    need(importlib.util.find_spec("areal"), "areal is not installed: make test-areal")
    done = bench()
    assert done.returncode == 0, done.stdout + done.stderr
    for mode in ("untraced", "areal", "rollspan"):
        assert f"\n{mode}" in f"\n{done.stdout}"
    assert "the bound of 1.0" in done.stdout

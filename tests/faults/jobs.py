"""A job of 1070 sessions, the ways to end it, and what has to be known of it afterwards."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tests.conftest import CLEAN

ROLLSPAN = [sys.executable, "-m", "rollspan.cli.main"]
CONSUMED, UNCONSUMED, OPEN = 1000, 50, 20
ABRUPT = ("SIGKILL", "SIGTERM", "os._exit")
ORDERLY = ("sys.exit", "exception")

# Arguments: how to end, and where: in this process, or in a child started by that method of multiprocessing.
JOB = f"""
import multiprocessing, os, signal, sys
import rollspan

def begin(task):
    session = rollspan.start_session(task_id=task)
    session.mark_enqueued()
    return session

def life(how):
    for task in range({CONSUMED}):
        session = begin(task)
        with session.execution(), rollspan.phase("generate"):
            rollspan.record_generation(output_tokens=2)
        session.mark_accepted(reward=1.0)
        session.mark_consumed()
    for task in range({UNCONSUMED}):
        session = begin(10_000 + task)
        with session.execution():
            pass
        session.mark_accepted()
    for task in range({OPEN}):
        begin(20_000 + task).execution().__enter__()
    if how == "SIGKILL": os.kill(os.getpid(), signal.SIGKILL)
    if how == "SIGTERM": os.kill(os.getpid(), signal.SIGTERM)
    if how == "os._exit": os._exit(3)
    if how == "sys.exit": sys.exit(3)
    if how == "exception": raise RuntimeError("the end")

if __name__ == "__main__":
    how, where = sys.argv[1:3]
    if where == "parent":
        life(how)
    else:
        with rollspan.session(task_id="parent"):
            pass
        child = multiprocessing.get_context(where).Process(target=life, args=(how,))
        child.start()
        child.join()
        assert child.exitcode != 0
"""


def in_file(directory: Path) -> list[dict[str, Any]]:
    """The records in the files of a data directory."""
    return [
        json.loads(line)
        for path in sorted(directory.glob("sessions-r*.jsonl"))
        for line in path.read_bytes().splitlines()
    ]


def assert_all(records: Iterable[Mapping[str, Any]], *, reason: str, times: int = 1) -> None:
    """All 1070 sessions, each once, with the status that fits; the open ones were dropped for `reason`."""
    found = list(records)
    assert len({record["session_id"] for record in found}) == len(found)
    ends = Counter((r["status"], r.get("rejection_reason"), "wait_return_ts" in r) for r in found)
    assert ends == {
        ("accepted", None, True): CONSUMED * times,
        ("accepted", None, False): UNCONSUMED * times,
        ("dropped", reason, False): OPEN * times,
    }
    consumed = next(record for record in found if record["task_id"] == 5)
    assert (consumed["output_tokens"], consumed["reward"]) == (2, 1.0)


def recover(
    directory: Path, *arguments: str, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `rollspan recover` on a data directory."""
    return subprocess.run(
        [*ROLLSPAN, "recover", str(directory), *arguments],
        env={**CLEAN, **(env or {})},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def nothing_left(directory: Path) -> bool:
    """Whether no journal is left to deliver."""
    return "Nothing to recover" in recover(directory).stdout

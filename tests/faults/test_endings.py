"""However a process ends, and whichever process it is: every session it began has its record, once."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import CLEAN
from tests.faults.jobs import ABRUPT, JOB, ORDERLY, ROLLSPAN, assert_all, in_file, nothing_left, recover

Run = Callable[..., "subprocess.CompletedProcess[str]"]
NEXT = "import rollspan\nwith rollspan.session(task_id='next'): pass\n"


def of_life(directory: Path) -> list[dict[str, object]]:
    """Records of the job's own sessions."""
    return [record for record in in_file(directory) if record["task_id"] not in ("parent", "next")]


@pytest.mark.parametrize("where", ["parent", "fork", "forkserver", "spawn"])
@pytest.mark.parametrize("how", ABRUPT)
def test_an_abrupt_end_is_recovered(run_program: Run, tmp_path: Path, how: str, where: str) -> None:
    """After SIGKILL, SIGTERM and os._exit, of parents and children, `recover` brings all sessions."""
    run_program(JOB, how, where, check=False)
    data = tmp_path / "data"
    done = recover(data)
    assert done.returncode == 0, done.stderr
    assert_all(of_life(data), reason="process_died")
    assert nothing_left(data)


@pytest.mark.parametrize("where", ["parent", "fork", "forkserver", "spawn"])
@pytest.mark.parametrize("how", ORDERLY)
def test_an_orderly_end_delivers(run_program: Run, tmp_path: Path, how: str, where: str) -> None:
    """sys.exit and an exception leave nothing to recover, in parents and children alike."""
    run_program(JOB, how, where, check=False)
    data = tmp_path / "data"
    assert_all(of_life(data), reason="cancelled")
    assert list((data / "journal").iterdir()) == []
    assert nothing_left(data)


@pytest.mark.parametrize("how", ABRUPT)
def test_the_next_start_delivers(run_program: Run, tmp_path: Path, how: str) -> None:
    """Whoever starts next with the same folder delivers what was left, beside its own."""
    run_program(JOB, how, "parent", check=False)
    run_program(NEXT)
    data = tmp_path / "data"
    assert_all(of_life(data), reason="process_died")
    assert len(in_file(data)) == 1071
    assert list((data / "journal").iterdir()) == []


def size_of(path: Path) -> int:
    """Its size, 0 where it is not there."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def test_recovery_killed_thirty_times(tmp_path: Path) -> None:
    """`recover` killed at random moments and right after writes, then run to its end: each session once."""
    data, jobs = tmp_path / "data", 8
    environment = {
        **CLEAN,
        "ROLLSPAN_ENABLED": "1",
        "ROLLSPAN_DIR": str(data),
        "ROLLSPAN_JOURNAL_DIR": str(tmp_path / "journals"),
    }
    command = [sys.executable, "-c", JOB, "SIGKILL", "parent"]
    for process in [subprocess.Popen(command, env=environment) for _ in range(jobs)]:
        assert process.wait() == -signal.SIGKILL
    # As if they had been killed before anything of theirs was delivered: all is left to recover.
    for path in [*data.glob("*.jsonl"), *(tmp_path / "journals").rglob("cursors.json")]:
        path.unlink()
    moments = random.Random(uuid.uuid4().int)
    sizes, start = set(), 0.0
    for kill in range(30):
        if kill % 10 == 0:  # how long a start takes just now, with nothing to recover
            before = time.monotonic()
            recover(tmp_path / "empty")
            start = time.monotonic() - before
        process = subprocess.Popen(
            [*ROLLSPAN, "recover", str(data)],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        if kill % 3 == 2:
            time.sleep(start * moments.uniform(0.5, 2.5))
        else:  # between the write to the file and the note of it
            file = data / "sessions-r0.jsonl"
            before_it = size_of(file)
            while size_of(file) == before_it and process.poll() is None:
                pass
        process.kill()
        process.wait()
        sizes.add(sum(path.stat().st_size for path in data.glob("*.jsonl")))
    assert len(sizes) > 2, "no kill came while records were written"
    done = recover(data, env=environment)
    assert done.returncode == 0, done.stderr
    assert_all(in_file(data), reason="process_died", times=jobs)
    assert "Nothing to recover" in recover(data, env=environment).stdout


MANY_OPEN = """
import os, signal, rollspan
for task in range(1300):
    session = rollspan.start_session(task_id=task)
    with session.execution():
        pass
    if task % 2:
        session.mark_accepted()
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("by", ["recover", "start"])
def test_more_open_sessions_than_a_batch_holds(run_program: Run, tmp_path: Path, by: str) -> None:
    """However many sessions were open when their process died, all have a record, and as many are reported."""
    run_program(MANY_OPEN, check=False)
    data = tmp_path / "data"
    if by == "recover":
        assert "1300 records to file" in recover(data).stdout
    else:
        run_program(NEXT)
    assert sorted(record["task_id"] for record in of_life(data)) == list(range(1300))

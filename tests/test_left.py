"""Journals seen from outside: whose process is dead, what may be delivered, what a removal or a gone host leaves."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rollspan import left, owner
from rollspan.cli._checks import of_orphans
from rollspan.left import Left, Standing
from tests.conftest import CLEAN
from tests.faults.jobs import ROLLSPAN, in_file, nothing_left, recover

Run = Callable[..., "subprocess.CompletedProcess[str]"]

DIES = """
import os, rollspan
for task in range(10):
    with rollspan.session(task_id=task):
        pass
rollspan.start_session(task_id="open")
os.kill(os.getpid(), 9)
"""


def rollspan(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*ROLLSPAN, *arguments], env=CLEAN, capture_output=True, text=True, check=False)


def made(folder: Path, name: str = "r0.host.1.x") -> Left:
    """A journal in two folders, without segments."""
    hot, disk = folder / "memory" / "key" / name, folder / "data" / "journal" / name
    header = {"name": name, "folder": str(hot), "disk": str(disk), "host": owner.host()}
    for each in (hot, disk):
        each.mkdir(parents=True)
        owner.write_small(each / owner.HEADER, header)
    return Left(header)


def test_a_journal_is_held_by_its_process_and_by_whoever_is_at_it(tmp_path: Path) -> None:
    """Two that come at the same time do not both get it; afterwards it is free again."""
    journal = made(tmp_path)
    with journal.locked() as first, journal.locked() as second:
        assert (first, second) == (Standing.LEFT, Standing.HELD)
    with journal.locked() as again:
        assert again is Standing.LEFT


def test_who_looks_at_a_journal_that_is_just_removed_leaves_nothing_in_it(tmp_path: Path) -> None:
    """Its folders can be removed, as their process is about to; a lock made anew would keep them for good."""
    journal = made(tmp_path)
    for folder in journal.folders:
        (folder / owner.HEADER).unlink()
    with journal.locked() as standing:
        assert standing is Standing.HELD
    for folder in journal.folders:
        folder.rmdir()


OWNERS = """
import sys
from pathlib import Path
from rollspan import config, owner
settings = config.resolve(dir=Path(sys.argv[1]), journal_dir=Path(sys.argv[2])).settings
for _ in range(int(sys.argv[3])):
    mine = owner.Owner(settings, owner.header_of(settings, {}, {}))
    mine.open()
    mine.close(delivered=True, keep=False)
"""
LOOKERS = """
import sys, time
from pathlib import Path
from rollspan import left
while True:
    for journal in left.journals(Path(sys.argv[1]), Path(sys.argv[2])):
        with journal.locked():
            pass
"""


def test_journals_that_come_and_go_beside_others_leave_no_folders(tmp_path: Path) -> None:
    """Hundreds of processes begin and end while others look what can be adopted."""
    folders = str(tmp_path / "data"), str(tmp_path / "memory")
    lookers = [subprocess.Popen([sys.executable, "-c", LOOKERS, *folders]) for _ in range(2)]
    try:
        subprocess.run([sys.executable, "-c", OWNERS, *folders, "1000"], check=True)
        assert all(looker.poll() is None for looker in lookers)
    finally:
        for looker in lookers:
            looker.kill()
            looker.wait()
    assert [path.name for path in (tmp_path / "data" / "journal").iterdir()] == []
    assert list((tmp_path / "memory").rglob("r0.*")) == []


def test_folders_that_hold_only_a_lock_are_swept(tmp_path: Path) -> None:
    """One whose removal was cut short goes; not one that is just being made, nor one whose lock is held."""
    root = tmp_path / "data" / "journal"
    names = "cut-short", "empty", "just-made", "held"
    for name in names:
        (root / name).mkdir(parents=True)
        if name != "empty":
            (root / name / owner.LOCK).touch()
        if name != "just-made":
            os.utime(root / name, (time.time() - 3600,) * 2)
    descriptor = owner.lock_file(root / "held" / owner.LOCK)
    assert descriptor is not None
    left.sweep(tmp_path / "data")
    owner.unlock(descriptor)
    assert {path.name for path in root.iterdir()} == {"just-made", "held"}


@pytest.fixture
def of_a_gone_host(run_program: Run, tmp_path: Path) -> Path:
    """A data directory that holds part of a journal whose process died on a host that is gone."""
    data = tmp_path / "data"
    run_program(DIES, check=False)
    (journal,) = left.journals(data)
    shutil.copy(journal.segments[0][1], journal.disk)
    shutil.rmtree(journal.hot)
    owner.write_small(journal.disk / owner.HEADER, {**journal, "host": "gone-host"})
    for path in data.glob("*.jsonl"):
        path.unlink()
    return data


def test_what_died_on_another_host_is_dead(of_a_gone_host: Path) -> None:
    """`show --open` and `doctor` do not take its process for a running one, and say what can be done."""
    (session,) = map(
        json.loads, rollspan("show", "--open", "--json", str(of_a_gone_host)).stdout.splitlines()
    )
    assert (session["task_id"], session["alive"]) == ("open", False)
    report = json.loads(rollspan("doctor", "--json", str(of_a_gone_host)).stdout)
    assert (report["journals"]["running"], report["journals"]["left"]) == (0, 1)
    (problem,) = [each for each in report["problems"] if "journal" in each]
    assert "host gone-host" in problem
    assert f"rollspan recover {of_a_gone_host}" in problem
    assert "--discard" in problem


def test_what_a_gone_host_left_is_delivered_and_cleared_on_request(of_a_gone_host: Path) -> None:
    """`recover` leaves it to that host; with `--discard` what is here gets into the file, and nothing stays."""
    stays = recover(of_a_gone_host)
    assert stays.returncode == 1
    assert "host gone-host" in stays.stderr
    assert "--discard" in stays.stderr
    assert in_file(of_a_gone_host) == []
    done = recover(of_a_gone_host, "--discard")
    assert done.returncode == 0, done.stderr
    assert "11 records to file" in done.stdout
    assert "given up what lay in the memory of host gone-host" in done.stdout
    assert len(in_file(of_a_gone_host)) == 11
    assert list((of_a_gone_host / "journal").iterdir()) == []
    assert nothing_left(of_a_gone_host)


def test_doctor_tells_of_journals_whose_data_directory_is_gone(run_program: Run, tmp_path: Path) -> None:
    """What lies in memory of a directory that was removed is told, with what to do, which then does it."""
    data, other = tmp_path / "data", tmp_path / "other"
    run_program(DIES, check=False)
    (journal,) = left.journals(data)
    shutil.rmtree(data)
    if not journal.hot.is_dir():
        pytest.skip("the journal was not in memory")

    def told() -> list[dict[str, Any]]:
        orphans = json.loads(rollspan("doctor", "--json", str(tmp_path)).stdout)["orphans"]
        return [each for each in orphans if each["data"] == str(data)]

    (found,) = told()
    assert found["folder"] == str(journal.hot.parent)
    assert found["journals"] == 1
    assert f"`rollspan recover {data} --to OTHER`" in of_orphans([found])[0]
    done = recover(data, "--to", str(other))
    assert done.returncode == 0, done.stderr
    assert len(in_file(other)) == 11
    assert not journal.hot.exists()
    assert told() == []


def test_doctor_sums_up_journals_whose_data_directories_are_gone() -> None:
    """However many there are: one note, with their number and size, the first few by name, and what to do."""
    found = [
        {"data": f"/gone/{n}", "folder": f"/dev/shm/x/{n}", "journals": 2, "bytes": 4 << 20} for n in range(5)
    ]
    (note,) = of_orphans(found)
    assert note.startswith("20 MiB of sessions lie in 10 journals ")
    assert "/gone/2 (in /dev/shm/x/2) and 2 more" in note
    assert "/gone/3" not in note
    assert "`rollspan recover /gone/0 --to OTHER`" in note
    assert of_orphans([]) == []

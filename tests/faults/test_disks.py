"""Disks that are full or cannot be written: the program goes on, and what it recorded is there when they are mended."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.faults.jobs import JOB, assert_all, in_file, nothing_left, recover
from tests.needs import need

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@contextmanager
def small(folder: Path) -> Iterator[Path]:
    """A file system of 2 MiB."""
    folder.mkdir()
    mounted = hasattr(os, "geteuid") and os.geteuid() == 0 and shutil.which("mount")
    if mounted:
        mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(folder)]
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    need(mounted, "mounting a small file system needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB, for one test."""
    with small(tmp_path / "small") as folder:
        yield folder


def fill(disk: Path) -> Path:
    """Leave no room on a disk; what to remove to mend it."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            pass
    return ballast


def test_a_full_disk_under_the_file(run_program: Run, small_disk: Path) -> None:
    """With no room for the file of records the sessions stay in the journal, until there is room again."""
    data = small_disk / "data"
    data.mkdir()
    ballast = fill(small_disk)
    done = run_program(JOB, "sys.exit", "parent", check=False, env={"ROLLSPAN_DIR": str(data)})
    assert done.returncode == 3, done.stderr
    assert "No space left on device" in done.stderr
    assert "rollspan recover" in done.stderr
    ballast.unlink()
    assert recover(data).returncode == 0
    assert_all(in_file(data), reason="cancelled")
    assert nothing_left(data)


def test_a_disk_that_fills_up_under_the_file(run_program: Run, small_disk: Path) -> None:
    """A file that runs out of room in the middle holds whole lines alone, and is completed later."""
    data = small_disk / "data"
    data.mkdir()
    ballast = small_disk / "ballast"
    ballast.write_bytes(
        b"x" * 1_700_000
    )  # room for some of the records, but for all and a journal when it is gone
    run_program(JOB, "sys.exit", "parent", check=False, env={"ROLLSPAN_DIR": str(data)})
    assert 0 <= len(in_file(data)) < 1070
    ballast.unlink()
    assert recover(data).returncode == 0
    assert_all(in_file(data), reason="cancelled")


def test_a_full_disk_under_the_journal(run_program: Run, tmp_path: Path, small_disk: Path) -> None:
    """A journal's segment is reserved before it is written, so a full disk is no SIGBUS: it goes on in memory."""
    fill(small_disk)
    environment = {"ROLLSPAN_JOURNAL_DIR": str(small_disk)}
    done = run_program(JOB, "sys.exit", "parent", check=False, env=environment)
    assert done.returncode == 3, done.stderr
    assert "in memory" in done.stderr
    assert_all(in_file(tmp_path / "data"), reason="cancelled")


def test_a_disk_that_fills_up_under_the_journal(run_program: Run, tmp_path: Path, small_disk: Path) -> None:
    """Where the next segment finds no room any more, what was written stays, and the rest goes on in memory."""
    environment = {"ROLLSPAN_JOURNAL_DIR": str(small_disk)}
    program = (
        f"from pathlib import Path\nfrom rollspan import journal\njournal.SEGMENT_BYTES = 1 << 18\n"
        f"import rollspan\nwith rollspan.session(task_id='parent'): pass\n"
        f"ballast = open({str(small_disk / 'ballast')!r}, 'wb', buffering=0)\n"
        "try:\n    while True: ballast.write(b'x' * 4096)\nexcept OSError: pass\n" + JOB
    )
    done = run_program(program, "sys.exit", "parent", check=False, env=environment)
    assert done.returncode == 3, done.stderr
    assert "in memory" in done.stderr
    records = in_file(tmp_path / "data")
    assert_all([record for record in records if record["task_id"] != "parent"], reason="cancelled")


def test_a_data_directory_that_is_read_only(run_program: Run, tmp_path: Path) -> None:
    """A folder that takes no files loses nothing: the journal lies elsewhere, and `recover` completes it later."""
    data = tmp_path / "data"
    data.mkdir()
    unshare = shutil.which("unshare")
    read_only = [str(unshare), "--mount", "sh", "-c"]
    script = f'mount --bind "{data}" "{data}" && mount -o remount,ro,bind "{data}" && exec "$@"'
    probe = [*read_only, script, "sh", "true"]
    allowed = unshare and subprocess.run(probe, capture_output=True, check=False).returncode == 0
    need(allowed, "a read-only mount needs unshare, mount and root")
    done = run_program(
        JOB, "sys.exit", "parent", check=False, launcher=(*read_only, script, "sh", sys.executable)
    )
    assert done.returncode == 3, done.stderr
    assert "Read-only file system" in done.stderr
    assert not in_file(data)
    done = recover(data)
    assert done.returncode == 0, done.stderr
    assert_all(in_file(data), reason="cancelled")


def test_recovery_onto_a_full_disk_keeps_the_journal(
    run_program: Run, tmp_path: Path, small_disk: Path
) -> None:
    """`recover` that finds no room says so, exits 1, and leaves everything for the next time."""
    data, journals = small_disk / "data", tmp_path / "journals"
    data.mkdir()
    environment = {"ROLLSPAN_DIR": str(data), "ROLLSPAN_JOURNAL_DIR": str(journals)}
    run_program(JOB, "SIGKILL", "parent", check=False, env=environment)
    for path in [*data.glob("*.jsonl"), *journals.rglob("cursors.json")]:  # as if nothing had been delivered
        path.unlink()
    ballast = fill(small_disk)
    failed = recover(data, env=environment)
    assert failed.returncode == 1
    assert "No space left on device" in failed.stderr
    ballast.unlink()
    assert recover(data, env=environment).returncode == 0
    assert_all(in_file(data), reason="process_died")


def test_a_journal_that_went_on_in_a_third_folder(tmp_path: Path, run_program: Run) -> None:
    """Where memory and data directory filled up one after the other, one recovery finds all of the journal."""
    with small(tmp_path / "memory") as memory, small(tmp_path / "small") as disk:
        (tmp_path / "tmp").mkdir()
        program = (
            "import os, signal\nfrom pathlib import Path\nfrom rollspan import journal, place\n"
            f"journal.SEGMENT_BYTES = 1 << 16\nplace._MEMORY = Path({str(memory)!r})\nimport rollspan\n"
            "def fill(where):\n"
            "    with open(f'{where}/ballast', 'wb', buffering=0) as file:\n"
            "        try:\n            while True: file.write(b'x' * 4096)\n        except OSError: pass\n"
            "def record(what, n=300):\n"
            "    for task in range(n):\n"
            "        with rollspan.session(task_id=f'{what}-{task}'): pass\n"
            f"record('memory')\nfill({str(memory)!r})\nrecord('disk')\nfill({str(disk)!r})\nrecord('third')\n"
            "os.kill(os.getpid(), signal.SIGKILL)\n"
        )
        data = disk / "data"
        data.mkdir()
        run_program(program, check=False, env={"ROLLSPAN_DIR": str(data), "TMPDIR": str(tmp_path / "tmp")})
        assert list((tmp_path / "tmp").rglob("*.seg"))
        for ballast in (memory / "ballast", disk / "ballast"):
            ballast.unlink()
        assert recover(data).returncode == 0
        assert len(in_file(data)) == 900
        assert not list(tmp_path.rglob("*.seg"))

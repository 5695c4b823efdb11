"""The file of records, on a real file system and across real processes."""

from __future__ import annotations

import fcntl
import os
import signal
import stat
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import orjson
import pytest

from rollspan.exporters.base import Delivered, Retry
from rollspan.exporters.files import DataFiles
from rollspan.exporters.known import KnownIds
from rollspan.exporters.lockedfile import LockedFile
from rollspan.finished import FinishedTrace
from rollspan.record import to_line

from .samples import RESOURCE, changed, session

WRITER = """
    import sys, time
    from pathlib import Path
    from rollspan.exporters.files import DataFiles
    from rollspan.finished import FinishedTrace
    def write(file, *ids):
        return file.export([FinishedTrace((), {"session_id": i, "status": "accepted"}) for i in ids], {}, 1.0)
    file = DataFiles(Path(sys.argv[1]), 0)
"""


def spawn(directory: Path, script: str) -> subprocess.Popen[str]:
    """Another process that runs `script` behind `WRITER`."""
    code = textwrap.dedent(WRITER) + textwrap.dedent(script)
    return subprocess.Popen(
        [sys.executable, "-c", code, str(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def ids_in(path: Path) -> list[str]:
    """Session ids of a file in which every line is whole."""
    content = path.read_bytes()
    assert content.endswith(b"\n")
    return [orjson.loads(line)["session_id"] for line in content.splitlines()]


def ids(*numbers: int) -> list[Any]:
    return [session(number).record["session_id"] for number in numbers]  # type: ignore[index]


def export(file: DataFiles, *numbers: int) -> Any:
    return file.export([session(number) for number in numbers], RESOURCE, 1.0)


def test_writes_one_line_a_record(tmp_path: Path) -> None:
    """Records come out as they went in, steps (which have none) go elsewhere, order is kept."""
    file = DataFiles(tmp_path, 3)
    step = changed(session(9), record=None)
    assert file.export([session(1), step, session(2)], RESOURCE, 1.0) == Delivered()
    assert export(file, 3) == Delivered()
    file.close()
    lines = (tmp_path / "sessions-r3.jsonl").read_bytes().splitlines()
    assert [orjson.loads(line) for line in lines] == [session(n).record for n in (1, 2, 3)]


def test_nothing_is_made_before_there_is_something_to_write(tmp_path: Path) -> None:
    """Making the exporter, and giving it spans of other processes' sessions alone, leaves the disk as it was."""
    directory = tmp_path / "data"
    file = DataFiles(directory, 0)
    assert file.export([FinishedTrace(session().spans[1:], None)], RESOURCE, 1.0) == Delivered()
    file.close()
    assert not directory.exists()


@pytest.mark.parametrize(
    ("mode", "directory_mode"), [(0o600, 0o700), (0o640, 0o750), (0o644, 0o755), (0o664, 0o775)]
)
def test_permissions_are_exactly_those_asked_for(tmp_path: Path, mode: int, directory_mode: int) -> None:
    """The umask has no say, and who may read the file may enter its folder."""
    before = os.umask(0o077)
    try:
        file = DataFiles(tmp_path / "deep" / "data", 0, mode=mode)
        export(file, 1)
        file.close()
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "deep" / "data").stat().st_mode) == directory_mode
    for name in ("sessions-r0.jsonl", ".gitignore"):
        assert stat.S_IMODE((tmp_path / "deep" / "data" / name).stat().st_mode) == mode


def test_git_ignores_our_folder_and_never_somebody_elses(tmp_path: Path) -> None:
    """A folder of ours gets a .gitignore, also where the journal made it; one with other files in it does not."""
    new, journals, project = tmp_path / "new", tmp_path / "journals", tmp_path / "project"
    (journals / "journal").mkdir(parents=True)
    project.mkdir()
    (project / "main.py").touch()
    for directory in (new, journals, project):
        file = DataFiles(directory, 0)
        export(file, 1)
        file.close()
    assert (new / ".gitignore").read_text() == (journals / ".gitignore").read_text() == "*\n"
    assert not (project / ".gitignore").exists()


def test_a_second_process_of_the_rank_gets_a_file_of_its_own(tmp_path: Path) -> None:
    """Two live processes of one rank never share a file; a name becomes free when its process ends."""
    other = spawn(tmp_path, "write(file, 'theirs'); print('ready', flush=True); sys.stdin.read()")
    assert other.stdout and other.stdout.readline() == "ready\n"
    mine = DataFiles(tmp_path, 0)
    export(mine, 1)
    assert mine.path is not None
    assert mine.path.name.startswith("sessions-r0.") and mine.path.name.endswith(f".{os.getpid()}.jsonl")
    assert ids_in(mine.path) == ids(1)
    assert ids_in(tmp_path / "sessions-r0.jsonl") == ["theirs"]
    other.communicate()
    third = DataFiles(tmp_path, 0)
    export(third, 2)
    third.close()
    mine.close()
    assert ids_in(tmp_path / "sessions-r0.jsonl") == ["theirs", *ids(2)]


def test_a_killed_process_gives_its_file_up(tmp_path: Path) -> None:
    """SIGKILL frees the lock, and the next process goes on in the same file."""
    other = spawn(tmp_path, "write(file, 'a', 'b'); print('ready', flush=True); sys.stdin.read()")
    assert other.stdout and other.stdout.readline() == "ready\n"
    other.send_signal(signal.SIGKILL)
    other.communicate()
    file = DataFiles(tmp_path, 0)
    export(file, 1)
    file.close()
    assert ids_in(tmp_path / "sessions-r0.jsonl") == ["a", "b", *ids(1)]


@pytest.mark.parametrize("closing", ["file.abandon()", "file.close()"])
def test_a_forked_child_does_not_free_its_parents_lock(tmp_path: Path, closing: str) -> None:
    """A child that closes the inherited file leaves the lock to the parent."""
    other = spawn(
        tmp_path,
        f"""
        import os
        write(file, 'parent')
        if os.fork() == 0:
            {closing}
            os._exit(0)
        os.wait()
        print('ready', flush=True)
        sys.stdin.read()
        write(file, 'parent again')
        """,
    )
    assert other.stdout and other.stdout.readline() == "ready\n"
    mine = DataFiles(tmp_path, 0)
    export(mine, 1)
    assert mine.path is not None and mine.path.name != "sessions-r0.jsonl"
    mine.close()
    other.communicate()
    assert ids_in(tmp_path / "sessions-r0.jsonl") == ["parent", "parent again"]


def test_the_parents_lock_ends_with_it_although_a_child_lives(tmp_path: Path) -> None:
    """`close` frees the lock for all copies of the file that a fork made."""
    other = spawn(
        tmp_path,
        """
        import os
        write(file, 'parent')
        if os.fork() == 0:
            sys.stdin.read()
            os._exit(0)
        file.close()
        print('ready', flush=True)
        os.wait()
        """,
    )
    assert other.stdout and other.stdout.readline() == "ready\n"
    mine = DataFiles(tmp_path, 0)
    export(mine, 1)
    assert mine.path == tmp_path / "sessions-r0.jsonl"
    mine.close()
    other.communicate()


@pytest.mark.parametrize("cut", [1, 17, 300])
def test_a_torn_last_line_is_cut_off(tmp_path: Path, cut: int) -> None:
    """What a killed writer left of a line goes; the lines before it stay."""
    path = tmp_path / "sessions-r0.jsonl"
    whole, torn = to_line(session(1).record or {}), to_line(session(2).record or {})
    path.write_bytes(whole + torn[:cut])
    file = DataFiles(tmp_path, 0)
    export(file, 3)
    file.close()
    assert ids_in(path) == ids(1, 3)


def test_a_whole_last_line_is_only_ended(tmp_path: Path) -> None:
    """A record whose newline alone is missing is kept, also a very long one."""
    path = tmp_path / "sessions-r0.jsonl"
    record = {**(session(1).record or {}), "workflow": "w" * 200_000}
    path.write_bytes(to_line(record)[:-1])
    file = DataFiles(tmp_path, 0)
    export(file, 2)
    file.close()
    assert ids_in(path) == ids(1, 2)


def test_rotates_by_size_and_loses_nothing(tmp_path: Path) -> None:
    """No file grows beyond the limit, numbers rise with time, and the name's lock is held all the while."""
    file = DataFiles(tmp_path, 0, max_bytes=4000)
    for number in range(20):
        assert export(file, number) == Delivered()
        assert not is_free(tmp_path / "sessions-r0.jsonl")
    file.close()
    parts = sorted(tmp_path.glob("sessions-r0.*.jsonl"), key=lambda path: int(path.name.split(".")[1]))
    assert len(parts) >= 3
    assert all(path.stat().st_size <= 4000 for path in parts)
    found = [i for path in [*parts, tmp_path / "sessions-r0.jsonl"] for i in ids_in(path)]
    assert found == ids(*range(20))
    again = DataFiles(tmp_path, 0, max_bytes=100)
    export(again, 20, 21)
    again.close()
    assert KnownIds(0, tmp_path).now() == set(ids(*range(22)))


def is_free(path: Path) -> bool:
    """Whether one more process could lock the file."""
    with path.open("rb") as other:
        try:
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def test_a_rotation_that_was_killed_halfway_doubles_nothing(tmp_path: Path) -> None:
    """Killed between its two steps, a rotation leaves one file under two names, and is then completed."""
    first = DataFiles(tmp_path, 0)
    export(first, 1)
    first.close()
    os.link(tmp_path / "sessions-r0.jsonl", tmp_path / "sessions-r0.1.jsonl")
    second = DataFiles(tmp_path, 0, max_bytes=100)
    export(second, 2)
    second.close()
    assert ids_in(tmp_path / "sessions-r0.1.jsonl") == ids(1)
    assert ids_in(tmp_path / "sessions-r0.jsonl") == ids(2)
    assert not (tmp_path / "sessions-r0.2.jsonl").exists()


def test_a_file_that_somebody_removed_is_made_anew(tmp_path: Path) -> None:
    """Removing the folder of a running job costs what was in it, and nothing that comes later."""
    directory = tmp_path / "data"
    file = DataFiles(directory, 0)
    export(file, 1)
    for path in directory.iterdir():
        path.unlink()
    directory.rmdir()
    assert export(file, 2) == Delivered()
    file.close()
    assert ids_in(directory / "sessions-r0.jsonl") == ids(2)


def test_a_place_that_cannot_be_written_to_is_said_and_tried_again(tmp_path: Path) -> None:
    """A file where the folder should be gives Retry with the place in it; when it is gone, records arrive."""
    blocked = tmp_path / "data"
    blocked.write_text("")
    file = DataFiles(blocked, 0)
    answer = export(file, 1)
    assert isinstance(answer, Retry)
    assert str(blocked) in answer.reason
    blocked.unlink()
    assert export(file, 1) == Delivered()
    file.close()
    assert ids_in(blocked / "sessions-r0.jsonl") == ids(1)


def test_a_full_disk_leaves_no_half_of_a_batch(tmp_path: Path) -> None:
    """A batch that does not fit leaves the file as it was, and is whole once there is room."""
    other = spawn(
        tmp_path,
        """
        import resource, signal
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        print(type(write(file, 'first')).__name__)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
        answer = write(file, *(f'{n:040}' for n in range(50)))
        print(type(answer).__name__, answer.reason)
        print(len((Path(sys.argv[1]) / 'sessions-r0.jsonl').read_bytes().splitlines()))
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        print(type(write(file, *(f'{n:040}' for n in range(50)))).__name__)
        """,
    )
    first, second, lines, last, *_ = other.communicate()[0].split("\n")
    assert (first, lines, last) == ("Delivered", "1", "Delivered")
    assert second.startswith("Retry cannot write records to") and "File too large" in second
    assert ids_in(tmp_path / "sessions-r0.jsonl") == ["first", *(f"{n:040}" for n in range(50))]


def test_known_ids_are_those_of_all_files_of_the_rank_and_no_other(tmp_path: Path) -> None:
    """Damaged lines, other ranks' files and files without records cost nothing."""
    (tmp_path / "sessions-r1.jsonl").write_bytes(to_line({"trace_id": "a"}) + b'{"session_id": "torn')
    (tmp_path / "sessions-r1.1.jsonl").write_bytes(b"\xff\xfe\n[1]\n7\n{}\n" + to_line({"trace_id": "b"}))
    (tmp_path / "sessions-r1.node-1.77.jsonl").write_bytes(to_line({"trace_id": "c"}))
    (tmp_path / "sessions-r10.jsonl").write_bytes(to_line({"trace_id": "other"}))
    assert KnownIds(1, tmp_path, tmp_path / "nowhere").now() == {"a", "b", "c"}


def test_known_ids_are_read_once(tmp_path: Path) -> None:
    """Asked again, what was read is not read again, under whatever name it is; what has come since is."""
    path = tmp_path / "sessions-r1.jsonl"
    torn, rest = to_line({"trace_id": "b"})[:9], to_line({"trace_id": "b"})[9:]
    path.write_bytes(to_line({"trace_id": "a"}))
    held = LockedFile(path, 0o600)  # by its writer, who is in the middle of a line
    with path.open("ab") as file:
        file.write(torn)
    known = KnownIds(1, tmp_path)
    assert known.now() == {"a"}
    with path.open("r+b") as file:
        file.write(to_line({"trace_id": "z"}))  # behind its back: it must not look there again
    with path.open("ab") as file:
        file.write(rest + to_line({"trace_id": "c"}))
    path.rename(tmp_path / "sessions-r1.1.jsonl")
    path.write_bytes(to_line({"trace_id": "d"}))
    assert known.now() == {"a", "b", "c", "d"}
    held.close()


def test_a_line_that_a_killed_writer_left_torn_is_cut_off(tmp_path: Path) -> None:
    """In whatever file of the rank it is: under the name of its process no other one will ever write."""
    whole = to_line({"session_id": "a", "trace_id": "a"})
    files = {
        "sessions-r1.jsonl": b'{"session_id": "torn',
        "sessions-r1.node-1.77.jsonl": b'{"session_id": "torn',
        "sessions-r1.node-1.78.jsonl": to_line({"session_id": "b", "trace_id": "b"}).rstrip(b"\n"),
    }
    for name, last in files.items():
        (tmp_path / name).write_bytes(whole + last)
    assert KnownIds(1, tmp_path).now() == {"a", "b"}
    lines = [path.read_bytes() for path in sorted(tmp_path.iterdir())]
    assert lines == [whole, whole, whole + files["sessions-r1.node-1.78.jsonl"] + b"\n"]

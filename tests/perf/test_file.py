"""The file of timed scopes, on a real file system."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rollspan.exporters.base import Delivered, Retry
from rollspan.exporters.files import DataFiles
from rollspan.exporters.known import KnownIds
from rollspan.exporters.perf_file import events_of
from rollspan.finished import FinishedTrace
from rollspan.journal import Position
from rollspan.spandata import KIND_INTERNAL, SpanData
from tests.exporters.samples import session

from . import reading

PROCESS = {"process.pid": 7, "host.name": "node-1", "service.instance.id": "a", "rollout.role": "trainer"}


def step(number: int, at: Position | None = None) -> FinishedTrace:
    """A step with one scope in it."""

    def span(ref: int, parent: int, name: str, **said: Any) -> SpanData:
        return SpanData(number, ref, parent, name, KIND_INTERNAL, 1_000_000 * ref, 9_000_000, said)

    trace = FinishedTrace(
        [
            span(1, 0, "step", **{"rollout.step": number, "thread.id": 3, "thread.name": "main"}),
            span(2, 1, "train", **{"rollout.category": "compute", "thread.id": 3, "thread.name": "main"}),
        ],
        None,
    )
    if at is not None:
        trace.at = at
    return trace


def write(file: DataFiles, *numbers: int, by: dict[str, Any] | None = None) -> Any:
    return file.export([step(number) for number in numbers], by or PROCESS, 1.0)


def steps_in(path: Path) -> list[int]:
    return [e["args"]["rollout.step"] for e in reading.events(path) if e.get("cat") == "step"]


def test_says_whose_it_is(tmp_path: Path) -> None:
    """The process stands before its events, once; again where another one goes on in the file."""
    file = DataFiles(tmp_path, 2, mode=0o640)
    assert write(file, 1) == write(file, 2) == Delivered()
    assert write(file, 3, by={**PROCESS, "process.pid": 8, "service.instance.id": "b"}) == Delivered()
    path = tmp_path / "perf-r2.json"
    events = reading.events(path)
    assert [
        e["args"].get("pid", e["args"].get("rollout.step"))
        for e in events
        if e["name"].startswith(("rollspan", "step"))
    ] == [7, 1, 2, 8, 3]
    assert events[0] == {
        "name": "process_name",
        "ph": "M",
        "pid": 7,
        "tid": 0,
        "args": {"name": "rank 2 trainer"},
    }
    assert events[2]["args"] == {"host": "node-1", "pid": 7, "rank": 2, "role": "trainer", "instance": "a"}
    assert {e["pid"] for e in events} == {7, 8}
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert not (tmp_path / "sessions-r2.jsonl").exists()


def test_two_processes_of_a_rank_have_a_file_each(tmp_path: Path) -> None:
    """As with records; the data directory is kept out of git as before."""
    mine, other = DataFiles(tmp_path / "data", 0), DataFiles(tmp_path / "data", 0)
    write(mine, 1), write(other, 2)
    names = sorted(path.name for path in (tmp_path / "data").glob("perf*"))
    assert len(names) == 2
    assert any(name.endswith(f".{os.getpid()}.json") for name in names)
    assert (tmp_path / "data/.gitignore").exists()


def test_rotates(tmp_path: Path) -> None:
    """A full file gets a number; each one says whose it is."""
    file = DataFiles(tmp_path, 0, max_bytes=1500)
    for number in range(6):
        write(file, number)
    files = sorted(tmp_path.glob("perf-r0.*json"))
    assert [path.name for path in files] == ["perf-r0.1.json", "perf-r0.2.json", "perf-r0.json"]
    assert sorted(number for path in files for number in steps_in(path)) == list(range(6))
    assert all(reading.events(path)[2]["name"] == "rollspan_process" for path in files)


def test_what_a_killed_writer_left_torn_is_cut_off(tmp_path: Path) -> None:
    """And those that are there are known, damaged lines cost nothing, another rank's are none of its."""
    file = DataFiles(tmp_path, 1)
    write(file, 1, 2)
    file.close()
    path = tmp_path / "perf-r1.json"
    whole = path.read_bytes()
    path.write_bytes(whole + b"nonsense,\n[{]\n" + whole.splitlines()[-1][:50])
    (tmp_path / "perf-r10.json").write_bytes(whole.replace(f"{2:032x}".encode(), f"{9:032x}".encode()))
    assert KnownIds(1, tmp_path).now() - {None} == {f"{1:032x}", f"{2:032x}"}
    assert path.read_bytes().endswith(b"[{]\n")


def test_what_is_no_line_of_scopes_is_an_error() -> None:
    """A text, a number, an event without arguments."""
    assert events_of(b"[\n") == []
    for line in (b"{", b"7,", b'{"name":"x"},', b"\xff"):
        with pytest.raises(ValueError, match=r"."):
            events_of(line)


def test_a_try_again_writes_no_scope_twice(tmp_path: Path) -> None:
    """Where scopes could be written and the records could not."""
    blocked = tmp_path / "sessions-r0.jsonl"
    blocked.mkdir()
    file = DataFiles(tmp_path, 0)
    batch = [step(1, Position(1, 10)), session(), step(2, Position(1, 30))]
    batch[1].at = Position(1, 20)
    answer = file.export(batch, PROCESS, 1.0)
    assert isinstance(answer, Retry)
    assert answer.reason.startswith("cannot write records to")
    blocked.rmdir()
    assert file.export(batch, PROCESS, 1.0) == Delivered()
    assert steps_in(tmp_path / "perf-r0.json") == [1, 2]
    assert len(blocked.read_bytes().splitlines()) == 1


def test_a_full_disk_leaves_a_whole_file(tmp_path: Path) -> None:
    """What could not be written is written later, and nothing of it is there before."""
    source = """
import resource, signal, sys
from pathlib import Path
from tests.perf.test_file import DataFiles, write
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
file = DataFiles(Path(sys.argv[1]), 0)
write(file, 1)
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
print(write(file, *range(2, 50)).reason)
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
write(file, *range(2, 50))
"""
    done = subprocess.run(
        [sys.executable, "-c", source, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("cannot write scopes to"), done.stderr
    assert steps_in(tmp_path / "perf-r0.json") == list(range(1, 50))

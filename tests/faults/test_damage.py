"""A dead process's journal that was damaged: only the lines that were hit are lost, and they are counted."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rollspan import health, lines, place
from rollspan.config import Settings
from rollspan.fold import fold_trace
from rollspan.joiner import Joiner
from rollspan.journal import Position
from rollspan.recovery import recover
from tests.conftest import CLEAN
from tests.faults.jobs import in_file

SESSIONS = 60
PROGRAM = f"""
import os, signal, rollspan
for task in range({SESSIONS}):
    session = rollspan.start_session(task_id=task)
    session.mark_enqueued()
    with session.execution(), rollspan.phase("generate", model="m"):
        pass
    if task % 3: session.mark_accepted(reward=1.0)
    if task % 3 == 2: session.mark_consumed()
os.kill(os.getpid(), signal.SIGKILL)
"""


class Dead(NamedTuple):
    """A killed process's journal: folder, its one segment's bytes, and where each line of which trace lies."""

    folder: Path
    content: bytes
    places: list[tuple[int, int, str]]


@pytest.fixture(scope="module")
def dead(tmp_path_factory: pytest.TempPathFactory) -> Dead:
    """A process that was killed before anything of it was delivered."""
    folder = tmp_path_factory.mktemp("dead")
    environment = {
        **CLEAN,
        "ROLLSPAN_ENABLED": "1",
        "ROLLSPAN_DIR": str(folder / "data"),
        "ROLLSPAN_JOURNAL_DIR": str(folder / "journals"),
    }
    subprocess.run([sys.executable, "-c", PROGRAM], env=environment, check=False)
    for path in [*folder.rglob("sessions-*.jsonl"), *folder.rglob("cursors.json")]:
        path.unlink()
    (segment,) = folder.rglob("*.seg")
    content = segment.read_bytes().rstrip(b"\0")
    places, at = [], 0
    for line, end in lines.split(content):
        places.append((at, end, line[lines.TRACE].decode()))
        at = end
    assert len({trace for _, _, trace in places}) == SESSIONS
    return Dead(folder, content, places)


def copied(dead: Dead, scratch: Path) -> Settings:
    """A copy of all its files, as if it had died there; settings to recover it by."""
    shutil.rmtree(scratch, ignore_errors=True)
    shutil.copytree(dead.folder, scratch)
    data, journals = scratch / "data", scratch / "journals"
    (of_data,) = journals.iterdir()  # named by the data directory's path
    of_data.rename(journals / place.key_of(data))
    for path in scratch.rglob("header.json"):
        text = path.read_text().replace(str(dead.folder), str(scratch))
        path.write_text(text.replace(of_data.name, place.key_of(data)))
    return Settings(enabled=True, dir=data, journal_dir=journals)


def recovered(there: Settings) -> dict[str, dict[str, object]]:
    """Records by trace id after a recovery."""
    health.reset()
    recover(there)
    records = in_file(there.dir)
    assert len({record["trace_id"] for record in records}) == len(records)
    return {record["trace_id"]: record for record in records}


def whole(content: bytes) -> dict[str, dict[str, object]]:
    """The records of the undamaged journal."""
    joiner = Joiner()
    ended = joiner.feed(content, Position(1, 0)) + joiner.rest(2)
    records = [fold_trace(finished.spans) for finished in ended]
    return {str(record["trace_id"]): record for record in records if record is not None}


@pytest.mark.parametrize("how", ["truncated", "garbage", "zeros", "inserted"])
def test_damage_costs_only_the_lines_it_hits(dead: Dead, tmp_path: Path, how: str) -> None:
    """Cut off or overwritten at any byte, every session whose lines are whole is recovered as it was."""
    expected = whole(dead.content)
    size = len(dead.content)

    @settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(at=st.integers(0, size - 1), garbage=st.binary(min_size=1, max_size=400))
    def check(at: int, garbage: bytes) -> None:
        end = min(at + len(garbage), size)
        if how == "truncated":
            content, end = dead.content[:at], size
        elif how == "inserted":
            content, end = dead.content[:at] + garbage + dead.content[at:], at + 1
        else:
            filling = garbage[: end - at] if how == "garbage" else bytes(end - at)
            content = dead.content[:at] + filling + dead.content[end:]
        hit = {trace for start, stop, trace in dead.places if start < end and at < stop}
        there = copied(dead, tmp_path / "scratch")
        next(there.dir.parent.rglob("*.seg")).write_bytes(content)
        found = recovered(there)
        assert found.keys() >= expected.keys() - hit
        for trace in expected.keys() - hit:
            assert found[trace] == expected[trace]
        if content != dead.content and how != "truncated":
            assert health.counters()["journal.damaged_lines"] >= 1

    check()


def test_a_header_that_was_lost(dead: Dead, tmp_path: Path) -> None:
    """Without its header a journal is recovered all the same."""
    there = copied(dead, tmp_path / "scratch")
    for path in there.dir.parent.rglob("header.json"):
        path.write_bytes(b"\xff{")
    assert len(recovered(there)) == SESSIONS


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[1, 2]", b'{"file": "x"}'])
def test_cursors_that_were_damaged(dead: Dead, tmp_path: Path, content: bytes) -> None:
    """A damaged note of what was delivered makes recovery deliver again, never less."""
    there = copied(dead, tmp_path / "scratch")
    for path in there.dir.parent.rglob("header.json"):
        (path.parent / "cursors.json").write_bytes(content)
    assert len(recovered(there)) == SESSIONS

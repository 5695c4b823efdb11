"""The journal: what was appended is read back, whatever happens to the file or the process."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollspan import health, lines, owner, place
from rollspan import journal as journal_module
from rollspan.config import Settings
from rollspan.journal import START, Journal, Position
from rollspan.segments import Segment, segment_files

TRACE = b"0" * 31 + b"1"


def journal_in(folder: Path | None, size: int = 4096) -> Journal:
    return Journal(threading.RLock(), lambda: [] if folder is None else [folder], segment_bytes=size)


def line(n: int, pad: int = 0) -> bytes:
    return lines.frame(lines.GOES_ON, TRACE, b'{"n":%d,"p":"%s"}' % (n, b"x" * pad))


def read_all(journal: Journal, at: Position = START) -> bytes:
    whole = b""
    while True:
        chunk, _, after = journal.read(at, 700)
        if not chunk:
            return whole
        whole += chunk
        at = after


@pytest.mark.parametrize("in_memory", [False, True])
def test_what_is_appended_is_read(tmp_path: Path, in_memory: bool) -> None:
    """Lines come back whole and in order over many segments, from files and from anonymous memory."""
    journal = journal_in(None if in_memory else tmp_path)
    written = [line(i, i % 200) for i in range(500)]
    for each in written:
        journal.append(each)
    assert read_all(journal) == b"".join(written)
    assert bool(segment_files(tmp_path)) is not in_memory


def test_a_line_longer_than_a_segment(tmp_path: Path) -> None:
    """A line that no segment holds gets one of its own."""
    journal = journal_in(tmp_path)
    written = [line(0), line(1, 50_000), line(2)]
    for each in written:
        journal.append(each)
    assert read_all(journal) == b"".join(written)


def test_nothing_is_made_before_the_first_line(tmp_path: Path) -> None:
    """A journal that nobody writes to leaves no file."""
    journal = journal_in(tmp_path)
    journal.prepare()
    assert list(tmp_path.iterdir()) == []
    assert journal.end == START


def test_segments_are_made_ahead_and_let_go(tmp_path: Path) -> None:
    """The next segment is there before it is needed; released ones are unlinked; reading skips them."""
    journal = journal_in(tmp_path)
    journal.append(line(0, 3000))
    journal.prepare()
    assert len(segment_files(tmp_path)) == 2
    for i in range(1, 4):
        journal.append(line(i, 3000))
    for segment in journal.segments_before(journal.end.segment):
        journal.release(segment)
    assert [n for n, _ in segment_files(tmp_path)] == [journal.end.segment]
    assert read_all(journal) == line(3, 3000)


def test_released_segments_can_be_kept(tmp_path: Path) -> None:
    """A kept segment moves to disk, no longer than what was written in it, and is read from there."""
    kept = tmp_path / "kept"
    kept.mkdir()
    journal = journal_in(tmp_path)
    for i in range(3):
        journal.append(line(i, 3000))
    journal.release(journal.segments_before(99)[0], kept)
    journal.close(kept)
    assert b"".join(p.read_bytes() for _, p in segment_files(kept)) == b"".join(
        line(i, 3000) for i in range(3)
    )
    assert segment_files(tmp_path) == []


def test_a_backlog_is_cooled_to_disk(tmp_path: Path) -> None:
    """Sealed segments beyond the limit go to disk, oldest first, and are read from there all the same."""
    disk = tmp_path / "disk"
    disk.mkdir()
    journal = journal_in(tmp_path)
    written = [line(i, 3000) for i in range(5)]
    for each in written:
        journal.append(each)
    journal.cool(2 * 4096, disk)
    assert [n for n, _ in segment_files(disk)] == [1, 2]
    assert read_all(journal) == b"".join(written)


def test_without_room_it_goes_on_in_memory(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A folder that takes no more segments is given up with one message; nothing that was written is lost."""
    journal = journal_in(tmp_path)
    journal.append(line(0, 3000))
    for path in tmp_path.iterdir():
        path.rename(tmp_path.parent / path.name)
    tmp_path.rmdir()
    for i in range(1, 6):
        journal.append(line(i, 3000))
    assert read_all(journal) == b"".join(line(i, 3000) for i in range(6))
    assert sum("goes on in memory" in r.getMessage() for r in caplog.records) == 1


def test_a_signal_handler_may_append(tmp_path: Path) -> None:
    """A handler that comes in the middle of an append has its line written beside that one, not into it."""
    journal = journal_in(tmp_path)
    handled: list[int] = []

    def handler(signum: int, frame: object) -> None:
        handled.append(signum)
        journal.append(line(-len(handled), 100))

    before = signal.signal(signal.SIGALRM, handler)
    written = 0
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.0001)
        while len(handled) < 300:
            written += 1
            journal.append(line(written, written % 700))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    found = [orjson.loads(raw[lines.JSON_AT :])["n"] for raw, _ in lines.split(read_all(journal))]
    assert [n for n in found if n > 0] == list(range(1, written + 1))
    assert sorted(n for n in found if n < 0) == list(range(-len(handled), 0))
    assert not health.counters().get("journal.damaged_lines")


def test_threads_append_at_once(tmp_path: Path) -> None:
    """Lines of many threads are all there, each whole, and a reader who follows them meets each once."""
    journal = journal_in(tmp_path)
    followed = b""
    at = START

    def work(k: int) -> None:
        for i in range(400):
            journal.append(line(k * 1000 + i, i % 50))

    threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for t in threads:
            t.start()
        while any(t.is_alive() for t in threads):
            chunk, _, at = journal.read(at, 700)
            followed += chunk
        for t in threads:
            t.join()
    finally:
        sys.setswitchinterval(interval)
    followed += read_all(journal, at)
    expected = sorted(line(k * 1000 + i, i % 50)[:-1] for k in range(8) for i in range(400))
    assert sorted(read_all(journal).replace(b"\0", b"").split(b"\n")[:-1]) == expected
    assert sorted(followed.replace(b"\0", b"").split(b"\n")[:-1]) == expected


def test_a_killed_writer_leaves_every_line(tmp_path: Path) -> None:
    """After SIGKILL in the middle of writing, the segments hold every line that was acknowledged."""
    program = (
        "import sys, threading\nfrom pathlib import Path\n"
        "from rollspan import lines\nfrom rollspan.journal import Journal\n"
        f"j = Journal(threading.RLock(), lambda: [Path({str(tmp_path)!r})], segment_bytes=4096)\n"
        "i = 0\nwhile True:\n"
        " j.append(lines.frame(b's', b'%032x' % i, b'{}'))\n print(i, flush=True)\n i += 1\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for _ in range(300):
        last = process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    last = ([last, *process.stdout.read().split()])[-1]
    process.wait()
    process.stdout.close()
    found = {
        int(each[lines.TRACE], 16)
        for _, path in segment_files(tmp_path)
        for each, _ in lines.split(path.read_bytes().rstrip(b"\0"))
    }
    assert set(range(int(last) + 1)) <= found


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_damage_costs_only_the_damaged_lines(data: st.DataObject) -> None:
    """Whatever bytes are overwritten, cut or inserted: every line that was not touched is read, none is made up."""
    written = [line(i, data.draw(st.integers(0, 40))) for i in range(20)]
    whole = bytearray(b"".join(written))
    at = data.draw(st.integers(0, len(whole) - 1))
    kind = data.draw(st.sampled_from(["overwrite", "cut", "insert", "newline"]))
    length = data.draw(st.integers(1, 60))
    if kind == "overwrite":
        whole[at : at + length] = data.draw(st.binary(min_size=length, max_size=length))
    elif kind == "cut":
        del whole[at : at + length]
    elif kind == "insert":
        whole[at:at] = data.draw(st.binary(min_size=1, max_size=60))
    else:
        whole[at : at + 1] = b"\n"
    found = [each + b"\n" for each, _ in lines.split(bytes(whole))]
    assert all(f in written for f in found)
    first_hurt = 0
    end = 0
    for i, each in enumerate(written):
        end += len(each)
        if end > at:
            first_hurt = i
            break
    assert found[:first_hurt] == written[:first_hurt]
    hurt = (length if kind in ("overwrite", "cut") else 0) // 60 + 4
    assert len(found) >= len(written) - hurt


def test_damage_is_counted() -> None:
    """Each line that fails its checksum is counted, zero bytes are not."""
    good = line(1)
    bad = bytearray(line(2))
    bad[50] ^= 1
    assert [each + b"\n" for each, _ in lines.split(good + bytes(bad) + b"\0\0\0\n" + good)] == [good, good]
    assert health.counters()["journal.damaged_lines"] == 1


def test_segments_reserve_their_pages(tmp_path: Path) -> None:
    """A segment's blocks are allocated when it is made, so that writing to its map cannot fail later."""
    if place.file_system(tmp_path) not in place.RESERVING:
        pytest.skip(f"{place.file_system(tmp_path)} does not reserve")
    segment = Segment(1, 1 << 20, tmp_path)
    assert segment.path is not None
    assert segment.path.stat().st_blocks * 512 >= 1 << 20


def test_file_systems_are_told_apart(tmp_path: Path) -> None:
    """The type of a path's file system is found for existing and future paths."""
    assert place.file_system(Path("/proc/self")) == "proc"
    assert place.file_system(tmp_path / "not" / "there") == place.file_system(tmp_path) != ""


def test_random_streams_of_the_job_are_left_alone(tmp_path: Path) -> None:
    """Nothing here draws from or seeds the job's own random stream."""
    random.seed(0)
    expected = [random.random() for _ in range(3)]
    random.seed(0)
    journal = journal_in(tmp_path)
    for i in range(10):
        journal.append(line(i, 3000))
    assert [random.random() for _ in range(3)] == expected
    assert list(tmp_path.iterdir())


def test_a_delivered_journal_is_removed_segments_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as a segment is left, in memory or on disk, cursors, headers and locks are as well."""
    hot, disk = tmp_path / "hot" / "j", tmp_path / "journal" / "j"
    for folder, names in ((hot, ["00000002.seg", owner.CURSORS]), (disk, ["00000001.seg"])):
        folder.mkdir(parents=True)
        for name in (owner.HEADER, owner.LOCK, *names):
            (folder / name).touch()
    gone: list[str] = []
    unlink = Path.unlink

    def noting(path: Path, missing_ok: bool = False) -> None:
        gone.append(path.name)
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", noting)
    owner.remove(hot, disk)
    twice = [name for name in (owner.HEADER, owner.LOCK) for _ in range(2)]
    assert gone == ["00000001.seg", "00000002.seg", owner.CURSORS, *twice]
    assert not hot.parent.exists()
    assert not disk.exists()


def elsewhere(work: Callable[[], object]) -> bool:
    """Whether another thread gets its work done now."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(5)
    return not thread.is_alive()


@pytest.mark.parametrize("lines_meanwhile", [1, 4])
def test_callers_write_while_a_segment_is_made_ahead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines_meanwhile: int
) -> None:
    """Making the next segment keeps nobody waiting; one that was overtaken by a later one is not used."""
    journal = journal_in(tmp_path)
    journal.append(line(0, 3000))
    got_on: list[bool] = []

    class Slow(Segment):
        def __init__(self, number: int, size: int, folder: Path | None) -> None:
            monkeypatch.undo()
            got_on.append(
                elsewhere(lambda: [journal.append(line(i, 900)) for i in range(1, lines_meanwhile + 1)])
            )
            super().__init__(number, size, folder)

    monkeypatch.setattr(journal_module, "Segment", Slow)
    journal.prepare()
    for i in range(lines_meanwhile + 1, 9):
        journal.append(line(i, 900))
    assert got_on == [True]
    assert read_all(journal) == b"".join(line(i, 900 if i else 3000) for i in range(9))


def test_callers_write_while_a_cooled_segment_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading what lies on disk keeps nobody waiting; what is let go of meanwhile is passed over."""
    disk = tmp_path / "disk"
    disk.mkdir()
    journal = journal_in(tmp_path)
    for i in range(5):
        journal.append(line(i, 3000))
    journal.cool(2 * 4096, disk)
    got_on: list[bool] = []
    real = Segment.read

    def slow(segment: Segment, start: int, end: int) -> bytes:
        if segment.map is None and not got_on:
            got_on.append(elsewhere(lambda: journal.release(segment)))
        return real(segment, start, end)

    monkeypatch.setattr(Segment, "read", slow)
    assert read_all(journal) == b"".join(line(i, 3000) for i in range(1, 5))
    assert got_on == [True]
    assert "journal.unreadable" not in health.counters()


@pytest.mark.parametrize("has_room", [True, False])
def test_spare_folders_are_made_when_needed_and_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_room: bool
) -> None:
    """A process makes the folder it writes in; the next one when there is no room, for its owner only; none stays."""
    roots = [tmp_path / name / "key" for name in ("hot", "spare")]
    monkeypatch.setattr(place, "usable", lambda *_: [place.Place(root, "tmpfs") for root in roots])
    mine = owner.Owner(Settings(dir=tmp_path / "data"), {})
    journal = Journal(threading.RLock(), mine.open, segment_bytes=4096)
    journal.append(line(0, 3000))
    assert not roots[1].exists()
    if not has_room:
        real = Segment.__init__

        def full(self: Segment, number: int, size: int, folder: Path | None) -> None:
            if folder == mine.hot:
                raise OSError("no room")
            real(self, number, size, folder)

        monkeypatch.setattr(Segment, "__init__", full)
        journal.append(line(1, 3000))
        assert len(segment_files(roots[1] / mine.name)) == 1
        assert (roots[1] / mine.name).stat().st_mode & 0o77 == roots[1].stat().st_mode & 0o77 == 0
        assert read_all(journal) == line(0, 3000) + line(1, 3000)
    journal.close(None)
    mine.close(delivered=True, keep=False)
    assert not any(root.exists() for root in roots)

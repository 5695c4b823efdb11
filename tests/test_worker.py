"""The worker goes on whatever its exporters do."""

from __future__ import annotations

import itertools
import json
import random
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import rollspan
from rollspan import exporters, health, left, lines, worker
from rollspan.delivery import Batch, Delivery
from rollspan.exporters.base import Delivered, Retry
from rollspan.joiner import Joiner
from rollspan.journal import START, Journal, Position
from rollspan.segments import segment_files
from rollspan.testing import Recording
from rollspan.worker import Worker


def records(directory: Path) -> list[dict[str, object]]:
    return [json.loads(x) for p in directory.glob("sessions*.jsonl") for x in p.read_text().splitlines()]


def test_exporters_that_cannot_be_made_are_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When making the exporters fails, sessions stay in the journal, and are delivered once it works."""
    real = exporters.build
    failures = iter([OSError("no"), OSError("no")])

    def build(settings: object) -> object:
        for failure in failures:
            raise failure
        return real(settings)  # type: ignore[arg-type]

    monkeypatch.setattr(exporters, "build", build)
    rollspan.configure(dir=tmp_path)
    with rollspan.session():
        pass
    while not rollspan.flush(5):
        pass
    assert len(records(tmp_path)) == 1
    assert health.counters()["internal_errors"] == 2


def test_what_no_exporter_took_is_not_thrown_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the exporters can never be made, the journal stays for whoever comes next."""

    def build(settings: object) -> object:
        raise OSError("never")

    with monkeypatch.context() as patched:
        patched.setattr(exporters, "build", build)
        rollspan.configure(dir=tmp_path)
        with rollspan.session(task_id="first"):
            pass
        assert not rollspan.shutdown(0.5)
    assert len(left.journals(tmp_path)) == 1
    rollspan.configure(dir=tmp_path)
    with rollspan.session(task_id="second"):
        pass
    assert rollspan.shutdown(10)
    assert {r["task_id"] for r in records(tmp_path)} == {"first", "second"}
    assert left.journals(tmp_path) == []


def test_a_wait_for_the_trainer_begins_at_the_verdict(rec: Recording) -> None:
    """Accepted without an execution: the queue ends and post_wait begins at the verdict."""
    s = rollspan.start_session()
    s.mark_accepted()
    s.mark_consumed()
    (record,) = rec.records()
    assert record["post_wait_s"] > 0
    assert record["queue_wait_s"] + record["post_wait_s"] == pytest.approx(record["total_s"], abs=1e-6)


def test_a_step_through_the_queue_without_an_enqueue(rec: Recording) -> None:
    """A phase that begins ends the queue, and enqueue_ts is when it did, whatever waits come later."""
    s = rollspan.start_session()
    with s.phase("generate"):
        pass
    with s.execution():
        pass
    with s.execution():
        pass
    s.mark_accepted()
    s.mark_consumed()
    (record,) = rec.records()
    assert record["enqueue_ts"] == pytest.approx(record["submit_ts"] + record["queue_wait_s"], abs=1e-6)
    assert record["enqueue_ts"] <= record["phases"]["generate"][0]["start_ts"]


class Sink:
    """An exporter that takes everything, or has no room for now."""

    timeout = 0.0

    def __init__(self, name: str) -> None:
        self.name = name
        self.full = False
        self.taken: list[int] = []

    def export(self, traces: Any, resource: object, timeout: float) -> Delivered | Retry:
        if self.full:
            return Retry("full")
        self.taken += [each.spans[0].trace_id for each in traces]
        return Delivered()

    def close(self, timeout: float = 10.0) -> None: ...

    def abandon(self) -> None: ...


class Immediate(Delivery):
    """Exports in the worker's thread what it is offered, as far as it gets and is not `slow`."""

    slow = False

    def offer(self, batch: Batch) -> None:
        self.waiting = [*getattr(self, "waiting", ()), batch]
        self.work()

    def work(self) -> None:
        while not self.slow and self.waiting and self.attempt(self.waiting[0], 1.0):
            self.waiting.pop(0)


class Kept:
    """A journal of small segments and its worker, whose ticks the test makes, with a file and an endpoint."""

    def __init__(self, folder: Path, max_bytes: int = 1 << 30) -> None:
        self.folder = folder
        self.disk = folder / "disk"
        self.disk.mkdir()
        self.lock = threading.RLock()
        self.journal = Journal(self.lock, lambda: [folder], segment_bytes=4096)
        self.open: dict[int, int] = {}
        self.deliveries = [Immediate(Sink(name), {}) for name in ("file", "otlp.records")]  # type: ignore[arg-type]
        self.file, self.otlp = self.deliveries
        self.worker = Worker(
            self.journal,
            self.lock,
            {},
            is_open=lambda trace: trace in self.open,
            keep_up=lambda: None,
            build=lambda: (self.deliveries, None),  # type: ignore[arg-type,return-value]
            max_bytes=max_bytes,
            checkpoint_interval=3600,
            disk=self.disk,
            keep=False,
            save_cursors=lambda cursors: None,
        )
        self.made = 0

    def begin(self, pad: int = 100) -> int:
        self.made += 1
        self.open[self.made] = 0
        self.write(self.made, pad)
        return self.made

    def write(self, trace: int, pad: int = 100, kind: bytes = lines.GOES_ON, **part: int) -> None:
        n = self.open[trace]
        self.open[trace] += 1
        body = {"n": n, **({"t": 1} if n == 0 else {}), "a": {f"note{n}": "x" * pad}, **part}
        payload = json.dumps(body, separators=(",", ":")).encode()
        self.journal.append(lines.frame(kind, b"%032x" % trace, payload))

    def end(self, trace: int) -> None:
        with self.lock:
            self.write(trace, 1, lines.ENDS, e=2)
            del self.open[trace]

    def traffic(self, sessions: int, pad: int = 400) -> None:
        for _ in range(sessions):
            self.end(self.begin(pad))

    def segments(self) -> list[int]:
        return [number for number, _ in segment_files(self.folder, self.disk)]

    def left(self, behind: Position = START) -> tuple[Counter[int], dict[int, int]]:
        """What a kill would leave: traces that end behind a position and are whole, how many lines open ones have."""
        joiner = Joiner()
        ended: Counter[int] = Counter()
        for number, path in segment_files(self.folder, self.disk):
            chunk = path.read_bytes().rstrip(b"\0")
            for each in joiner.feed(chunk, Position(number, 0), behind):
                notes = {int(name[4:]) for name in each.spans[0].attributes if name.startswith("note")}
                ended[each.spans[0].trace_id] += notes == set(range(max(notes) + 1))
        return ended, {
            int(trace, 16): len({line for _, line in each.values()}) for trace, each in joiner.open.items()
        }


def test_a_burst_is_not_disturbed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What callers write in one go is read when they are quiet, when it is much, or after a while."""
    kept = Kept(tmp_path)
    taken = kept.file.exporter.taken  # type: ignore[attr-defined]
    monkeypatch.setattr(worker, "PATIENCE", 1e9)
    monkeypatch.setattr(worker, "MOST_BEHIND", 1e9)

    def burst() -> None:
        kept.traffic(40)

    burst()
    kept.worker.look()  # exporters are made with the first look, however much there is
    assert len(taken) == 40
    kept.worker.look()
    burst()
    kept.worker.look()
    burst()
    kept.worker.look()
    assert len(taken) == 40
    kept.worker.look()
    assert len(taken) == 120
    kept.traffic(1)
    kept.worker.look()
    assert len(taken) == 121
    burst()
    monkeypatch.setattr(worker, "MOST_BEHIND", 1)
    kept.worker.look()
    assert len(taken) == 161
    monkeypatch.setattr(worker, "MOST_BEHIND", 1e9)
    kept.worker.look()
    burst()
    monkeypatch.setattr(worker, "PATIENCE", 0)
    kept.worker.look()
    assert len(taken) == 201


@pytest.mark.parametrize("seed", range(20))
def test_open_sessions_are_whole_in_the_journal_at_any_moment(tmp_path: Path, seed: int) -> None:
    """Whatever is written, ended and let go of: a kill behind any look at the journal finds every open line."""
    kept = Kept(tmp_path)
    dice = random.Random(seed)
    for _ in range(60):
        for _ in range(dice.randrange(12)):
            if kept.open and dice.random() < 0.6:
                trace = dice.choice(list(kept.open))
                kept.write(trace, dice.randrange(900)) if dice.random() < 0.7 else kept.end(trace)
            else:
                kept.begin(dice.randrange(300))
        kept.worker.tick()
        assert kept.left()[1] == kept.open
    assert kept.segments()[0] > 1
    taken = kept.file.exporter.taken  # type: ignore[attr-defined]
    assert sorted(taken) == sorted(set(range(1, kept.made + 1)) - kept.open.keys())


def test_a_session_longer_than_a_segment_is_carried_whole(tmp_path: Path) -> None:
    """Lines that are carried forward into two segments keep both of them."""
    kept = Kept(tmp_path)
    long = kept.begin()
    for _ in range(8):
        kept.write(long, 700)
    for _ in range(200):
        kept.traffic(1)
        kept.worker.tick()
        assert kept.left()[1] == {long: 9}
    assert kept.segments()[0] > 10


def test_a_session_that_has_ended_unread_keeps_its_segments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lines are neither carried, behind its last one, nor let go of, until that was read and delivered."""
    kept = Kept(tmp_path)
    trace = kept.begin()
    kept.traffic(30)
    tend = kept.worker._tend
    unread = []

    def end_before() -> None:
        ends = trace in kept.open and kept.worker._head.segment > 1  # its segment would be let go of now
        if ends:
            kept.end(trace)
            kept.otlp.slow = True
        tend()
        if ends:
            unread.append(kept.left())

    monkeypatch.setattr(kept.worker, "_tend", end_before)
    kept.worker.tick()
    assert [ended[trace] for ended, _ in unread] == [1]
    assert kept.left()[0][trace] == 1
    assert kept.left()[1] == kept.open == {}
    kept.otlp.slow = False
    kept.otlp.work()
    kept.worker.tick()
    assert kept.segments()[0] > 1
    assert kept.file.exporter.taken.count(trace) == 1  # type: ignore[attr-defined]


def test_segments_full_of_open_sessions_stay_as_they_are(tmp_path: Path) -> None:
    """Idle open sessions that fill segments are not copied; when few of them are left, these are, and no more."""
    kept = Kept(tmp_path)
    for _ in range(100):
        kept.begin(300)
    for _ in range(3):
        kept.worker.tick()
    end = kept.journal.end
    for _ in range(10):
        kept.worker.tick()
    assert kept.journal.end == end
    assert kept.segments()[0] == 1
    for trace in list(kept.open)[1:-1]:
        kept.end(trace)
    for _ in range(3):
        kept.worker.tick()
    assert kept.segments()[0] > 1
    assert kept.left()[1] == kept.open == {1: 1, 100: 1}


def test_a_line_that_comes_again_is_known_by_its_number() -> None:
    """Lines carried forward are kept once, in the segment in which they came last, by any reader of the journal."""
    joiner = Joiner()
    written = [
        lines.frame(lines.GOES_ON, b"%032x" % 7, b'{"n":%d,"a":{"k":"%s"}}' % (n, b"x" * n))
        for n in range(50)
    ]
    joiner.feed(b"".join(written), Position(1, 0))
    joiner.feed(b"".join(written[:20]), Position(3, 0))
    (trace,) = joiner.open.values()
    assert [each + b"\n" for _, each in trace.values()] == written
    assert set(joiner.live_bytes) == {1, 3}
    joiner.feed(lines.frame(lines.ENDS, b"%032x" % 7, b'{"n":50}'), Position(4, 0))
    assert [each.first_segment for each in joiner.reaching_back] == [1]
    assert not any(joiner.live_bytes.values())


def test_open_sessions_beyond_the_bound_are_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Open sessions that take more than the bound go beyond it, which is said once, and nobody loses anything."""
    kept = Kept(tmp_path, max_bytes=4 * 4096)
    for _ in range(100):
        kept.begin(300)
        kept.worker.tick()
    assert kept.left()[1] == kept.open
    assert health.counters() == {"journal.over_bound": 1, **delivered(kept)}
    assert [r.getMessage() for r in caplog.records if "takes more than" in r.getMessage()] != []
    for trace in list(kept.open):
        kept.end(trace)
    for _ in range(3):
        kept.worker.tick()
    assert kept.journal.bytes_held() <= 4 * 4096
    assert health.counters() == {"journal.over_bound": 1, **delivered(kept)}
    assert sorted(kept.file.exporter.taken) == list(range(1, 101))  # type: ignore[attr-defined]


def delivered(kept: Kept) -> dict[str, int]:
    taken = {each.name: len(each.exporter.taken) for each in kept.deliveries}  # type: ignore[attr-defined]
    return {f"delivered.{name}": n for name, n in taken.items() if n}


@pytest.mark.parametrize("seed", range(20))
def test_what_the_bound_costs_an_exporter_is_counted_to_the_trace(tmp_path: Path, seed: int) -> None:
    """An endpoint that takes nothing loses what the bound costs, headless traces included; the file loses nothing."""
    kept = Kept(tmp_path, max_bytes=10 * 4096)
    kept.otlp.slow = True
    dice = random.Random(seed)
    for _ in range(60):
        for _ in range(dice.randrange(12)):
            if len(kept.open) > 8 or (kept.open and dice.random() < 0.5):
                trace = dice.choice(list(kept.open))
                kept.write(trace, dice.randrange(900)) if dice.random() < 0.5 else kept.end(trace)
            else:
                kept.begin(dice.randrange(300))
        kept.worker.tick()
        assert kept.left()[1] == kept.open
        assert kept.journal.bytes_held() <= 11 * 4096
    ended = kept.made - len(kept.open)
    lost = health.counters()["lost.otlp.records.journal_full"]
    assert lost > 0
    assert sum(kept.left(kept.otlp.cursor)[0].values()) == ended - lost
    assert len(kept.file.exporter.taken) == ended  # type: ignore[attr-defined]
    assert "lost.file.journal_full" not in health.counters()


def test_a_file_that_is_behind_loses_nothing_by_the_bound(tmp_path: Path) -> None:
    """A file that is slow is waited for, beyond the bound; one that cannot be written loses, and it is counted."""
    kept = Kept(tmp_path, max_bytes=4 * 4096)
    kept.file.slow = True
    for _ in range(20):
        kept.traffic(5)
        kept.worker.tick()
    assert kept.journal.bytes_held() > 4 * 4096
    kept.file.slow = False
    kept.file.work()
    assert len(kept.file.exporter.taken) == 100  # type: ignore[attr-defined]
    kept.file.exporter.full = True  # type: ignore[attr-defined]
    for _ in range(20):
        kept.traffic(5)
        kept.worker.tick()
    assert kept.journal.bytes_held() <= 5 * 4096
    lost = health.counters()["lost.file.journal_full"]
    assert sum(kept.left(kept.file.cursor)[0].values()) == 100 - lost


def test_a_checkpoint_writes_only_what_is_new(rec: Recording) -> None:
    """An open session in which nothing happens is not written again; phases, waits and attributes are, once each."""
    s = rollspan.start_session()
    journal = s.runtime.journal

    def writes() -> list[bool]:
        ends = [journal.end]
        for _ in range(3):
            s.checkpoint(0)
            ends.append(journal.end)
        return [after > before for before, after in itertools.pairwise(ends)]

    once = [True, False, False]
    assert writes() == [False] * 3
    s.mark_enqueued()
    assert writes() == once
    phase = s.phase("generate")
    span = phase.__enter__()
    assert writes() == once
    span.set_attribute("k", 1)
    assert writes() == once
    s.set_attribute("k", 2)
    assert writes() == once
    phase.__exit__(None, None, None)
    assert writes() == once
    s.mark_accepted()
    assert writes() == [False] * 3
    s.mark_consumed()
    assert len(rec.records()) == 1


def test_a_worker_that_never_catches_up_looks_after_the_journal(tmp_path: Path) -> None:
    """While callers write as much as it reads, what every exporter has is let go of all the same."""
    kept = Kept(tmp_path)
    most = 0

    class Busy(Sink):
        def export(self, traces: Any, resource: object, timeout: float) -> Delivered | Retry:
            nonlocal most
            most = max(most, kept.journal.bytes_held())
            kept.traffic(min(len(traces), 500 - kept.made))
            return super().export(traces, resource, timeout)

    kept.file.exporter = Busy("file")
    kept.traffic(20)
    kept.worker.tick()
    assert len(kept.file.exporter.taken) == kept.made == 500
    assert most < 20 * 4096

"""The worker goes on whatever its exporters do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import rollspan
from rollspan import exporters, health, owner
from rollspan.testing import Recording


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
    assert len(owner.journals(tmp_path)) == 1
    rollspan.configure(dir=tmp_path)
    with rollspan.session(task_id="second"):
        pass
    assert rollspan.shutdown(10)
    assert {r["task_id"] for r in records(tmp_path)} == {"first", "second"}
    assert owner.journals(tmp_path) == []


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

"""The drop-in for AReaL's tracer: sessions, of 1.0.4 and of pull request 539."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

import rollspan
from rollspan import view
from rollspan.cli.main import main
from rollspan.compat.areal import perf_tracer, perf_tracer_539
from tests.compat.configured import config, lines, sessions, trial

event = perf_tracer.trace_session_event


@pytest.fixture
def tracer(tmp_path: Path) -> Any:
    """Configured, of 1.0.4."""
    return perf_tracer.configure(config(tmp_path), rank=0).session_tracer


def records(root: Path) -> dict[int, dict[str, Any]]:
    """Rollspan's own, by number."""
    assert rollspan.flush(10)
    found = map(json.loads, (trial(root) / "rollspan/sessions-r0.jsonl").read_text().splitlines())
    return {record["request_id"]: record for record in found}


def near(seconds: float) -> Any:
    """To 10 microseconds: times of the epoch, as floats, are not more exact than a quarter of one."""
    return pytest.approx(seconds, rel=0, abs=1e-5)


def written(root: Path) -> dict[int, dict[str, Any]]:
    """Sessions that are over, as in AReaL's file."""
    perf_tracer.save(force=True)
    return sessions(root)


@pytest.mark.parametrize(
    ("said", "status", "reason", "ours"),
    [
        ({"status": "accepted"}, "accepted", None, None),
        ({}, "accepted", None, None),
        ({"status": "rejected"}, "rejected", "rejected", "should_accept_false"),
        ({"status": "rejected", "reason": "rejected"}, "rejected", "rejected", "should_accept_false"),
        ({"status": "rejected", "reason": "returned_none"}, "rejected", "returned_none", "workflow_returned_none"),
        ({"status": "rejected", "reason": "too long"}, "rejected", "too long", "too long"),
        ({"status": "failed", "reason": "workflow_exception"}, "failed", "workflow_exception", "workflow_exception"),
        ({"status": "failed", "reason": "no server"}, "failed", "no server", "workflow_exception"),
        ({"status": "dropped", "reason": "stale"}, "dropped", "stale", "stale"),
        ({"status": "something"}, "dropped", "something", "something"),
    ],
)  # fmt: skip
def test_verdicts(
    said: dict[str, str], status: str, reason: str | None, ours: str | None, tmp_path: Path, tracer: Any
) -> None:
    """AReaL's words in its file, rollspan's in the record."""
    number = perf_tracer.register_session(3)
    event("mark_finalized", session_id=number, **said)
    (line,) = written(tmp_path).values()
    assert (line["task_id"], line["status"], line.get("reason")) == (3, status, reason)
    record = records(tmp_path)[line["session_id"]]
    assert (record["status"], record.get("rejection_reason")) == (status, ours)
    assert record["trace_id"] == line["trace_id"]
    assert record["task_id"] == 3
    assert line["total_s"] == near(record["total_s"])


def test_an_exception_that_is_handled_is_kept(tmp_path: Path, tracer: Any) -> None:
    """As the executor says it: from within its `except`."""
    number = perf_tracer.register_session(0)
    try:
        {}["nothing"]
    except KeyError:
        event("mark_finalized", session_id=number, status="failed", reason="workflow_exception")
    written(tmp_path)
    assert records(tmp_path)[number or 0]["error_type"] == "KeyError"


def test_an_event_of_a_task_reaches_its_sessions(tmp_path: Path, tracer: Any) -> None:
    """All of them, and no others."""
    perf_tracer.register_task(1)
    mine = [perf_tracer.register_session(1) for _ in range(3)]
    other = perf_tracer.register_session(2)
    assert tracer.get_session_ids(1) == mine
    assert tracer.get_session_ids(9) == []
    event("increment_counter", task_id=1, name="retries", value=2)
    event("increment_counter", task_id=1, name="retries")
    event("mark_finalized", task_id=1, status="accepted")
    found = written(tmp_path)
    assert sorted(found) == sorted(mine)
    assert {line["counters"]["retries"] for line in found.values()} == {3}
    event("mark_finalized", session_id=other, status="accepted")
    assert "counters" not in written(tmp_path)[other or 0]


def test_phases_by_events_and_by_blocks(tmp_path: Path, tracer: Any) -> None:
    """Sums and intervals, under AReaL's names; of a name of one's own too."""
    number = perf_tracer.register_session(0)
    perf_tracer.set_session_id(number)
    event("mark_generate_start", session_id=number)
    time.sleep(0.02)
    event("mark_generate_end", session_id=number)
    with perf_tracer.trace_session_phase("reward", start_payload={"score": 0.5}, end_payload={"tries": 2}):
        time.sleep(0.01)
    with pytest.raises(ZeroDivisionError), perf_tracer.trace_session_phase("judge"):
        raise ZeroDivisionError
    event("mark_finalized", session_id=number, status="accepted")
    (line,) = written(tmp_path).values()
    assert line["generate_s"] >= 0.02
    assert line["reward_s"] >= 0.01
    assert "toolcall_s" not in line
    assert {name: len(spans) for name, spans in line["phases"].items()} == {
        "generate": 1,
        "reward": 1,
        "judge": 1,
    }
    assert line["total_s"] >= line["generate_s"] + line["reward_s"]
    assert line["finalized_ts"] == near(line["submit_ts"] + line["total_s"])
    assert records(tmp_path)[number or 0]["reward"] == 0.5


def test_parallel_phases_of_one_name_are_told_apart(tmp_path: Path, tracer: Any) -> None:
    """AReaL has one place for each name: of three tool calls it makes five, two of them without an end."""
    number = perf_tracer.register_session(0)

    async def call(seconds: float) -> None:
        event("mark_toolcall_start", session_id=number)
        await asyncio.sleep(seconds)
        event("mark_toolcall_end", session_id=number)

    async def calls() -> None:
        await asyncio.gather(call(0.09), call(0.03), call(0.06))

    asyncio.run(calls())
    event("mark_finalized", session_id=number, status="accepted")
    (line,) = written(tmp_path).values()
    lengths = [span["end_ts"] - span["start_ts"] for span in line["phases"]["toolcall"]]
    assert all(length >= expected for length, expected in zip(lengths, (0.09, 0.03, 0.06), strict=True))
    assert lengths[1] < lengths[2] < lengths[0]
    assert line["toolcall_s"] == near(sum(lengths))


def test_an_end_elsewhere_ends_the_oldest(tmp_path: Path, tracer: Any) -> None:
    """Begin and end may come from two threads; an end without a begin is none."""
    number = perf_tracer.register_session(0)
    event("mark_toolcall_end", session_id=number)
    event("mark_toolcall_start", session_id=number)
    other = threading.Thread(target=event, args=("mark_toolcall_end", number))
    other.start()
    other.join()
    event("mark_finalized", session_id=number, status="accepted")
    (line,) = written(tmp_path).values()
    assert len(line["phases"]["toolcall"]) == 1


def test_an_open_phase_ends_with_its_session(tmp_path: Path, tracer: Any) -> None:
    """No `end_ts` is null, and no phase is longer than what it is part of."""
    number = perf_tracer.register_session(0)
    event("mark_generate_start", session_id=number)
    event("mark_finalized", session_id=number, status="rejected")
    (line,) = written(tmp_path).values()
    (span,) = line["phases"]["generate"]
    assert span["end_ts"] == near(line["finalized_ts"])
    assert records(tmp_path)[number or 0]["late_spans"] == 1


def test_nonsense_is_no_error(tmp_path: Path, tracer: Any) -> None:
    """Sessions that nobody knows or that are over, none at all, events that nobody has heard of."""
    number = perf_tracer.register_session(0)
    event("mark_finalized", session_id=number, status="accepted")
    for session in (number, 4711, -1, "x", [], None):
        for method in (
            "mark_generate_start",
            "mark_generate_end",
            "mark_finalized",
            "increment_counter",
            "x",
            "",
        ):
            event(method, session_id=session, name="n")
    event("mark_finalized", task_id=4711, status="accepted")
    with perf_tracer.trace_session_phase("generate"):
        pass
    perf_tracer.set_session_id(number)
    with perf_tracer.trace_session_phase("generate"):
        pass
    (line,) = written(tmp_path).values()
    assert "counters" not in line


def test_sessions_do_not_wait_for_a_threshold(tmp_path: Path, tracer: Any) -> None:
    """`flush_threshold` is 256 here, and one that is over is in the file soon."""
    event("mark_finalized", session_id=perf_tracer.register_session(0), status="accepted")
    until = time.monotonic() + 10
    while not lines(tmp_path, "session_tracer/sessions-r0.jsonl") and time.monotonic() < until:
        time.sleep(0.02)
    assert len(sessions(tmp_path)) == 1


def test_flushing_leaves_open_sessions_open(tmp_path: Path, tracer: Any) -> None:
    """AReaL writes them as pending, and forgets them. `reset` cancels them."""
    numbers = [perf_tracer.register_session(0) for _ in range(2)]
    tracer.flush(force=True)
    assert lines(tmp_path, "session_tracer/sessions-r0.jsonl") == []
    event("mark_finalized", session_id=numbers[0], status="accepted")
    perf_tracer.reset()
    found = sessions(tmp_path)
    assert found[numbers[0] or 0]["status"] == "accepted"
    assert (found[numbers[1] or 0]["status"], found[numbers[1] or 0]["reason"]) == ("dropped", "cancelled")


def test_session_context_is_the_execution(tmp_path: Path, tracer: Any) -> None:
    """Each call a session of its own, with the phases, scopes and counters that happen inside."""

    class Workflow:
        @perf_tracer.session_context()
        async def sample(self, pause: float) -> int | None:
            async with perf_tracer.atrace_session_phase("generate"):
                await asyncio.sleep(pause)
            await self.score()
            with perf_tracer.trace_scope("look up"):
                event("increment_counter", name="turns")
            return perf_tracer.get_session_id()

        @perf_tracer.trace_session("reward")
        async def score(self) -> None:
            await asyncio.sleep(0.01)

    async def task() -> list[int | None]:
        perf_tracer.set_task_id(8)
        assert perf_tracer.get_task_id() == 8
        numbers = await asyncio.gather(*(Workflow().sample(pause) for pause in (0.01, 0.03)))
        event("mark_finalized", task_id=8, status="accepted")
        return numbers

    first, second = asyncio.run(task())
    found = written(tmp_path)
    assert set(found) == {first, second}
    assert found[first or 0]["generate_s"] < found[second or 0]["generate_s"]
    record = records(tmp_path)[first or 0]
    assert set(record["phases"]) == {"execution", "generate", "reward", "look up"}
    assert record["execution_s"] >= record["generate_s"] + record["reward_calc_s"]
    assert record["counters"] == {"turns": 1}
    assert "queue_wait_s" not in record
    assert asyncio.run(Workflow().sample(0)) is None


def test_a_session_that_is_current_is_the_one(tmp_path: Path, tracer: Any) -> None:
    """Its own code ends it; AReaL's verdict is kept."""
    with rollspan.session(workflow="mine") as session:
        number = perf_tracer.register_session(5)
        assert perf_tracer.register_session(5) == number
        with perf_tracer.trace_session_phase("generate"):
            pass
        event("mark_finalized", task_id=5, status="rejected", reason="returned_none")
        assert not session.ended
    (line,) = written(tmp_path).values()
    assert (line["session_id"], line["task_id"], line["reason"]) == (number, 5, "returned_none")
    assert len(records(tmp_path)) == 1
    with rollspan.session():
        pass
    assert list(written(tmp_path)) == [number]  # which is none of AReaL's


def test_a_verdict_inside_of_a_phase_waits_for_it(tmp_path: Path, tracer: Any) -> None:
    """The phase is not cut off."""

    @perf_tracer.session_context()
    def sample() -> None:
        event("mark_finalized", task_id=1, status="accepted")
        time.sleep(0.02)

    perf_tracer.set_task_id(1)
    sample()
    perf_tracer.set_task_id(None)
    (line,) = written(tmp_path).values()
    assert records(tmp_path)[line["session_id"]]["execution_s"] >= 0.02
    assert line["total_s"] >= 0.02


def test_what_is_over_is_forgotten(tmp_path: Path, tracer: Any) -> None:
    """A long job does not keep each of its sessions and tasks."""
    from rollspan.compat.areal.sessions import found

    for task in range(6000):
        event("mark_finalized", session_id=perf_tracer.register_session(task), status="accepted")
    assert len(found._found) <= 1024
    assert len(tracer._tasks) <= 4097
    assert len(written(tmp_path)) == 6000


# Pull request 539.


@pytest.fixture
def tracer_539(tmp_path: Path) -> Any:
    """Configured, as pull request 539 has it."""
    return perf_tracer_539.configure(config(tmp_path), rank=0).session_tracer


def test_539_from_submission_to_consumption(tmp_path: Path, tracer_539: Any) -> None:
    """Its waits, its stats, its names."""
    event = perf_tracer_539.trace_session_event
    number = tracer_539.register_submission()
    time.sleep(0.01)
    event(number, "mark_enqueued")
    time.sleep(0.02)
    event(number, "mark_execution_start")
    event(number, "mark_generate_start")
    time.sleep(0.03)
    event(number, "mark_generate_end")
    with perf_tracer_539.trace_session_phase(number, "reward"):
        pass
    event(number, "increment_counter", name="tries", value=3)
    stats = SimpleNamespace(accepted=1, enqueued=2, rejected=3, running=4)
    event(number, "mark_execution_end", status="accepted", rollout_stats=stats)
    time.sleep(0.04)
    event(number, "mark_consumed")
    (line,) = written(tmp_path).values()
    waits = [line[name] for name in ("queue_wait_s", "runner_wait_s", "execution_s", "post_wait_s")]
    assert all(seconds >= slept for seconds, slept in zip(waits, (0.01, 0.02, 0.03, 0.04), strict=True))
    assert line["total_s"] == near(sum(waits))
    assert line["wait_return_ts"] == near(line["submit_ts"] + line["total_s"])
    assert line["enqueue_ts"] == near(line["submit_ts"] + line["queue_wait_s"])
    assert line["rollout_stats"] == vars(stats)
    assert set(line["phases"]) == {"execution", "generate", "reward"}
    assert (line["session_id"], line["rank"], line["status"]) == (number, 0, "accepted")
    assert line["counters"] == {"tries": 3}
    assert abs(line["submit_ts"] - time.time()) < 60  # of the epoch, so that ranks compare


@pytest.mark.parametrize(
    ("said", "status", "reason"),
    [
        (
            {"status": "rejected", "rejection_reason": "should_accept_false"},
            "rejected",
            "should_accept_false",
        ),
        ({"status": "failed", "rejection_reason": "workflow_exception"}, "failed", "workflow_exception"),
    ],
)
def test_539_verdicts(
    said: dict[str, str], status: str, reason: str, tmp_path: Path, tracer_539: Any
) -> None:
    """What is not accepted is over with its execution."""
    number = perf_tracer_539.register_submission()
    perf_tracer_539.trace_session_event(number, "mark_execution_start")
    perf_tracer_539.trace_session_event(number, "mark_execution_end", **said, rollout_stats={"running": 1})
    (line,) = written(tmp_path).values()
    assert (line["status"], line["rejection_reason"]) == (status, reason)
    assert line["rollout_stats"]["running"] == 1
    assert "late_spans" not in line
    assert records(tmp_path)[number or 0]["late_spans"] == 0


def test_539_dropped_and_by_context(tmp_path: Path, tracer_539: Any) -> None:
    """A submission that finds no room; `trace_session` by the number that the context has."""
    dropped, kept = perf_tracer_539.register_submission(), perf_tracer_539.register_submission()
    perf_tracer_539.trace_session_event(dropped, "mark_dropped", rejection_reason="input_queue_full")
    perf_tracer_539.set_session_id(kept)
    tracer_539.record_event(kept, perf_tracer_539.SessionTraceEvent.EXECUTION_START)

    @perf_tracer_539.trace_session("generate")
    async def generate() -> None:
        pass

    asyncio.run(generate())
    perf_tracer_539.trace_session_event(None, "mark_consumed")
    tracer_539.record_event(kept, perf_tracer_539.SessionTraceEvent.EXECUTION_END, status="accepted")
    tracer_539.record_event(kept, perf_tracer_539.SessionTraceEvent.CONSUMED)
    found = written(tmp_path)
    assert (found[dropped or 0]["status"], found[dropped or 0]["rejection_reason"]) == (
        "dropped",
        "input_queue_full",
    )
    assert set(found[kept or 0]["phases"]) == {"execution", "generate"}


@pytest.mark.parametrize("kept", ["both", "areal's"])
def test_a_trials_folder_holds_each_rollout_once(tmp_path: Path, tracer: Any, kept: str) -> None:
    """AReaL's file of sessions beside the records is no second lot of rollouts; where it is alone, it is read."""
    for task in (1, 2):
        number = tracer.register_session(task)
        event("mark_finalized", session_id=number, status="accepted")
    assert len(written(tmp_path)) == len(records(tmp_path)) == 2
    if kept != "both":
        (trial(tmp_path) / "rollspan/sessions-r0.jsonl").unlink()
    problems: list[str] = []
    found = view.load(trial(tmp_path), problems)
    assert [record["session_id"].__class__ for record in found] == (
        [str, str] if kept == "both" else [int, int]
    )
    said = CliRunner().invoke(main, ["timeline", str(trial(tmp_path)), "--all-runs"])
    assert said.stdout.startswith("1 rank, 0 steps, 2 sessions")
    assert problems == []

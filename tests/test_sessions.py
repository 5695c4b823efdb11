"""The life of a session: waits, verdicts, consumption, wrong use."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import subprocess
import threading
import types
from collections.abc import Callable
from pathlib import Path

import pytest

import rollspan
from rollspan import health
from rollspan.lines import NAME
from rollspan.testing import Recording, fixed, tree
from tests.faults.jobs import in_file


def only(rec: Recording) -> dict:
    records = rec.records()
    assert len(records) == 1
    return records[0]


def test_a_block_is_accepted_and_consumed(rec: Recording) -> None:
    """A plain block that nobody marked is accepted, consumed, and has no waits."""
    with (
        rollspan.session(task_id=7, group_id="7", workflow="w", custom="x") as s,
        rollspan.phase("generate", model="tiny"),
    ):
        pass
    record = only(rec)
    assert record["status"] == "accepted"
    assert record["task_id"] == 7
    assert record["group_id"] == "7"
    assert record["workflow"] == "w"
    assert record["session_id"] == record["trace_id"] == s.session_id == s.trace_id
    assert record["wait_return_ts"] == pytest.approx(record["submit_ts"] + record["total_s"], abs=1e-6)
    assert not {"queue_wait_s", "runner_wait_s", "post_wait_s", "enqueue_ts"} & set(record)


def test_the_whole_life_has_every_wait(rec: Recording) -> None:
    """Submission to consumption is tiled by queue_wait, runner_wait, execution and post_wait."""
    with fixed():
        s = rollspan.start_session(task_id=1)
        s.mark_enqueued()
        with s.execution(), rollspan.phase("generate"):
            pass
        s.mark_accepted(stats=rollspan.RolloutStats(1, 2, 3, 4), reward=0.5)
        s.mark_consumed()
    record = only(rec)
    assert record["rollout_stats"] == {"accepted": 1, "enqueued": 2, "rejected": 3, "running": 4}
    assert record["reward"] == 0.5
    tiled = sum(record[name] for name in ("queue_wait_s", "runner_wait_s", "execution_s", "post_wait_s"))
    assert tiled == pytest.approx(record["total_s"], abs=1e-9)
    assert record["enqueue_ts"] == pytest.approx(record["submit_ts"] + record["queue_wait_s"], abs=1e-6)
    assert tree(rec.traces()[0].spans) == {
        "rollout": {"queue_wait": {}, "runner_wait": {}, "execution": {"generate": {}}, "post_wait": {}}
    }


def test_a_retry_waits_for_the_runner_again(rec: Recording) -> None:
    """Between two executions the session waits for the runner, and only behind the last for the trainer."""
    s = rollspan.start_session()
    s.mark_enqueued()
    with pytest.raises(ValueError, match="again"), s.execution():
        raise ValueError("again")
    with s.execution():
        pass
    s.mark_accepted()
    s.mark_consumed()
    spans = rec.traces()[0].spans
    assert [x.name for x in sorted(spans, key=lambda x: (x.start_ns, -x.end_ns))] == [
        "rollout", "queue_wait", "runner_wait", "execution", "runner_wait", "execution", "post_wait",
    ]  # fmt: skip
    failed = next(x for x in spans if x.name == "execution")
    assert failed.status == 2
    assert failed.attributes["error.type"] == "ValueError"
    assert only(rec)["status"] == "accepted"


@pytest.mark.parametrize("enqueued", [False, True])
def test_any_phase_ends_a_pending_wait(rec: Recording, enqueued: bool) -> None:
    """Whoever works on a session no longer waits for a runner, though nobody marked an execution."""
    s = rollspan.start_session()
    if enqueued:
        s.mark_enqueued()
    with s.activate(), rollspan.phase("generate"), rollspan.phase("inner"):
        pass
    with s.activate(), rollspan.phase("reward"):
        pass
    s.mark_accepted()
    with s.activate(), rollspan.phase("late work"):
        pass
    s.mark_consumed()
    spans = {span.name: span for span in sorted(rec.traces()[0].spans, key=lambda x: (x.start_ns, -x.end_ns))}
    waits = ["queue_wait", "runner_wait"] if enqueued else ["queue_wait"]
    assert list(spans) == ["rollout", *waits, "generate", "inner", "reward", "post_wait", "late work"]
    assert spans[waits[-1]].end_ns <= spans["generate"].start_ns
    assert spans["post_wait"].end_ns >= spans["late work"].end_ns


def test_exception_fails_the_block_and_goes_on(rec: Recording) -> None:
    """An exception marks the session failed with its type, without its text, and reaches the caller."""
    with pytest.raises(RuntimeError, match="secret"), rollspan.session():
        raise RuntimeError("secret prompt")
    record = only(rec)
    assert (record["status"], record["rejection_reason"]) == ("failed", "workflow_exception")
    assert record["error_type"] == "RuntimeError"
    root = rec.traces()[0].spans[0]
    assert root.status == 2
    assert "secret" not in repr(root)


@pytest.mark.parametrize("kind", [asyncio.CancelledError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_cancellation_drops_the_block(rec: Recording, kind: type[BaseException]) -> None:
    """A cancellation is no failure: the session is dropped as cancelled and the exception goes on."""
    with pytest.raises(kind), rollspan.session():
        raise kind
    record = only(rec)
    assert (record["status"], record["rejection_reason"]) == ("dropped", "cancelled")


def test_a_time_limit_is_a_cancellation_unless_the_block_says_timeout(rec: Recording) -> None:
    """A limit around a block cancels it; one inside that is caught and marked drops the session for its timeout."""

    async def block(*, says_so: bool) -> None:
        async with rollspan.session() as s:
            try:
                await asyncio.wait_for(asyncio.sleep(10), 0.01 if says_so else 10)
            except asyncio.TimeoutError:
                s.mark_dropped("timeout")

    async def main() -> None:
        await block(says_so=True)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(block(says_so=False), 0.01)

    asyncio.run(main())
    assert [(r["status"], r["rejection_reason"]) for r in rec.records()] == [
        ("dropped", "timeout"),
        ("dropped", "cancelled"),
    ]


@pytest.mark.parametrize(
    ("mark", "status", "reason"),
    [
        (lambda s: s.mark_rejected(), "rejected", "should_accept_false"),
        (lambda s: s.mark_rejected("workflow_returned_none"), "rejected", "workflow_returned_none"),
        (lambda s: s.mark_failed(ValueError("x")), "failed", "workflow_exception"),
        (lambda s: s.mark_dropped("input_queue_full"), "dropped", "input_queue_full"),
        (lambda s: s.mark_dropped("my own reason"), "dropped", "my own reason"),
    ],
)
def test_a_terminal_verdict_ends_the_session(rec: Recording, mark, status: str, reason: str) -> None:
    """Rejected, failed and dropped end the session at once, without consumption."""
    s = rollspan.start_session()
    mark(s)
    assert s.ended
    record = only(rec)
    assert (record["status"], record["rejection_reason"]) == (status, reason)
    assert "wait_return_ts" not in record
    assert record["queue_wait_s"] == pytest.approx(record["total_s"], abs=1e-6)
    assert "enqueue_ts" not in record


def test_a_failure_by_something_that_is_no_exception_is_said_once(
    rec: Recording, caplog: pytest.LogCaptureFixture
) -> None:
    """The verdict counts all the same, and the warning does not repeat what was given: it may be a prompt."""
    for _ in range(2):
        rollspan.start_session().mark_failed("what the model said")  # type: ignore[arg-type]
    assert [(r["status"], r.get("error_type")) for r in rec.records()] == [("failed", None)] * 2
    (warning,) = [r.getMessage() for r in caplog.records if "mark_failed" in r.getMessage()]
    assert "got str" in warning
    assert "model" not in warning


@pytest.mark.parametrize("mark", ["mark_rejected", "mark_dropped"])
def test_an_exception_as_the_reason_is_its_type(rec: Recording, mark: str) -> None:
    """Who gives an exception for a reason leaks no message, which may hold a prompt."""
    with rollspan.session() as block:
        getattr(block, mark)(ValueError("SECRET"))
    getattr(rollspan.start_session(), mark)(asyncio.QueueFull("SECRET"))
    assert [r["rejection_reason"] for r in rec.records()] == ["ValueError", "asyncio.queues.QueueFull"]
    assert "SECRET" not in repr([rec.records(), rec.traces()])


def test_accepted_may_turn_into_dropped(rec: Recording) -> None:
    """An accepted session that is thrown away is dropped, and keeps its reward."""
    s = rollspan.start_session()
    with s.execution():
        pass
    s.mark_accepted(reward=1.0)
    s.mark_dropped("stale_weight")
    record = only(rec)
    assert (record["status"], record["rejection_reason"], record["reward"]) == (
        "dropped",
        "stale_weight",
        1.0,
    )


def test_a_second_verdict_warns_once_and_changes_nothing(
    rec: Recording, caplog: pytest.LogCaptureFixture
) -> None:
    """The first verdict stands, whoever says another."""
    for _ in range(2):
        s = rollspan.start_session()
        s.mark_accepted()
        s.mark_rejected()
        s.mark_failed(ValueError())
        s.mark_accepted()
        s.mark_consumed()
    assert [r["status"] for r in rec.records()] == ["accepted", "accepted"]
    assert sum("already was accepted" in r.message for r in caplog.records) == 1
    assert health.counters()["api.second_verdict"] == 6


def test_a_verdict_inside_the_execution_waits_for_its_end(rec: Recording) -> None:
    """A verdict from inside the workflow ends the session when the workflow's block ends, and clips nothing."""
    s = rollspan.start_session()
    with s.execution():
        with rollspan.phase("generate"):
            s.mark_rejected()
        assert not s.ended
        with rollspan.phase("reward"):
            pass
    assert s.ended
    record = only(rec)
    assert record["late_spans"] == 0
    assert set(record["phases"]) == {"execution", "generate", "reward"}


def test_phases_still_open_at_the_end_are_clipped_once(rec: Recording) -> None:
    """A phase that outlives its session is exported clipped and marked late, and its own end changes nothing."""
    s = rollspan.start_session()
    entered = threading.Event()
    go_on = threading.Event()

    def work() -> None:
        with s.execution(), rollspan.phase("generate"):
            entered.set()
            go_on.wait(10)

    thread = threading.Thread(target=work)
    thread.start()
    entered.wait(10)
    s.mark_dropped("timeout")
    go_on.set()
    thread.join()
    record = only(rec)
    assert record["late_spans"] == 2
    spans = rec.traces()[0].spans
    assert sorted(x.name for x in spans if x.attributes.get("rollout.late")) == ["execution", "generate"]
    assert {x.end_ns for x in spans if x.name in ("rollout", "execution", "generate")} == {spans[0].end_ns}


def test_parallel_phases_of_one_name_are_all_kept(rec: Recording) -> None:
    """Three tool calls at once are three spans; their sum and their union both stand in the record."""

    async def call(delay: float) -> None:
        async with rollspan.phase("toolcall", tool="calc", call_id="1"):
            await asyncio.sleep(delay)

    async def main() -> None:
        async with rollspan.session():
            await asyncio.gather(call(0.03), call(0.01), call(0.03))

    asyncio.run(main())
    record = only(rec)
    assert len(record["phases"]["toolcall"]) == 3
    assert record["toolcall_s"] > 0.069
    assert 0.029 < record["toolcall_wall_s"] < record["toolcall_s"]
    spans = [x for x in rec.traces()[0].spans if x.name == "toolcall"]
    assert {x.attributes["rollout.parent_phase"] for x in spans} == {"session"}
    assert spans[0].attributes["gen_ai.tool.name"] == "calc"
    assert spans[0].attributes["gen_ai.operation.name"] == "execute_tool"


def test_reward_after_the_verdict_counts(rec: Recording) -> None:
    """A reward computed while the session waits for the trainer is in the record."""
    s = rollspan.start_session()
    with s.execution():
        pass
    s.mark_accepted()
    with s.phase("reward", score=2.0):
        pass
    s.mark_consumed()
    record = only(rec)
    assert record["reward"] == 2.0
    assert len(record["phases"]["reward"]) == 1


def test_generation_attributes_by_plain_words(rec: Recording) -> None:
    """record_generation fills the standard names, and the record sums them over turns."""
    with rollspan.session():
        for _ in range(2):
            with rollspan.phase("generate", model="tiny", provider="sglang"):
                rollspan.record_generation(
                    input_tokens=3,
                    output_tokens=5,
                    cached_tokens=1,
                    weight_version=[4, 5, 5],
                    finish_reasons="stop",
                    prompt="SECRET",
                    completion="SECRET",
                )
        with rollspan.phase("generate", continuation=True):
            rollspan.record_generation(output_tokens=1, weight_version=6)
    span = next(x for x in rec.traces()[0].spans if x.name == "generate")
    assert span.kind == 3
    attributes = dict(span.attributes)
    assert attributes.pop("session.id")
    assert attributes == {
        "rollout.phase": "generate",
        "rollout.parent_phase": "session",
        "gen_ai.operation.name": "text_completion",
        "gen_ai.request.model": "tiny",
        "gen_ai.provider.name": "sglang",
        "gen_ai.usage.input_tokens": 3,
        "gen_ai.usage.output_tokens": 5,
        "gen_ai.usage.cache_read.input_tokens": 1,
        "gen_ai.response.finish_reasons": ["stop"],
        "rollout.weight_version.min": 4,
        "rollout.weight_version.max": 5,
    }
    record = only(rec)
    assert (record["input_tokens"], record["output_tokens"], record["turns"]) == (6, 11, 2)
    assert (record["weight_version_min"], record["weight_version_max"]) == (4, 6)


def test_segments_of_a_generation_say_which_weights_wrote_what_and_how_long_it_was_paused(
    rec: Recording,
) -> None:
    """Parts are given as mappings or objects; the span has a list of each, the record the pause in all."""
    part = types.SimpleNamespace(weight_version=4, output_tokens=7, duration_s=1.5, paused_s=0.25)
    with rollspan.session(), rollspan.phase("generate"):
        rollspan.record_generation(
            output_tokens=9,
            weight_version=[3, 3, *[4] * 7],
            segments=[{"weight_version": 3, "output_tokens": 2, "duration_s": 1}, part],
        )
    with rollspan.session(), rollspan.phase("generate"):
        rollspan.record_generation(segments=["no segment"])
    first, second = rec.traces()
    span = next(x for x in first.spans if x.name == "generate")
    assert {
        name: value for name, value in span.attributes.items() if "segment" in name or "paused" in name
    } == {
        "rollout.segment.weight_version": [3, 4],
        "rollout.segment.output_tokens": [2, 7],
        "rollout.segment.duration_s": [1.0, 1.5],
        "rollout.segment.paused_s": [0.0, 0.25],
        "rollout.paused_s": 0.25,
    }
    with_pause, without = rec.records()
    assert (with_pause["generate_paused_s"], with_pause["turns"]) == (0.25, 1)
    assert (with_pause["weight_version_min"], with_pause["weight_version_max"]) == (3, 4)
    assert "generate_paused_s" not in without
    assert not any("segment" in name for span in second.spans for name in span.attributes)


def test_step_links(rec: Recording) -> None:
    """A session links to the step that submitted it and the one that consumed it; the steps carry counts."""
    with rollspan.step(11):
        s = rollspan.start_session()
    s.mark_accepted()
    with rollspan.step(12) as step:
        step.set_attribute("loss", 0.5)
        consumer = threading.Thread(target=s.mark_consumed)  # an executor's thread does not have the context
        consumer.start()
        consumer.join()
        with rollspan.phase("train"):
            pass
    assert only(rec)["links"] == {"dispatch_step": 11, "consume_step": 12}
    traces = {t.spans[0].name + str(t.spans[0].attributes.get("rollout.step", "")): t for t in rec.traces()}
    root = traces["rollout"].spans[0]
    assert [(x.attributes["rollout.link"], x.trace_id) for x in root.links] == [
        ("dispatch", traces["step11"].spans[0].trace_id),
        ("consume", traces["step12"].spans[0].trace_id),
    ]
    twelve = traces["step12"]
    assert twelve.record is None
    assert twelve.spans[0].attributes["rollout.step.consumed"] == 1
    assert twelve.spans[0].attributes["loss"] == 0.5
    assert tree(twelve.spans) == {"step": {"train": {}}}


def test_counters_and_attributes(rec: Recording) -> None:
    """Counters add up, attributes of the root stand in the trace."""
    with rollspan.session() as s:
        rollspan.count("retries")
        s.count("retries", 2)
        s.set_attribute("difficulty", "hard")
    assert only(rec)["counters"] == {"retries": 3}
    assert rec.traces()[0].spans[0].attributes["difficulty"] == "hard"


def test_caller_chooses_the_session_id(rec: Recording) -> None:
    """A session id of the caller's stands on every span; the trace id stays its own."""
    with rollspan.session(session_id="mine-1"), rollspan.phase("generate"):
        pass
    record = only(rec)
    assert record["session_id"] == "mine-1"
    assert len(record["trace_id"]) == 32
    assert {x.attributes["session.id"] for x in rec.traces()[0].spans} == {"mine-1"}


def test_wrong_use_warns_once_and_keeps_the_record(rec: Recording, caplog: pytest.LogCaptureFixture) -> None:
    """Marks after the end, consumption without a verdict, phases without a session: one line each."""
    with caplog.at_level(logging.WARNING, "rollspan"):
        for _ in range(3):
            with rollspan.phase("generate"):
                rollspan.record_reward(1.0)
            s = rollspan.start_session()
            s.mark_consumed()
            s.mark_dropped("late")
            s.count("x")
            with s.execution():
                pass
    assert [r["status"] for r in rec.records()] == ["accepted"] * 3
    said = [r.getMessage() for r in caplog.records]
    assert len(said) == len(set(said)) == 5
    assert any("has no session here" in m for m in said)


def test_an_end_before_its_start_ends_at_the_start(rec: Recording) -> None:
    """An explicit end time in the past never makes a negative duration."""
    with rollspan.session(), rollspan.phase("generate") as span:
        span.end(5)
    assert only(rec)["generate_s"] == 0.0


def test_wall_clock_stepping_back(rec: Recording, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wall clock that jumps back inside a session changes no duration and no order."""
    from rollspan import clock

    real = clock.time_ns
    s = rollspan.start_session()
    with s.execution():
        monkeypatch.setattr(clock, "time_ns", lambda: real() - 2_000_000_000)
        with rollspan.phase("generate"):
            pass
    s.mark_accepted()
    s.mark_consumed()
    record = only(rec)
    assert 0 <= record["generate_s"] <= record["execution_s"] <= record["total_s"] < 1


def test_many_phases_are_written_as_they_come(rec: Recording) -> None:
    """A session with thousands of phases keeps them all and holds few of them in memory."""
    with rollspan.session() as s:
        for _ in range(3000):
            with rollspan.phase("generate"):
                pass
        assert len(s.spans) < 600
    assert len(only(rec)["phases"]["generate"]) == 3000


def test_shutdown_ends_what_is_open(tmp_path) -> None:
    """At an orderly end the accepted stay accepted, the others are dropped, none stays pending."""
    from rollspan import view
    from rollspan.testing import recording

    with recording(tmp_path):
        rollspan.start_session(task_id="open")
        rollspan.start_session(task_id="accepted").mark_accepted()
        entered = rollspan.start_session(task_id="running")
        contextvars.copy_context().run(entered.execution().__enter__)  # never left, and current only in there
    found = {r["task_id"]: r for r in view.load(tmp_path)}
    assert (found["open"]["status"], found["open"]["rejection_reason"]) == ("dropped", "cancelled")
    assert found["accepted"]["status"] == "accepted"
    assert "wait_return_ts" not in found["accepted"]
    assert (found["running"]["status"], found["running"]["late_spans"]) == ("dropped", 1)


CONTENT = {"gen_ai.input.messages": "SECRET", "gen_ai.tool.call.result": "SECRET"}


@pytest.mark.parametrize("wanted", [False, True])
def test_content_is_recorded_only_on_request(tmp_path: Path, wanted: bool) -> None:
    """Prompts, completions, tool arguments and exception texts stand nowhere, journal included, unless asked for."""
    from rollspan.testing import recording

    with recording(tmp_path, capture_content=wanted):
        with (
            pytest.raises(ValueError, match="SECRET"),
            rollspan.step(1, **CONTENT),
            rollspan.session(**CONTENT) as s,
        ):
            with rollspan.phase("generate", prompt="SECRET", **CONTENT) as span:
                rollspan.record_generation(
                    prompt=[{"role": "user", "content": "SECRET"}], completion="SECRET"
                )
                span.set_attributes(CONTENT)
            with rollspan.phase("toolcall", tool="t", arguments={"x": "SECRET"}, result="SECRET"):
                rollspan.record_tool_call("t", arguments="SECRET", result="SECRET")
            with rollspan.phase("other", **CONTENT):
                pass
            s.set_attribute("gen_ai.output.messages", "SECRET")
            raise ValueError("SECRET")
        rollspan.flush()
    written = b"".join(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())
    assert (b"SECRET" in written) is wanted


def test_hostile_names_cost_nothing_else(rec: Recording) -> None:
    """Phase, counter and attribute names of any kind are made fit; the session is complete."""
    with rollspan.session(**{"": 1}) as s:
        for name in ("\ud800bad\n", "x" * 5000, "", 7, None):
            with rollspan.phase(name):  # type: ignore[arg-type]
                pass
            s.count(name)  # type: ignore[arg-type]
            s.set_attribute(name, name)  # type: ignore[arg-type]
    record = only(rec)
    assert record["status"] == "accepted"
    assert sum(len(v) for v in record["phases"].values()) == 5
    assert sum(record["counters"].values()) == 5


def test_what_cannot_be_written_is_salvaged(rec: Recording, monkeypatch: pytest.MonkeyPatch) -> None:
    """A value that slipped past the cleaning is counted as our error, and the session is written all the same."""
    monkeypatch.setattr(health, "raise_internal_errors", False)
    with rollspan.session(), rollspan.phase("generate") as span:
        span.row[NAME] = "generate\ud800"
    assert set(only(rec)["phases"]) == {"generate\\ud800"}
    assert health.counters()["internal_errors"] == 1


def test_execution_is_entered_async_as_well(rec: Recording) -> None:
    """`async with` works for executions, phases, sessions, steps and activations alike."""

    async def main() -> None:
        async with rollspan.step(1):
            s = rollspan.start_session()
            async with s.execution(), s.activate(), s.phase("generate"):
                await asyncio.sleep(0)
            s.mark_accepted()
            s.mark_consumed()

    asyncio.run(main())
    assert set(only(rec)["phases"]) == {"execution", "generate"}


def test_numbers_that_are_none_are_left_out_with_a_word(
    rec: Recording, caplog: pytest.LogCaptureFixture
) -> None:
    """A count or a score of another type is named once and left out; what can be a number becomes one."""
    np = pytest.importorskip("numpy")
    with rollspan.session():
        with rollspan.phase("generate", input_tokens="three"):
            rollspan.record_generation(output_tokens=np.int64(4), cached_tokens=2.0)
        with rollspan.phase("reward"):
            rollspan.record_reward("good")  # type: ignore[arg-type]
        with rollspan.phase("reward"):
            rollspan.record_reward(np.float32(0.5))  # type: ignore[arg-type]
    rollspan.start_session().mark_rejected(reward="fine")  # type: ignore[arg-type]
    record, _ = rec.records()
    assert "input_tokens" not in record
    assert (record["output_tokens"], record["reward"]) == (4, 0.5)
    assert [r.getMessage() for r in caplog.records if "was left out" in r.getMessage()] == [
        "rollspan: input_tokens of type str was left out: expected a whole number",
        "rollspan: score of type str was left out: expected a number (of a tensor: its .item())",
        "rollspan: reward of type str was left out: expected a number (of a tensor: its .item())",
    ]


def test_decorators_without_parentheses_are_explained() -> None:
    """Forgetting the name or the parentheses is a TypeError that says what to write."""
    with pytest.raises(TypeError, match=r"@rollspan.phase\('reward'\)"):
        rollspan.phase(only)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"@rollspan.session\(\)"):
        rollspan.session(only)
    with pytest.raises(TypeError, match="number"):
        rollspan.step(only)


def test_a_record_outside_of_its_phase_names_the_cure(
    rec: Recording, caplog: pytest.LogCaptureFixture
) -> None:
    """record_reward() in a session without a reward phase says where it belongs."""
    with rollspan.session():
        rollspan.record_reward(1.0)
    assert "rollspan.phase('reward')" in caplog.text
    assert "mark_accepted(reward=...)" in caplog.text


def test_sessions_without_a_verdict_are_counted_at_the_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What was never marked is told from what was cancelled, by a line at the process's end."""
    from rollspan.testing import recording

    with recording(tmp_path):
        for _ in range(3):
            rollspan.start_session()
        rollspan.start_session().mark_accepted()
    assert "3 sessions had no verdict" in caplog.text


def test_the_machinerys_start_is_not_in_the_first_session(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Folders and threads are there before the first session looks at the clock."""
    from rollspan import clock, owner
    from rollspan.testing import recording

    looked = []
    real = owner.Owner.open
    monkeypatch.setattr(owner.Owner, "open", lambda self: looked.append(clock.time_ns()) or real(self))
    with recording(tmp_path) as rec:
        with rollspan.session():
            pass
        assert looked
        assert only(rec)["submit_ts"] >= looked[0] / 1e9


HANDLER = """
import logging, os, threading, time
import rollspan

class Counting(logging.Handler):
    def emit(self, record):
        if record.name != "rollspan":
            inside.set()
            time.sleep(0.1)
        session.count("messages")
        counted.release()

def wrong_use():
    inside.wait()
    session.mark_enqueued()
    session.mark_enqueued()  # the second is wrong, which is found out under the session's lock

session = rollspan.start_session()
inside = threading.Event()
counted = threading.Semaphore(0)
logging.getLogger().addHandler(Counting())
threads = [
    threading.Thread(target=logging.getLogger("user").warning, args=("x",)),
    threading.Thread(target=wrong_use),
]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join(5.0)
if any(thread.is_alive() for thread in threads):
    os._exit(3)
assert counted.acquire(timeout=5.0) and counted.acquire(timeout=5.0)
session.mark_rejected()
"""


def test_a_logging_handler_may_use_the_session(
    run_program: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    """A handler that counts on the session, while another thread's wrong use is being said: neither waits for ever."""
    run_program(HANDLER)
    (record,) = in_file(tmp_path / "data")
    assert record["counters"] == {"messages": 2}

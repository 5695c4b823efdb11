"""The executor: every ending of a rollout, read back from the file of records; waits, groups, limits, the end."""

from __future__ import annotations

import asyncio
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import rollspan
from rollspan import perf
from rollspan.rollout import RolloutError, RolloutExecutor, Trajectory, WorkflowTaskInput
from rollspan.testing import Recording
from tests.faults.jobs import in_file

from .workflows import NullEngine, Steps, for_ever, one_token, trajectory


@pytest.fixture
def engine() -> NullEngine:
    """An engine without a server."""
    return NullEngine()


def until(condition: Any) -> None:
    """Wait for something that happens in another thread."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.002)


def endings(rec: Recording) -> list[tuple[str, str | None]]:
    """Status and reason of each record in the file, in the order of submission."""
    records = sorted(rec.records(), key=lambda record: record["request_id"])
    return [(record["status"], record.get("rejection_reason")) for record in records]


def test_submitted_rollouts_reach_the_trainer(rec: Recording, engine: NullEngine) -> None:
    """What was submitted comes back in that order, with every wait and phase in the record."""
    with RolloutExecutor(engine) as executor:
        numbers = [executor.submit({"task_id": f"t{i}", "reward": i}, Steps(one_token)) for i in range(5)]
        batch = executor.wait(5, timeout=30)
        assert executor.get_stats() == rollspan.RolloutStats(accepted=5)
    assert numbers == [0, 1, 2, 3, 4]
    assert [float(t["rewards"]) for t in batch] == [0, 1, 2, 3, 4]
    assert engine.closed
    records = sorted(rec.records(), key=lambda record: record["request_id"])
    assert [record["task_id"] for record in records] == ["t0", "t1", "t2", "t3", "t4"]
    assert len({record["group_id"] for record in records}) == 5
    for record in records:
        assert (record["status"], record["workflow"]) == ("accepted", "Steps")
        assert {
            "queue_wait_s",
            "runner_wait_s",
            "post_wait_s",
            "enqueue_ts",
            "wait_return_ts",
        } <= record.keys()
        assert record["phases"].keys() == {"execution", "generate", "reward"}
        assert record["rollout_stats"].keys() == {"accepted", "enqueued", "rejected", "running"}


# Every ending.


async def none(engine: Any, task: WorkflowTaskInput) -> None:
    """Rejects itself."""


async def raises(engine: Any, task: WorkflowTaskInput) -> Trajectory:
    """Fails."""
    raise LookupError("an exception of the workflow's")


def test_a_workflow_that_returns_none_rejects(rec: Recording, engine: NullEngine) -> None:
    """Its session is rejected, and who waits is told that nothing can come any more."""
    with RolloutExecutor(engine) as executor:
        executor.submit({}, Steps(none))
        with pytest.raises(RolloutError, match="0 trajectories are ready, 1 were asked for"):
            executor.wait(1, timeout=30)
        assert executor.get_stats() == rollspan.RolloutStats(rejected=1)
    assert endings(rec) == [("rejected", "workflow_returned_none")]


def test_what_should_accept_fn_refuses_is_rejected(rec: Recording, engine: NullEngine) -> None:
    """The refused one is rejected with its reward, the other one comes."""
    with RolloutExecutor(engine) as executor:
        for reward in (0.0, 1.0):
            executor.submit({"reward": reward}, Steps(one_token), lambda t: bool(t["rewards"].mean() > 0.5))
        (taken,) = executor.wait(1, timeout=30)
    assert float(taken["rewards"]) == 1
    assert endings(rec) == [("rejected", "should_accept_false"), ("accepted", None)]
    assert [record["reward"] for record in rec.records()] == [0.0, 1.0]


@pytest.mark.parametrize("where", ["workflow", "should_accept_fn"])
def test_an_exception_fails_the_session(rec: Recording, engine: NullEngine, where: str) -> None:
    """Of the workflow or of should_accept_fn: the session has failed with its type, the next one is not touched."""

    def refuses(taken: Trajectory) -> bool:
        raise LookupError("an exception of the caller's")

    with RolloutExecutor(engine) as executor:
        if where == "workflow":
            executor.submit({}, Steps(raises))
        else:
            executor.submit({}, Steps(one_token), refuses)
        executor.submit({}, Steps(one_token))
        assert len(executor.wait(1, timeout=30)) == 1
    assert endings(rec) == [("failed", "workflow_exception"), ("accepted", None)]
    assert rec.records()[0]["error_type"] == "LookupError"


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_a_workflow_that_exits_ends_nothing_but_itself(
    rec: Recording, engine: NullEngine, kind: type[BaseException]
) -> None:
    """An exit in a workflow is a failure of its rollout, and the event loop goes on."""

    async def exits(engine: Any, task: WorkflowTaskInput) -> Trajectory:
        raise kind

    with RolloutExecutor(engine) as executor:
        executor.submit({}, Steps(exits))
        executor.submit({}, Steps(one_token))
        executor.wait(1, timeout=30)
    assert endings(rec) == [("failed", "workflow_exception"), ("accepted", None)]


def test_a_rollout_that_takes_too_long_is_dropped(rec: Recording, engine: NullEngine) -> None:
    """Also one that swallows its cancellation and answers all the same."""

    async def stubborn(engine: Any, task: WorkflowTaskInput) -> Trajectory:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return trajectory()
        raise AssertionError("unreachable")

    with RolloutExecutor(engine, rollout_timeout=0.05) as executor:
        executor.submit({}, Steps(for_ever))
        executor.submit({}, Steps(stubborn))
        with pytest.raises(RolloutError):
            executor.wait(1, timeout=30)
    assert endings(rec) == [("dropped", "timeout")] * 2


def test_a_full_queue_drops_what_comes(rec: Recording, engine: NullEngine) -> None:
    """With when_full="drop" the submission is dropped at once, and gives no number."""
    with RolloutExecutor(engine, queue_size=2, when_full="drop") as executor:
        executor.pause()
        numbers = [executor.submit({}, Steps(one_token)) for _ in range(4)]
        assert numbers == [0, 1, None, None]
        executor.resume()
        assert len(executor.wait(2, timeout=30)) == 2
    assert endings(rec) == [("accepted", None)] * 2 + [("dropped", "input_queue_full")] * 2


def test_a_full_queue_lets_who_submits_wait(rec: Recording, engine: NullEngine) -> None:
    """By default submit() waits until there is room, and all run."""
    with RolloutExecutor(engine, queue_size=2) as executor:
        executor.pause()
        thread = threading.Thread(target=lambda: [executor.submit({}, Steps(one_token)) for _ in range(5)])
        thread.start()
        until(lambda: executor.get_stats().enqueued == 3)  # two in the queue, one before it
        executor.resume()
        thread.join()
        assert len(executor.wait(5, timeout=30)) == 5
    assert endings(rec) == [("accepted", None)] * 5


def test_who_waits_for_room_is_told_of_the_end(rec: Recording, engine: NullEngine) -> None:
    """A blocked submit() raises when the executor is closed, and its session is cancelled."""
    executor = RolloutExecutor(engine, queue_size=1)
    executor.pause()
    executor.submit({}, Steps(one_token))
    raised: list[BaseException] = []

    def submit() -> None:
        try:
            executor.submit({}, Steps(one_token))
        except RolloutError as error:
            raised.append(error)

    thread = threading.Thread(target=submit)
    thread.start()
    until(lambda: executor.get_stats().enqueued == 2)
    executor.close()
    thread.join()
    assert "closed" in str(raised[0])
    assert endings(rec) == [("dropped", "cancelled")] * 2


def test_what_is_too_old_for_new_weights_is_dropped(rec: Recording, engine: NullEngine) -> None:
    """Both what is ready when the version changes, and what becomes so later; the trainer gets none of it."""
    go_on = asyncio.Event()

    async def slow(engine: Any, task: WorkflowTaskInput) -> Trajectory:
        taken = await one_token(engine, task)
        await go_on.wait()
        return taken

    with RolloutExecutor(engine, max_staleness=1, consumer_batch_size=2) as executor:
        executor.submit({}, Steps(one_token))
        executor.submit({}, Steps(slow))
        until(lambda: executor.get_stats().accepted == 1)
        executor.set_version(1)
        assert executor.get_stats().accepted == 1
        executor.set_version(2)
        assert executor.get_stats() == rollspan.RolloutStats(rejected=1, running=1)

        async def let_go() -> None:
            go_on.set()

        executor.run(let_go())
        until(lambda: executor.get_stats().rejected == 2)
        executor.submit({}, Steps(one_token))
        (taken,) = executor.wait(1, timeout=30)
    assert int(taken["versions"].max()) == 2
    assert endings(rec) == [("dropped", "stale_weight")] * 2 + [("accepted", None)]
    assert all("execution" in record["phases"] for record in rec.records())


def test_a_group_that_is_not_whole_is_filtered(rec: Recording, engine: NullEngine) -> None:
    """The good rollouts of a group with a bad one were accepted and are thrown away; with min_group_size they stay."""

    async def third_fails(engine: Any, task: WorkflowTaskInput) -> Trajectory | None:
        return None if task.sample == 2 else await one_token(engine, task)

    with RolloutExecutor(engine) as executor:
        executor.submit({}, Steps(third_fails), group_size=3)
        with pytest.raises(RolloutError):
            executor.wait(1, timeout=30)
        assert executor.get_stats() == rollspan.RolloutStats(rejected=1)
    lost = [("dropped", "group_filtered")] * 2 + [("rejected", "workflow_returned_none")]
    assert endings(rec) == lost
    with RolloutExecutor(engine, min_group_size=2) as executor:
        executor.submit({}, Steps(third_fails, group_size=3))
        (taken,) = executor.wait(1, timeout=30)
    assert taken["input_ids"].shape == (2, 3)
    assert endings(rec)[3:] == [("accepted", None)] * 2 + lost[2:]


def test_closing_ends_every_session(rec: Recording, engine: NullEngine) -> None:
    """What waits, what was handed over and what runs is cancelled; what is ready keeps its verdict, not consumed."""
    executor = RolloutExecutor(engine, max_concurrent_rollouts=2)
    executor.submit({}, Steps(one_token))
    until(lambda: executor.get_stats().accepted == 1)
    for _ in range(7):
        executor.submit({}, Steps(for_ever))
    until(lambda: executor.get_stats().running == 2)
    executor.close()
    executor.close()
    assert endings(rec) == [("accepted", None)] + [("dropped", "cancelled")] * 7
    records = sorted(rec.records(), key=lambda record: record["request_id"])
    assert "wait_return_ts" not in records[0]
    assert ["execution" in record["phases"] for record in records] == [True] * 3 + [False] * 5
    assert executor.get_stats() == rollspan.RolloutStats(accepted=1, rejected=4)


def test_closing_leaves_behind_what_does_not_end(
    rec: Recording, engine: NullEngine, caplog: pytest.LogCaptureFixture
) -> None:
    """A rollout that goes on although it was cancelled is dropped in the record, and said in the log."""
    ends = threading.Event()

    async def immortal(engine: Any, task: WorkflowTaskInput) -> Trajectory | None:
        while not ends.is_set():
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                continue
        return None

    executor = RolloutExecutor(engine)
    executor.submit({}, Steps(immortal))
    until(lambda: executor.get_stats().running == 1)
    executor.close(timeout=0.2)
    ends.set()
    assert endings(rec) == [("dropped", "cancelled")]
    assert "1 rollouts go on although they were cancelled" in caplog.text


# Waits.


def test_waits_are_what_queueing_arithmetic_says(rec: Recording, engine: NullEngine) -> None:
    """Two at once, all as long: the k-th begins after k/2 rounds, and is handed over one round before."""
    service = 0.2

    async def works(engine: Any, task: WorkflowTaskInput) -> Trajectory:
        await asyncio.sleep(service)
        return trajectory()

    with RolloutExecutor(engine, max_concurrent_rollouts=2) as executor:
        executor.pause()
        for _ in range(8):
            executor.submit({}, Steps(works))
        executor.resume()
        executor.wait(8, timeout=30)
    records = sorted(rec.records(), key=lambda record: record["request_id"])
    rounds = [(round(r["queue_wait_s"] / service), round(r["runner_wait_s"] / service)) for r in records]
    assert rounds == [(0, 0), (0, 0), (0, 1), (0, 1), (1, 1), (1, 1), (2, 1), (2, 1)]
    for before, after in zip(
        records, records[2:], strict=False
    ):  # its place is that of the one two before it
        ended, began = (r["phases"]["execution"][0] for r in (before, after))
        assert 0 <= began["start_ts"] - ended["end_ts"] < service
        assert after["submit_ts"] + after["queue_wait_s"] + after["runner_wait_s"] == pytest.approx(
            began["start_ts"], abs=1e-5
        )


def test_what_waits_for_new_weights_waits_in_the_queue(rec: Recording, engine: NullEngine) -> None:
    """Without staleness a second batch is not handed over before the trainer has new weights."""
    with RolloutExecutor(engine, max_staleness=0, consumer_batch_size=2) as executor:
        for _ in range(4):
            executor.submit({}, Steps(one_token))
        executor.wait(2, timeout=30)
        time.sleep(0.05)
        assert executor.get_stats() == rollspan.RolloutStats(accepted=2, enqueued=2)
        assert executor.get_capacity() == 0
        trained = time.time()
        executor.set_version(1)
        executor.wait(2, timeout=30)
    records = sorted(rec.records(), key=lambda record: record["request_id"])
    assert [record["enqueue_ts"] >= trained for record in records] == [False, False, True, True]
    assert all(record["queue_wait_s"] >= 0.05 for record in records[2:])


def test_a_pause_holds_back_what_has_not_begun(rec: Recording, engine: NullEngine) -> None:
    """Rollouts that run go on, others wait until resume()."""
    begun = threading.Event()
    goes_on = threading.Event()

    async def works(engine: Any, task: WorkflowTaskInput) -> Trajectory:
        begun.set()
        await asyncio.to_thread(goes_on.wait)
        return trajectory()

    with RolloutExecutor(engine) as executor:
        executor.submit({}, Steps(works))
        begun.wait(30)
        executor.pause()
        assert executor.is_paused()
        executor.submit({}, Steps(one_token))
        goes_on.set()
        executor.wait(1, timeout=30)
        with pytest.raises(
            TimeoutError, match="0 rollouts run, 1 wait: nothing begins while the executor is paused"
        ):
            executor.wait(1, timeout=0.05)
        executor.resume()
        executor.wait(1, timeout=30)


def test_who_waits_in_vain_is_told_why_after_a_while(
    engine: NullEngine, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nothing may begin a word in the log says what holds it up, once."""
    monkeypatch.setattr("rollspan.rollout.ready._SAID_AFTER", 0.02)
    with RolloutExecutor(engine) as executor:
        executor.pause()
        executor.submit({}, Steps(one_token))
        with pytest.raises(TimeoutError):
            executor.wait(1, timeout=0.3)
    assert caplog.text.count("0 rollouts run, 1 wait: nothing begins while the executor is paused") == 1


# Groups.


def test_a_group_is_one_trajectory_and_a_session_each(rec: Recording, engine: NullEngine) -> None:
    """Its rollouts run at once, share a group, and become the rows of one trajectory, padded on the right."""
    inside = asyncio.Barrier(3) if hasattr(asyncio, "Barrier") else None

    async def meets(engine: Any, task: WorkflowTaskInput) -> Trajectory:
        if inside is not None:
            await inside.wait()
        assert task.session_id == rollspan.current_session().session_id
        return trajectory(task.sample, length=task.sample + 2)

    with RolloutExecutor(engine) as executor:
        executor.submit({"id": 5}, Steps(meets, group_size=3))
        (taken,) = executor.wait(1, timeout=30)
    assert taken["input_ids"].tolist() == [[1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]
    assert taken["versions"][0].tolist() == [-1, 0, -1, -1]
    assert taken["attention_mask"].sum(1).tolist() == [2, 3, 4]
    assert taken["rewards"].tolist() == [0, 1, 2]
    records = rec.records()
    assert len({record["group_id"] for record in records}) == 1
    assert {(record["task_id"], record["status"]) for record in records} == {(5, "accepted")}
    assert sorted(record["reward"] for record in records) == [0, 1, 2]


def test_should_accept_fn_sees_the_whole_group(rec: Recording, engine: NullEngine) -> None:
    """A group whose rewards are all the same can be refused, all of its rollouts with it."""

    async def rewarded(engine: Any, task: WorkflowTaskInput) -> Trajectory:
        return trajectory(task.sample * task.data["differs"])

    with RolloutExecutor(engine) as executor:
        for differs in (0, 1):
            executor.submit(
                {"differs": differs},
                Steps(rewarded),
                lambda group: bool(group["rewards"].std() > 0),
                group_size=2,
            )
        executor.wait(1, timeout=30)
    assert endings(rec) == [("rejected", "should_accept_false")] * 2 + [("accepted", None)] * 2


def test_the_age_of_a_group_is_that_of_its_oldest_token(rec: Recording, engine: NullEngine) -> None:
    """One old row makes the whole group too old."""

    async def aged(engine: Any, task: WorkflowTaskInput) -> Trajectory:
        return trajectory(version=3 * task.sample)

    with RolloutExecutor(engine, max_staleness=2, consumer_batch_size=1, version=3) as executor:
        executor.submit({}, Steps(aged), group_size=2)
        with pytest.raises(RolloutError):
            executor.wait(1, timeout=30)
    assert endings(rec) == [("dropped", "stale_weight")] * 2


# Limits.


def test_too_many_failures_in_a_row_reach_the_trainer(rec: Recording, engine: NullEngine) -> None:
    """The call that waits raises with the last exception as its cause; the next call waits again."""
    with RolloutExecutor(engine, max_consecutive_failures=3) as executor:
        executor.pause()
        for _ in range(3):
            executor.submit({}, Steps(raises))
        executor.submit({}, Steps(one_token))
        executor.resume()
        with pytest.raises(
            RolloutError, match="3 rollouts in a row have failed, the last one of Steps"
        ) as raised:
            executor.wait(1, timeout=30)
        assert isinstance(raised.value.__cause__, LookupError)
        assert len(executor.wait(1, timeout=30)) == 1


def test_a_batch_that_fails_altogether_is_no_empty_one(engine: NullEngine) -> None:
    """However soon its rollouts are over, rollout_batch() raises with the cause."""
    with RolloutExecutor(engine, max_consecutive_failures=3) as executor:
        for _ in range(5):
            with pytest.raises(RolloutError, match="3 rollouts in a row") as raised:
                executor.rollout_batch([{}] * 3, Steps(raises))
            assert isinstance(raised.value.__cause__, LookupError)


def test_a_good_rollout_between_failures_is_no_row(rec: Recording, engine: NullEngine) -> None:
    """Failures are counted from the last good one on."""
    with RolloutExecutor(engine, max_consecutive_failures=2, max_concurrent_rollouts=1) as executor:
        for function in (raises, one_token, raises, one_token):
            executor.submit({}, Steps(function))
        assert len(executor.wait(2, timeout=30)) == 2


def test_the_log_says_what_failed_and_not_what_it_said(
    engine: NullEngine, caplog: pytest.LogCaptureFixture
) -> None:
    """Messages of exceptions may hold prompts."""
    with RolloutExecutor(engine) as executor:
        for _ in range(3):
            executor.submit({}, Steps(raises))
        with pytest.raises(RolloutError) as raised:
            executor.wait(1, timeout=30)
    assert isinstance(raised.value.__cause__, LookupError)
    assert caplog.text.count("a rollout of Steps failed with LookupError") == 1
    assert "an exception of the workflow's" not in caplog.text


def test_a_wrong_trajectory_fails_its_session(
    rec: Recording, engine: NullEngine, caplog: pytest.LogCaptureFixture
) -> None:
    """The cause, and the log, say what is wrong with it."""

    async def wrong(engine: Any, task: WorkflowTaskInput) -> Any:
        return {**trajectory(), "rewards": [1.0]}

    with RolloutExecutor(engine, max_consecutive_failures=1) as executor:
        executor.submit({}, Steps(wrong))
        with pytest.raises(RolloutError) as raised:
            executor.wait(1, timeout=30)
    assert "'rewards'" in str(raised.value.__cause__)
    assert "a trajectory of Steps is wrong: 'rewards' is a list; expected" in caplog.text
    assert endings(rec) == [("failed", "workflow_exception")]


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"max_staleness": -1}, "max_staleness is -1"),
        ({"consumer_batch_size": 0}, "consumer_batch_size is 0"),
        ({"max_concurrent_rollouts": 1.5}, "max_concurrent_rollouts is 1.5"),
        ({"queue_size": 0}, "queue_size is 0"),
        ({"when_full": "wait"}, "when_full is 'wait'"),
        ({"rollout_timeout": 0}, "rollout_timeout is 0"),
        ({"min_group_size": 0}, "min_group_size is 0"),
        ({"max_consecutive_failures": 0}, "max_consecutive_failures is 0"),
        ({"consumer_batch_size": "4"}, "consumer_batch_size is '4'"),
        ({"rollout_timeout": "5"}, "rollout_timeout is '5'"),
        ({"check_trajectory_format": "no"}, "check_trajectory_format is 'no'"),
        ({"version": -1}, "version is -1"),
        ({"version": "0"}, "version is '0'"),
        ({"engine": "localhost:30000"}, "engine is 'localhost:30000'"),
        ({"engine": NullEngine}, "expected an object with `async agenerate"),
    ],
)
def test_settings_that_make_no_sense_are_named(
    engine: NullEngine, settings: dict[str, Any], names: str
) -> None:
    """The error names the value and what was expected."""
    with pytest.raises(ValueError, match=names):
        RolloutExecutor(**{"engine": engine, **settings})


def test_arguments_that_make_no_sense_are_named(engine: NullEngine) -> None:
    """Nothing is submitted then."""

    async def accepts(taken: Trajectory) -> bool:
        return True

    with RolloutExecutor(engine, max_staleness=1, consumer_batch_size=2) as executor:
        with pytest.raises(ValueError, match="expected an object with `async arun_episode"):
            executor.submit({}, one_token)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="is the class Steps"):
            executor.submit({}, Steps)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="expected a plain function"):
            executor.submit({}, Steps(one_token), accepts)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="group_size is 0"):
            executor.submit({}, Steps(one_token), group_size=0)
        with pytest.raises(ValueError, match="5 rollouts at once will never be ready"):
            executor.wait(5)
        with pytest.raises(ValueError, match="number of rollouts is 0"):
            executor.wait(0)
        with pytest.raises(ValueError, match="version is -1"):
            executor.set_version(-1)
        with pytest.raises(ValueError, match="number is 'a'"):
            executor.wait_for_task("a")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="number is 99"):
            executor.wait_for_task(99)
        with pytest.raises(ValueError, match="timeout is 'x'"):
            executor.wait(1, timeout="x")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="the state lacks dataloaders, version"):
            executor.load_state_dict({})
        with pytest.raises(ValueError, match="dataloader is a dict"):
            executor.prepare_batch({"a": 1}, Steps(one_token))
        assert executor.get_stats() == rollspan.RolloutStats()


# Several ways to take.


def test_one_rollout_can_be_waited_for(rec: Recording, engine: NullEngine) -> None:
    """By its number, once; a rejected one gives None, and so does one that was taken."""
    with RolloutExecutor(engine) as executor:
        first, second, rejected = (
            executor.submit({"reward": i}, Steps(function))
            for i, function in enumerate((one_token, one_token, none))
        )
        taken = executor.wait_for_task(second, timeout=30)
        assert taken is not None
        assert float(taken["rewards"]) == 1
        assert executor.wait_for_task(second) is None
        assert executor.wait_for_task(rejected, timeout=30) is None
        assert len(executor.wait(1, timeout=30)) == 1
        assert executor.wait_for_task(first) is None


def test_a_batch_of_data_is_rolled_out_at_once(rec: Recording, engine: NullEngine) -> None:
    """More than staleness would allow, in the order of the data, without those that were refused."""
    with RolloutExecutor(engine, max_staleness=0, consumer_batch_size=1) as executor:
        data = [{"reward": i} for i in range(5)]
        batch = executor.rollout_batch(data, Steps(one_token), lambda t: float(t["rewards"]) != 2, timeout=30)
        assert [float(t["rewards"]) for t in batch] == [0, 1, 3, 4]
        executor.submit({"reward": 9}, Steps(one_token))
        assert float(executor.wait(1, timeout=30)[0]["rewards"]) == 9


def test_a_batch_of_which_some_fail_says_so(
    rec: Recording, engine: NullEngine, caplog: pytest.LogCaptureFixture
) -> None:
    """Those that are good come, the log says what the others failed with; where none is good the error is raised."""

    async def odd_ones_fail(engine: Any, task: WorkflowTaskInput) -> Trajectory:
        if task.data["id"] % 2:
            raise LookupError("the cause")
        return trajectory()

    with RolloutExecutor(engine) as executor:
        assert len(executor.rollout_batch([{"id": i} for i in range(5)], Steps(odd_ones_fail))) == 3
        assert "2 of 5 rollouts of a batch failed: LookupError" in caplog.text
        with pytest.raises(
            RolloutError, match=r"none of 1 rollouts was good, 1 failed, .* LookupError: the cause"
        ):
            executor.rollout_batch([{"id": 1}], Steps(odd_ones_fail))
        assert executor.rollout_batch([{"id": 1}], Steps(none)) == []
        with pytest.raises(ValueError, match="data is a dict"):
            executor.rollout_batch({"id": 1}, Steps(none))


def test_a_batch_that_is_given_up_leaves_nothing_behind(rec: Recording, engine: NullEngine) -> None:
    """After a time-out what was asked for is dropped when it comes."""
    late = threading.Event()

    async def waits(engine: Any, task: WorkflowTaskInput) -> Trajectory:
        if task.data["late"]:
            await asyncio.to_thread(late.wait)
        return trajectory()

    with RolloutExecutor(engine) as executor:
        with pytest.raises(TimeoutError):
            executor.rollout_batch([{"late": False}, {"late": True}], Steps(waits), timeout=0.1)
        late.set()
        until(lambda: executor.get_stats() == rollspan.RolloutStats(rejected=2))
    assert endings(rec) == [("dropped", "cancelled")] * 2


def test_evaluation_is_beside_training(rec: Recording, engine: NullEngine) -> None:
    """It runs although staleness holds back training, wait() does not give it, and no version makes it too old."""
    with RolloutExecutor(engine, max_staleness=0, consumer_batch_size=1) as executor:
        executor.submit({}, Steps(one_token))
        until(lambda: executor.get_stats().accepted == 1)
        executor.submit({}, Steps(one_token))
        number = executor.submit({"reward": 5}, Steps(one_token), is_eval=True)
        until(lambda: executor.get_stats().accepted == 2)
        executor.wait(1, timeout=30)
        executor.set_version(3)
        taken = executor.wait_for_task(number, timeout=30)
        assert taken is not None
        assert float(taken["rewards"]) == 5


def test_the_engine_knows_of_new_weights_before_a_rollout_begins_for_them(
    rec: Recording, engine: NullEngine
) -> None:
    """Else that one's tokens are older than those it was counted among, and it is dropped in the end."""
    seen: list[tuple[int, int, int]] = []

    class Told(NullEngine):
        def set_version(self, version: int) -> None:
            seen.append((version, executor.get_version(), executor.get_capacity()))
            super().set_version(version)

    with RolloutExecutor(Told(), max_staleness=0, consumer_batch_size=1) as executor:
        executor.submit({}, Steps(one_token))
        executor.wait(1, timeout=30)
        executor.set_version(1)
        with pytest.raises(ValueError, match="version is 0; expected a whole number of at least 1"):
            executor.set_version(0)
        assert executor.get_capacity() == 1
    assert seen == [(1, 0, 0)]


def test_who_waits_in_vain_is_told_what_became_of_the_others(rec: Recording, engine: NullEngine) -> None:
    """Nothing was submitted; all were refused, and by what; the executor is paused, or staleness holds it back."""

    def fails(trajectory: Trajectory) -> bool:
        raise LookupError("no such rule")

    with RolloutExecutor(engine, max_staleness=0, consumer_batch_size=1) as executor:
        executor.submit({}, Steps(one_token), is_eval=True)
        with pytest.raises(
            RolloutError, match=r"submit\(\) asks for more; .* is_eval comes by wait_for_task\(\)"
        ):
            executor.wait(1, timeout=30)
        executor.submit({}, Steps(one_token), fails)
        with pytest.raises(
            RolloutError, match="failed or dropped, the last error is LookupError: no such rule"
        ):
            executor.wait(1, timeout=30)
        executor.pause()
        number = executor.submit({}, Steps(one_token))
        with pytest.raises(
            TimeoutError, match=r"0 rollouts run, 1 wait, 1 were rejected.*; resume\(\) lets it"
        ):
            executor.wait_for_task(number, timeout=0.05)
        executor.resume()
        until(lambda: executor.get_stats().accepted == 2)
        number = executor.submit({}, Steps(one_token))
        with pytest.raises(
            TimeoutError, match=r"0 rollouts run, 1 wait, .* set_version\(\) has to be called first"
        ):
            executor.wait_for_task(number, timeout=0.05)
        with pytest.raises(
            ValueError, match="the number of rollouts is 0; expected a whole number of at least 1"
        ):
            executor.prepare_batch([{}], Steps(one_token), batch_size=0)
        with pytest.raises(ValueError, match="the state lacks dataloaders, version"):
            executor.load_state_dict({"x": 1})


def test_a_workflow_that_is_not_async_is_told_so(
    rec: Recording, engine: NullEngine, caplog: pytest.LogCaptureFixture
) -> None:
    """Its session fails, and the log says where."""

    class Plain:
        def arun_episode(self, engine: NullEngine, task: WorkflowTaskInput) -> Trajectory:
            return trajectory()

    with RolloutExecutor(engine) as executor:
        executor.submit({}, Plain())  # type: ignore[arg-type]
        with pytest.raises(
            RolloutError, match=r"Plain\.arun_episode gave a dict; expected something to await"
        ):
            executor.wait(1, timeout=30)
    assert "rollspan: a rollout of Plain failed with TypeError at " in caplog.text
    assert endings(rec) == [("failed", "workflow_exception")]


def test_steps_are_linked_from_what_they_submitted_and_consumed(rec: Recording, engine: NullEngine) -> None:
    """The step that was current in the trainer's thread, whatever the event loop does."""
    with RolloutExecutor(engine) as executor:
        with perf.step(4):
            executor.submit({}, Steps(one_token))
            executor.submit({}, Steps(one_token))
            executor.wait(1, timeout=30)
        with perf.step(5):
            executor.wait(1, timeout=30)
    links = [record["links"] for record in sorted(rec.records(), key=lambda record: record["request_id"])]
    assert links == [{"dispatch_step": 4, "consume_step": 4}, {"dispatch_step": 4, "consume_step": 5}]


def test_what_is_current_where_one_submits_is_not_so_in_the_rollout(
    rec: Recording, engine: NullEngine
) -> None:
    """A session that submits further rollouts is not theirs."""
    seen: list[str] = []

    async def looks(engine: Any, task: WorkflowTaskInput) -> Trajectory:
        seen.append(rollspan.current_session().session_id)
        return trajectory()

    with RolloutExecutor(engine) as executor, rollspan.session() as outer, rollspan.phase("mine"):
        executor.submit({}, Steps(looks))
        executor.wait(1, timeout=30)
        assert rollspan.current_session().session_id == outer.session_id
    assert seen[0] != outer.session_id
    assert len(rec.records()) == 2


# The event loop.


def test_waiting_inside_of_the_event_loop_is_refused(engine: NullEngine) -> None:
    """A workflow that waits for rollouts of its own executor would wait for ever."""

    async def waits(engine: Any, task: WorkflowTaskInput) -> Trajectory:
        executor.wait(1)
        return trajectory()

    with RolloutExecutor(engine, max_consecutive_failures=1) as executor:
        executor.submit({}, Steps(waits))
        with pytest.raises(RolloutError) as raised:
            executor.wait(1, timeout=30)
        assert "would be for ever" in str(raised.value.__cause__)


def test_a_workflow_can_submit_further_rollouts(rec: Recording, engine: NullEngine) -> None:
    """From inside the event loop."""

    async def forks(engine: Any, task: WorkflowTaskInput) -> Trajectory:
        executor.submit({}, Steps(one_token))
        return trajectory()

    with RolloutExecutor(engine) as executor:
        executor.submit({}, Steps(forks))
        assert len(executor.wait(2, timeout=30)) == 2


def test_after_the_end_every_call_says_so(engine: NullEngine) -> None:
    """A closed executor refuses with a clear error."""
    executor = RolloutExecutor(engine)
    executor.close()
    for call in (
        lambda: executor.submit({}, Steps(one_token)),
        lambda: executor.wait(1),
        lambda: executor.rollout_batch([{}], Steps(one_token)),
        lambda: executor.prepare_batch([{}], Steps(one_token)),
    ):
        with pytest.raises(RolloutError, match="closed"):
            call()


def test_who_waits_is_told_of_the_end(engine: NullEngine) -> None:
    """A wait in another thread raises when the executor is closed."""
    executor = RolloutExecutor(engine)
    executor.submit({}, Steps(for_ever))
    raised: list[BaseException] = []

    def wait() -> None:
        try:
            executor.wait(1)
        except RolloutError as error:
            raised.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    until(lambda: executor.get_stats().running == 1)
    executor.close()
    thread.join()
    assert "closed" in str(raised[0])


def test_what_runs_on_the_loop_for_somebody_ends_with_it(engine: NullEngine) -> None:
    """Who waits for a coroutine in another thread does not wait for ever when the executor is closed."""
    executor = RolloutExecutor(engine)
    ended: list[BaseException] = []

    def run() -> None:
        try:
            executor.run(asyncio.sleep(3600))
        except BaseException as error:  # noqa: BLE001 - a cancellation is none of its own kind in 3.10
            ended.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    time.sleep(0.05)
    executor.close()
    thread.join(30)
    assert len(ended) == 1


def test_an_executor_that_nobody_closes_does_not_keep_a_program_from_ending(
    run_program: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    """With rollouts that run, wait and hang the program ends in order; each has its record."""
    done = run_program(
        "import asyncio, time\n"
        "from rollspan.rollout import RolloutExecutor\n"
        "from tests.rollout.workflows import NullEngine, Steps, for_ever, one_token\n"
        "async def hangs(engine, task):\n"
        "    try:\n"
        "        await asyncio.Event().wait()\n"
        "    finally:\n"
        "        time.sleep(3600)\n"
        "executor = RolloutExecutor(NullEngine(), max_concurrent_rollouts=3)\n"
        "executor.submit({}, Steps(one_token))\n"
        "executor.wait(1)\n"
        "for function in (for_ever, for_ever, hangs, one_token):\n"
        "    executor.submit({}, Steps(function))\n"
        "while executor.get_stats().running < 3:\n"
        "    time.sleep(0.01)\n",
        env={"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    said = done.stderr.splitlines()
    assert said[0].startswith(
        "rollspan: rollouts are cut off by the program's end: call close() of their RolloutExecutor"
    )
    assert "rollspan: the event loop of the rollouts does not answer: it is left behind" in said
    ends = sorted((r["status"], r.get("rejection_reason")) for r in in_file(tmp_path / "data"))
    assert ends == [("accepted", None), *[("dropped", "cancelled")] * 4]


def test_an_idle_executor_that_nobody_closes_ends_without_a_word(
    run_program: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    """Nothing is lost by it; also where a forked child ends before."""
    done = run_program(
        "import os\n"
        "from rollspan.rollout import RolloutExecutor\n"
        "from tests.rollout.workflows import NullEngine, Steps, one_token\n"
        "executor = RolloutExecutor(NullEngine())\n"
        "executor.submit({}, Steps(one_token))\n"
        "executor.wait(1)\n"
        "if not os.fork():\n"
        "    raise SystemExit(0)\n"
        "assert os.wait()[1] == 0\n",
        env={"PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONWARNINGS": "ignore"},
    )
    assert done.stderr == ""
    assert [r["status"] for r in in_file(tmp_path / "data")] == ["accepted"]


def test_a_forked_child_is_told_to_make_its_own(engine: NullEngine) -> None:
    """The event loop's thread is not in the child."""
    with RolloutExecutor(engine) as executor:
        child = os.fork()
        if not child:
            try:
                executor.submit({}, Steps(one_token))
            except RolloutError as error:
                os._exit(7 if "forked" in str(error) else 1)
            os._exit(2)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 7


def test_rollouts_run_while_rollspan_is_off(engine: NullEngine) -> None:
    """Without rollspan turned on all is the same, and nothing is recorded."""
    assert not rollspan.is_enabled()
    with RolloutExecutor(engine, rollout_timeout=30) as executor:
        executor.submit({}, Steps(one_token), group_size=2)
        assert executor.wait(1, timeout=30)[0]["rewards"].shape == (2,)


def test_weights_are_updated_from_plain_code(engine: NullEngine) -> None:
    """The engine's coroutine runs on the event loop, and both have the new version."""
    with RolloutExecutor(engine) as executor:
        executor.update_weights(b"", 3)
        assert (engine.get_version(), executor.get_version()) == (3, 3)


@pytest.fixture
def loader() -> Iterator[list[Any]]:
    """Data."""
    yield [{"reward": i} for i in range(6)]


async def test_async_code_waits_without_blocking(rec: Recording, engine: NullEngine) -> None:
    """Each way to take has an async one, which gives the same while the caller's event loop goes on."""
    async with RolloutExecutor(engine) as executor:
        await executor.submit_async({"reward": 1}, Steps(one_token))
        assert [float(t["rewards"]) for t in await executor.wait_async(1, timeout=30)] == [1]
        batch = await executor.rollout_batch_async([{"reward": 2}], Steps(one_token), timeout=30)
        assert [float(t["rewards"]) for t in batch] == [2]
        number = await executor.submit_async({"reward": 4}, Steps(one_token), is_eval=True)
        taken = await executor.wait_for_task_async(number, timeout=30)
        assert taken is not None
        assert float(taken["rewards"]) == 4
        await executor.update_weights_async(b"", 2)
        assert engine.get_version() == 2
        batch = await executor.prepare_batch_async([{"reward": 3}], Steps(one_token), timeout=30)
        assert [float(t["rewards"]) for t in batch] == [3]


async def test_a_cancelled_wait_takes_nothing(rec: Recording, engine: NullEngine) -> None:
    """However often a wait is cancelled, whatever it had got comes with the next one."""
    count = 40
    async with RolloutExecutor(engine) as executor:
        for i in range(count):
            await executor.submit_async({"reward": i}, Steps(one_token))
            waiting = asyncio.ensure_future(executor.wait_async(1, timeout=30))
            await asyncio.sleep(0.0005 * (i % 5))
            waiting.cancel()
            got = await asyncio.gather(waiting, return_exceptions=True)
            if not isinstance(got[0], BaseException):
                count -= 1
        rest = await executor.wait_async(count, timeout=30)
    assert len(rest) == count
    assert endings(rec) == [("accepted", None)] * 40
    assert all("wait_return_ts" in record for record in rec.records())
    assert torch.stack([t["rewards"] for t in rest]).unique().numel() == count

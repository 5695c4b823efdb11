"""prepare_batch: any data, epoch after epoch, with the pipeline full, and going on where it was."""

from __future__ import annotations

import asyncio
import itertools
import pickle
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from rollspan import perf
from rollspan.rollout import RolloutError, RolloutExecutor, Trajectory, WorkflowTaskInput
from rollspan.testing import Recording

from .workflows import NullEngine, Steps, one_token, trajectory

TIMEOUT = 30


class Items(Dataset[dict[str, Any]]):
    """Twelve items."""

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"task_id": index, "reward": float(index)}


def rewards(batch: list[Trajectory]) -> list[float]:
    """Of each trajectory of one row."""
    return [float(t["rewards"]) for t in batch]


async def as_given(engine: Any, task: WorkflowTaskInput) -> Trajectory:
    """The reward is what the item says, whatever its form."""
    data = task.data
    return trajectory(float(data["reward"] if isinstance(data, dict) else data))


@pytest.mark.parametrize("kind", ["items", "lists", "columns", "batches"])
def test_a_batch_of_any_kind_of_data(kind: str) -> None:
    """Items one by one, lists of them, a DataLoader's batches as lists or as columns: the same trajectories."""
    data: Any
    if kind == "items":
        data = [{"reward": i} for i in range(12)]
    elif kind == "lists":
        data = [[{"reward": i} for i in range(j, j + 3)] for j in range(0, 12, 3)]
    elif kind == "columns":
        data = DataLoader(Items(), batch_size=4)
    else:
        data = DataLoader(Items(), batch_size=4, collate_fn=list)
    with RolloutExecutor(NullEngine(), consumer_batch_size=4) as executor:
        taken = [
            r
            for _ in range(6)
            for r in rewards(executor.prepare_batch(data, Steps(as_given), timeout=TIMEOUT))
        ]
    assert taken == [*range(12)] * 2  # two epochs


def test_the_batch_size_is_the_loaders_else_the_consumers() -> None:
    """And what is asked for goes before both."""
    loader = DataLoader(Items(), batch_size=3, collate_fn=list)
    with RolloutExecutor(NullEngine(), consumer_batch_size=2) as executor:
        assert len(executor.prepare_batch(loader, Steps(as_given), timeout=TIMEOUT)) == 3
        assert len(executor.prepare_batch([1.0], Steps(as_given), timeout=TIMEOUT)) == 2
        assert len(executor.prepare_batch([1.0], Steps(as_given), batch_size=5, timeout=TIMEOUT)) == 5


def test_an_iterator_ends() -> None:
    """The last batch is short, the ones after it are empty, and an epoch without items is an error."""
    with RolloutExecutor(NullEngine(), consumer_batch_size=2) as executor:
        items = iter([1.0, 2.0, 3.0])
        batches = [rewards(executor.prepare_batch(items, Steps(as_given), timeout=TIMEOUT)) for _ in range(3)]
        assert batches == [[1, 2], [3], []]
        with pytest.raises(ValueError, match="dataloader is empty"):
            executor.prepare_batch([], Steps(as_given))


def test_refused_rollouts_are_made_up_for() -> None:
    """A batch is full however many are refused."""
    data = [{"reward": i} for i in range(10)]
    with RolloutExecutor(NullEngine(), consumer_batch_size=3, max_staleness=0) as executor:
        for version in range(1, 4):
            batch = executor.prepare_batch(
                data, Steps(one_token), lambda t: float(t["rewards"]) % 2 == 0, timeout=TIMEOUT
            )
            assert all(r % 2 == 0 for r in rewards(batch))
            assert len(batch) == 3
            executor.set_version(version)


def test_failures_reach_the_trainer() -> None:
    """A workflow that always fails does not eat up the data for ever."""

    async def raises(engine: Any, task: WorkflowTaskInput) -> Trajectory:
        raise LookupError

    with (
        RolloutExecutor(NullEngine(), max_consecutive_failures=20) as executor,
        pytest.raises(RolloutError, match="20 rollouts in a row"),
    ):
        executor.prepare_batch(itertools.count(), Steps(raises), timeout=TIMEOUT)


def test_without_staleness_no_more_is_made_than_the_trainer_can_take_soon() -> None:
    """However slow the trainer is, what waits for it does not grow from step to step."""
    with RolloutExecutor(NullEngine(), max_concurrent_rollouts=4) as executor:
        ahead = []
        for _ in range(30):
            executor.prepare_batch(range(10**6), Steps(as_given), batch_size=3, timeout=TIMEOUT)
            until_idle(executor)
            ahead.append(executor._pipeline.ready.open_or_there)
    assert max(ahead) <= 2 * 3 + 4


def until_idle(executor: RolloutExecutor) -> None:
    """Wait until nothing waits or runs."""
    deadline = time.monotonic() + TIMEOUT
    while executor.get_stats().enqueued or executor.get_stats().running:
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_another_dataloader_is_noticed(caplog: pytest.LogCaptureFixture) -> None:
    """Who gives a fresh list in each step is told once that it begins anew, and behind what is under way."""
    with RolloutExecutor(NullEngine(), consumer_batch_size=2, max_staleness=0) as executor:
        for version in range(1, 4):
            executor.prepare_batch([{"reward": version}] * 2, Steps(one_token), timeout=TIMEOUT)
            executor.set_version(version)
    assert caplog.text.count("prepare_batch() was given another dataloader than before") == 1


def test_who_refuses_everything_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """A batch that never fills says in the log how many rollouts gave nothing."""
    with RolloutExecutor(NullEngine()) as executor, pytest.raises(TimeoutError):
        executor.prepare_batch(range(10), Steps(as_given), lambda taken: False, timeout=2)
    assert caplog.text.count("256 rollouts in a row gave nothing to train on, the last one of Steps") == 1


def test_rollouts_go_on_while_the_trainer_trains(rec: Recording) -> None:
    """With staleness 1 the rollouts of the next batch run before it is asked for, and no more than those."""
    begun: list[int] = []

    async def counted(engine: Any, task: WorkflowTaskInput) -> Trajectory:
        begun.append(task.data)
        return await one_token(engine, WorkflowTaskInput({}))

    with RolloutExecutor(NullEngine(), consumer_batch_size=4, max_staleness=1) as executor:
        for step in range(3):
            with perf.step(step):
                executor.prepare_batch(range(1000), Steps(counted), timeout=TIMEOUT)
                deadline = time.monotonic() + TIMEOUT
                while len(begun) < 4 * (step + 2) and time.monotonic() < deadline:
                    time.sleep(0.001)
                time.sleep(0.02)
                assert begun == [*range(4 * (step + 2))]
                executor.set_version(step + 1)
    consumed = [r for r in rec.records() if "wait_return_ts" in r]
    assert Counter(r["links"]["consume_step"] for r in consumed) == {0: 4, 1: 4, 2: 4}
    assert all(r["links"]["consume_step"] - r["weight_version_min"] <= 1 for r in consumed)


def test_who_goes_on_after_a_restart_trains_on_each_item_once() -> None:
    """What was under way, handed over, ready, or drawn and not yet submitted, comes first, then the rest."""
    gate = threading.Event()

    async def gated(engine: Any, task: WorkflowTaskInput) -> Trajectory:
        if task.data >= 5:
            await asyncio.to_thread(gate.wait)
        return trajectory(float(task.data))

    data = [[*range(i, i + 5)] for i in range(0, 20, 5)]
    with RolloutExecutor(
        NullEngine(), consumer_batch_size=3, max_staleness=1, max_concurrent_rollouts=2
    ) as executor:
        before = rewards(executor.prepare_batch(data, Steps(gated), timeout=TIMEOUT))
        executor.set_version(1)  # so that nothing that is ready is too old
        state = pickle.loads(pickle.dumps(executor.state_dict()))
        gate.set()
    with RolloutExecutor(NullEngine(), max_concurrent_rollouts=1) as executor:  # so they come in order
        executor.load_state_dict(state)
        assert executor.get_version() == 1
        after = [rewards(executor.prepare_batch(data, Steps(gated), timeout=TIMEOUT))[0] for _ in range(17)]
        with pytest.raises(RolloutError, match="too late"):
            executor.load_state_dict(state)
    assert before == [0, 1, 2]
    assert after == [*range(3, 20)]


class Resumable:
    """A loader that keeps its own place, as torchdata's does."""

    def __init__(self) -> None:
        self.at = 0

    def __iter__(self) -> Iterator[int]:
        while self.at < 6:
            self.at += 1
            yield self.at - 1
        self.at = 0

    def state_dict(self) -> dict[str, int]:
        """Where it is."""
        return {"at": self.at}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on there."""
        self.at = state["at"]


def test_a_loader_that_keeps_its_place_is_asked_for_it() -> None:
    """Its own state goes into ours, and nothing is read twice."""
    with RolloutExecutor(NullEngine(), consumer_batch_size=2, max_staleness=0) as executor:
        first = rewards(executor.prepare_batch(Resumable(), Steps(as_given), timeout=TIMEOUT))
        state = executor.state_dict()
    resumed = Resumable()
    with RolloutExecutor(NullEngine(), max_concurrent_rollouts=1) as executor:
        executor.load_state_dict(state)
        rest = [
            rewards(executor.prepare_batch(resumed, Steps(as_given), timeout=TIMEOUT))[0] for _ in range(4)
        ]
    assert first + rest == [*range(6)]


def test_a_state_of_other_data_is_refused() -> None:
    """Data that is shorter than the place in it."""
    with RolloutExecutor(NullEngine()) as executor:
        executor.load_state_dict({"version": 0, "dataloaders": [{"epoch": 0, "position": 5, "items": []}]})
        with pytest.raises(ValueError, match="gives 2 batches or items, the state is at 5"):
            executor.prepare_batch([1, 2], Steps(as_given))


def test_a_shuffled_loader_with_workers() -> None:
    """Every item of an epoch comes once, whatever the order."""
    generator = torch.Generator().manual_seed(3)
    loader = DataLoader(Items(), batch_size=4, shuffle=True, generator=generator, collate_fn=list)
    with RolloutExecutor(NullEngine()) as executor:
        taken = [
            r
            for _ in range(3)
            for r in rewards(executor.prepare_batch(loader, Steps(as_given), timeout=TIMEOUT))
        ]
    assert sorted(taken) == [*range(12)]

"""No trajectory is consumed too many versions after its oldest token, whatever comes in between."""

from __future__ import annotations

import random
import threading
import time
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import rollspan
from rollspan.rollout import RolloutError, RolloutExecutor, StalenessManager, Trajectory, WorkflowTaskInput
from rollspan.rollout.ready import Ready
from rollspan.rollout.submissions import Submission
from rollspan.testing import Recording

from .workflows import NullEngine, Steps, one_token, trajectory


class Rollouts(RuleBasedStateMachine):
    """A trainer, rollouts and new weights in any order, beside a model that keeps a plain list of each."""

    @initialize(staleness=st.none() | st.integers(0, 3), batch=st.integers(1, 3), most=st.integers(1, 4))
    def begin(self, staleness: int | None, batch: int, most: int) -> None:
        """Any bounds."""
        self.manager = StalenessManager(
            max_concurrent_rollouts=most, consumer_batch_size=batch, max_staleness=staleness
        )
        self.ready = Ready(self.manager)
        self.staleness, self.batch, self.most = staleness, batch, most
        self.version = self.number = self.consumed_now = self.accepted = self.rejected = 0
        self.waiting: list[Submission] = []
        self.handed_over: list[tuple[Submission, int]] = []
        self.running: list[tuple[Submission, int]] = []
        self.there: list[Submission] = []

    @property
    def ahead(self) -> int:
        """Under way or there, of those that count."""
        return sum(
            s.bounded for s in (*(s for s, _ in self.handed_over), *(s for s, _ in self.running), *self.there)
        )

    @rule(bounded=st.booleans())
    def submit(self, bounded: bool) -> None:
        """One more waits."""
        submission = Submission(
            self.number,
            {},
            Steps(one_token),
            None,
            task_id=None,
            group_id="",
            group_size=1,
            bounded=bounded,
            reserved=False,
        )
        self.number += 1
        self.ready.expect(submission)
        self.manager.on_rollout_enqueued()
        self.waiting.append(submission)

    @precondition(lambda self: self.waiting)
    @rule()
    def hand_over(self) -> None:
        """The first one is handed over where it may be."""
        submission = self.waiting[0]
        may = self.staleness is None or self.ahead + self.consumed_now < (self.staleness + 1) * self.batch
        assert self.manager.may_be_further_ahead() == may
        if may or not submission.bounded:
            self.manager.on_rollout_admitted(bounded=submission.bounded)
            self.handed_over.append((self.waiting.pop(0), 0))

    @precondition(lambda self: self.handed_over)
    @rule()
    def run(self) -> None:
        """The first one that was handed over runs where there is room."""
        assert self.manager.may_run() == (len(self.running) < self.most)
        if self.manager.may_run():
            self.manager.on_rollout_submitted()
            self.running.append((self.handed_over.pop(0)[0], self.version))

    @precondition(lambda self: self.running)
    @rule(which=st.integers(0, 3), outcome=st.sampled_from(["good", "old", "rejected"]))
    def end(self, which: int, outcome: str) -> None:
        """One of those that run ends: with tokens since it began, older ones, or with nothing."""
        submission, begun = self.running.pop(which % len(self.running))
        if outcome == "rejected":
            self.manager.on_rollout_rejected(bounded=submission.bounded)
            self.rejected += 1
        else:
            submission.oldest = max(begun - (outcome == "old"), 0)
            submission.trajectory = trajectory(version=submission.oldest)
            submission.rows = [submission.trajectory]
            self.manager.on_rollout_accepted()
            self.accepted += 1
            if self.too_old(submission):
                self.accepted -= 1
                self.rejected += 1
            else:
                self.there.append(submission)
        self.ready.put(submission)

    def too_old(self, submission: Submission) -> bool:
        """By the definition."""
        assert submission.oldest is not None
        return (
            submission.bounded
            and self.staleness is not None
            and self.version - submission.oldest > self.staleness
        )

    @rule(by=st.integers(0, 2))
    def new_weights(self, by: int) -> None:
        """The version grows, or stays."""
        self.version += by
        self.consumed_now = 0 if by else self.consumed_now
        self.ready.set_version(self.version)
        gone = [s for s in self.there if self.too_old(s)]
        self.there = [s for s in self.there if s not in gone]
        self.accepted -= len(gone)
        self.rejected += len(gone)

    @rule(count=st.integers(1, 3), given_back=st.booleans())
    def take(self, count: int, given_back: bool) -> None:
        """The trainer takes the oldest, where there are so many; or gives them back at once."""
        taken = self.ready.take_at_once(count, at_end=False)
        expected = sorted(self.there, key=lambda s: s.number)[:count]
        if len(self.there) < count:
            assert taken is None
            return
        assert taken == expected
        assert not any(map(self.too_old, expected))
        if given_back:
            self.ready.put_back(expected)
            return
        self.there = [s for s in self.there if s not in expected]
        self.consumed_now += sum(s.bounded for s in expected)

    @invariant()
    def the_counts_are_those_of_the_model(self) -> None:
        """Each state has as many as the model's list, and the capacity is AReaL's formula."""
        if not hasattr(self, "manager"):
            return
        assert self.manager.get_stats() == rollspan.RolloutStats(
            accepted=self.accepted,
            enqueued=len(self.waiting) + len(self.handed_over),
            rejected=self.rejected,
            running=len(self.running),
        )
        free = self.most - len(self.running)
        if self.staleness is not None:
            free = min(free, (self.staleness + 1) * self.batch - self.ahead - self.consumed_now)
        assert self.manager.get_capacity() == free
        assert len(self.ready) == len(self.there)


TestRollouts = Rollouts.TestCase
TestRollouts.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)


@pytest.mark.parametrize("max_staleness", [0, 1, 3])
def test_nothing_too_old_is_consumed_under_races(rec: Recording, max_staleness: int) -> None:
    """Weights change at any moment, while four trainers take what rollouts give: all of it young enough then."""
    rng = random.Random(7)
    engine = NullEngine()
    taken: list[tuple[int, int]] = []
    over = threading.Event()

    async def some(engine: Any, task: WorkflowTaskInput) -> Trajectory | None:
        chance = rng.random()
        if chance < 0.1:
            return None
        if chance < 0.2:  # as one that several updates reached
            return trajectory(version=max(engine.get_version() - max_staleness - 1, 0))
        return await one_token(engine, task)

    with RolloutExecutor(
        engine, consumer_batch_size=8, max_staleness=max_staleness, max_concurrent_rollouts=16
    ) as executor:
        ready, staleness = executor._pipeline.ready, executor.staleness_manager

        def submits() -> None:
            while not over.is_set():
                if executor.get_stats().enqueued < 100:
                    executor.submit({}, Steps(some))
                else:
                    time.sleep(0.0005)

        def updates() -> None:
            while not over.is_set():
                time.sleep(rng.random() * 0.01)
                version = staleness.get_version() + 1
                engine.set_version(version)
                executor.set_version(version)

        def trains() -> None:
            while len(taken) < 1000:
                time.sleep(0.0002)
                with ready._changed:  # so that no version comes between the taking and the looking
                    got = ready.take_at_once(2, at_end=False)
                    taken.extend((staleness.get_version(), s.oldest) for s in got or ())

        threads = [threading.Thread(target=f) for f in (submits, updates, *[trains] * 4)]
        for thread in threads:
            thread.start()
        for thread in threads[2:]:
            thread.join()
        over.set()
        for thread in threads[:2]:
            thread.join()
    ages = [version - oldest for version, oldest in taken]
    assert max(ages) <= max_staleness
    assert min(ages) >= -1  # the engine has new weights before the trainer says so
    dropped = [r for r in rec.records() if r.get("rejection_reason") == "stale_weight"]
    assert dropped, "no rollout was ever too old: this would prove nothing"


def test_rollouts_never_run_too_far_ahead(rec: Recording) -> None:
    """With a trainer that takes a batch a version nothing is ever too old, and none is started that would be."""
    engine = NullEngine()
    with RolloutExecutor(engine, consumer_batch_size=4, max_staleness=2) as executor:
        for version in range(1, 30):
            batch = executor.prepare_batch([{"reward": i} for i in range(7)], Steps(one_token), timeout=30)
            assert all(version - 1 - int(t["versions"].max()) <= 2 for t in batch)
            executor.update_weights(b"", version)
    assert {r.get("rejection_reason") for r in rec.records()} <= {None, "cancelled"}


def test_an_engine_that_lags_behind_is_noticed(caplog: pytest.LogCaptureFixture) -> None:
    """Where set_version() was told of weights that the engine does not have, the log says so once."""

    async def old(engine: Any, task: WorkflowTaskInput) -> Trajectory:
        return trajectory(version=0)

    with RolloutExecutor(NullEngine(), max_staleness=0) as executor:
        executor.set_version(3)
        for _ in range(2):
            executor.submit({}, Steps(old))
        with pytest.raises(RolloutError):
            executor.wait(1, timeout=30)
    assert caplog.text.count("the engine does not have the weights that set_version() told of") == 1

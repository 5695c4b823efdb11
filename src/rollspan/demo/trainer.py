"""The trainer: collects groups of rollouts, learns from them, pushes the new weights. Read this file first."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from rollspan import perf
from rollspan.demo.client import EngineClient
from rollspan.demo.config import DemoConfig
from rollspan.demo.learner import Learner
from rollspan.demo.policy import dump_weights
from rollspan.demo.rollouts import Counts, Group, Rollouts
from rollspan.demo.task import Task
from rollspan.demo.workflow import Trajectory


@dataclass(frozen=True)
class StepReport:
    """What a step did. `reward` is the mean over all rollouts that it looked at, those it dropped included."""

    step: int
    reward: float
    counts: Counts


def should_accept(trajectory: Trajectory) -> bool:
    """Refuse answers of one digit: they teach the policy to give up."""
    prompt_length = trajectory.mask.index(True)
    return len(trajectory.tokens) - prompt_length > 2


class Trainer:
    """Trains while the rollouts for the next steps already run."""

    def __init__(
        self, config: DemoConfig, engine: EngineClient, rollouts: Rollouts, tasks: Iterator[Task]
    ) -> None:
        self._config = config
        self._engine = engine
        self._rollouts = rollouts
        self._tasks = tasks
        self._learner = Learner(config)

    async def run(self, report: Callable[[StepReport], None]) -> None:
        """Train for the configured number of steps; `report` is called after each."""
        await self._push_weights(0)
        for step in range(self._config.steps):
            with perf.step(step):
                if step == 0:
                    for _ in range(self._config.groups_ahead):
                        self._rollouts.submit(next(self._tasks))
                with perf.trace_scope("collect", category="scheduler"):
                    batch, reward = await self._collect(step)
                if batch:
                    await asyncio.to_thread(self._learner.learn, batch)
                with perf.trace_scope("update_weights", category="comm", args={"weight_version": step + 1}):
                    await self._push_weights(step + 1)
            report(StepReport(step, reward, replace(self._rollouts.counts)))

    async def _collect(self, step: int) -> tuple[list[list[Trajectory]], float]:
        """Groups to learn from, and the mean reward of all rollouts seen on the way to them."""
        batch: list[list[Trajectory]] = []
        rewards: list[float] = []
        for _ in range(self._config.groups_looked_at):
            group = await self._rollouts.next_group()
            self._rollouts.submit(next(self._tasks))  # one out, one in
            trajectories = group.trajectories
            rewards += [trajectory.reward for trajectory in trajectories]
            if any(step - min(t.weight_versions) > self._config.max_lag for t in trajectories):
                drop(group, "stale_weight")
            elif len(trajectories) < self._config.smallest_group or len({t.reward for t in trajectories}) < 2:
                drop(group, "group_filtered")
            else:
                for sample in group.accepted:
                    sample.session.mark_consumed()
                batch.append(trajectories)
            if len(batch) == self._config.groups_per_step:
                break
        if not rewards:
            raise RuntimeError("not one rollout succeeds any more") from self._rollouts.last_error
        return batch, sum(rewards) / len(rewards)

    async def _push_weights(self, version: int) -> None:
        await self._engine.update_weights(dump_weights(self._learner.policy), version)


def drop(group: Group, reason: str) -> None:
    """Throw away what was accepted of a group."""
    for sample in group.accepted:
        sample.session.mark_dropped(reason)

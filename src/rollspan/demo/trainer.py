"""The trainer: takes batches of groups of rollouts, learns from them, pushes the new weights. Read this file first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import rollspan
from rollspan import perf
from rollspan.demo.config import DemoConfig
from rollspan.demo.learner import Learner
from rollspan.demo.policy import dump_weights
from rollspan.demo.task import tasks
from rollspan.demo.workflow import SortWorkflow
from rollspan.rollout import RolloutExecutor, Trajectory


@dataclass(frozen=True)
class StepReport:
    """What a step did. `reward` is the mean over the rollouts that it learned from; `stats` counts groups."""

    step: int
    reward: float
    stats: rollspan.RolloutStats
    evaluation: float | None = None


def teaches(group: Trajectory) -> bool:
    """Whether there is anything to learn from a group: where all rewards are the same, none is better than others."""
    return bool(group["rewards"].std() > 0)


def train(
    config: DemoConfig,
    executor: RolloutExecutor,
    workflow: SortWorkflow,
    report: Callable[[StepReport], None],
) -> None:
    """Train while the rollouts for the next steps already run; `report` is called after each step."""
    learner = Learner(config)
    executor.update_weights(dump_weights(learner.policy), 0)
    items = tasks(config)
    for step in range(config.steps):
        with perf.step(step):
            with perf.trace_scope("collect", category="scheduler"):
                batch = executor.prepare_batch(items, workflow, teaches)
            learner.learn(batch)
            with perf.trace_scope("update_weights", category="comm", args={"weight_version": step + 1}):
                executor.update_weights(dump_weights(learner.policy), step + 1)
            evaluation = None
            if step % config.evaluate_every == config.evaluate_every - 1:
                evaluation = evaluate(config, executor, workflow)
        rewards = [float(reward) for group in batch for reward in group["rewards"]]
        report(StepReport(step, sum(rewards) / len(rewards), executor.get_stats(), evaluation))


@perf.trace_perf("evaluate", category="scheduler")
def evaluate(config: DemoConfig, executor: RolloutExecutor, workflow: SortWorkflow) -> float | None:
    """The mean reward on tasks that are never trained on; of as many as there is room for in the queue."""
    items = tasks(config, evaluation=True)
    asked = [
        executor.submit(next(items), workflow, group_size=1, is_eval=True)
        for _ in range(config.evaluation_tasks)
    ]
    done = [executor.wait_for_task(number) for number in asked if number is not None]
    rewards = [float(one["rewards"]) for one in done if one is not None]
    return sum(rewards) / len(rewards) if rewards else None

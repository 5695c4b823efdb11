"""What the demo can be told. The limits are small on purpose: a run meets each of them now and then."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DemoConfig:
    """Settings of one run; the defaults take about half a minute on two cores."""

    steps: int = 40
    seed: int = 0

    # The task and the policy.
    digits: int = 4
    hidden_size: int = 160
    learning_rate: float = 8e-3
    epochs: int = 4  # passes over each batch
    clip: float = 0.2
    entropy_bonus: float = 0.005

    # The size of a step.
    groups_per_step: int = 10
    group_size: int = 8
    smallest_group: int = 6  # a group with fewer good rollouts is thrown away

    # How far rollouts may run ahead of training.
    max_staleness: int = (
        2  # weight versions between a rollout's oldest token and the step that learns from it
    )
    queue_size: int = 33  # groups; more than three steps ask for, and less than an evaluation on top of that
    runners: int = 12  # groups that run at the same time

    # Rollouts.
    max_prompt_tokens: int = 8
    long_prompt_probability: float = 0.02  # that a task's prompt is longer
    max_new_tokens: int = 8
    rollout_timeout_s: float = 8.0
    slow_tool_probability: float = 0.02  # that a task's tool takes as long as several steps
    slow_tool_s: float = 5.0
    tool_hang_probability: float = 0.01  # that a task's tool never answers
    reward_workers: int = 1

    # Evaluation, in what room the queue has.
    evaluate_every: int = 10  # steps
    evaluation_tasks: int = 16

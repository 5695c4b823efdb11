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
    spare_samples: int = 1  # beyond group_size; whoever still runs when the group is full is cancelled
    smallest_group: int = 3  # a group with fewer accepted rollouts teaches nothing
    groups_looked_at: int = 60  # in search of groups_per_step useful ones

    # How far rollouts may run ahead of training.
    groups_ahead: int = 22
    queue_size: int = 190  # rollouts; less than groups_ahead asks for at the start
    runners: int = 24  # rollouts running at the same time
    max_lag: int = 1  # weight versions between a rollout and the step that learns from it

    # Rollouts.
    max_prompt_tokens: int = 8
    long_prompt_probability: float = 0.02  # that a task's prompt is longer
    max_new_tokens: int = 8
    rollout_timeout_s: float = 3.0
    tool_hang_probability: float = 0.01  # that a task's tool never answers
    reward_workers: int = 1

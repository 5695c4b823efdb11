"""The snapshot of an executor's counts that a session keeps from its verdict."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RolloutStats:
    """How many rollouts an executor had in each state when a session's execution ended."""

    accepted: int = 0
    enqueued: int = 0
    rejected: int = 0
    running: int = 0

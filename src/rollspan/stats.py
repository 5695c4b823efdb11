"""The snapshot of an executor's counts that a session keeps from its verdict."""

from __future__ import annotations

from typing import NamedTuple


class RolloutStats(NamedTuple):  # made for each verdict, in a third of a frozen dataclass's time
    """How many rollouts an executor had in each state when a session's execution ended."""

    accepted: int = 0
    enqueued: int = 0
    rejected: int = 0
    running: int = 0

"""What a workflow is: the code of one rollout."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from .engine import InferenceEngine
from .trajectories import Trajectory


@dataclass(slots=True)  # not frozen, which costs several times as much to make
class WorkflowTaskInput:
    """What one rollout is about: an item of the dataset, and the ids under which its session is traced."""

    data: Any
    """The item, as it was submitted: for the workflows here a mapping."""
    task_id: int | str = 0
    """Of the item."""
    group_id: str = ""
    """The same for all rollouts of one submission."""
    session_id: str = ""
    """Of this rollout alone; empty while rollspan is off."""
    sample: int = 0
    """Which of its group it is, from 0."""

    def __str__(self) -> str:
        return f"task {self.task_id!r}"


class RolloutWorkflow(ABC):
    """Runs rollouts. One object serves many at once, so it keeps nothing of any of them."""

    group_size: int = 1
    """Rollouts of each submission, unless that asks for another number."""

    @abstractmethod
    async def arun_episode(self, engine: InferenceEngine, task: WorkflowTaskInput) -> Trajectory | None:
        """One rollout: a trajectory of one row, or None where it is of no use.

        Runs as the phase `execution` of its session. Raises whatever it likes; the session has failed then. A
        ValueError that names the task says what is wrong with its data.
        """

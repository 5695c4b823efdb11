"""What was submitted: one rollout, or a group of rollouts of one task, each with a session of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

import rollspan

from .trajectories import Trajectory
from .workflow import RolloutWorkflow, WorkflowTaskInput

_NAMES: Final = ("task_id", "query_id", "qid", "id")
"""Where an item of a dataset may have its name: keys of a mapping, attributes of anything else."""

_MAPPINGS: Final = (dict, Mapping)
"""Most are dicts, of which `isinstance` knows at once."""

ShouldAccept = Callable[[Trajectory], bool]


class Submission:
    """One or several rollouts of a task, from their submission to the trainer."""

    __slots__ = (
        "bounded",
        "data",
        "error",
        "group_id",
        "left",
        "number",
        "oldest",
        "reserved",
        "rows",
        "sessions",
        "should_accept_fn",
        "supply",
        "task_id",
        "trajectory",
        "unwanted",
        "workflow",
    )

    def __init__(
        self,
        number: int,
        data: Any,
        workflow: RolloutWorkflow,
        should_accept_fn: ShouldAccept | None,
        *,
        task_id: int | str | None,
        group_id: str,
        group_size: int,
        bounded: bool,
        reserved: bool,
        supply: object = None,
    ) -> None:
        self.number = number
        self.data = data
        self.workflow = workflow
        self.should_accept_fn = should_accept_fn
        self.task_id = _name_of(data, number) if task_id is None else task_id
        self.group_id = group_id
        self.bounded = bounded  # counts for `max_staleness`
        self.reserved = reserved  # for who asks for it by its number
        self.supply = supply  # where its data came from, for who goes on after a restart
        self.error: BaseException | None = None  # what it failed with
        self.unwanted = False  # who asked for it has gone
        self.trajectory: Trajectory | None = None
        self.oldest: int | None = None  # version of its oldest token
        self.left = group_size
        self.rows: list[Trajectory | None] = [None] * group_size
        # `workflow` and others are attributes of the root; queue_wait begins here.
        name = type(workflow).__name__
        self.sessions: list[Any] = []
        try:
            for _ in range(group_size):
                self.sessions.append(
                    rollspan.start_session(task_id=self.task_id, group_id=group_id, workflow=name)
                )
        except BaseException:  # interrupted
            self.drop("cancelled")
            raise

    def task(self, sample: int) -> WorkflowTaskInput:
        """What the workflow is given for one of the rollouts."""
        session_id = self.sessions[sample].session_id
        return WorkflowTaskInput(self.data, self.task_id, self.group_id, session_id, sample)

    def drop(self, reason: str, stats: rollspan.RolloutStats | None = None) -> None:
        """Throw all of its rollouts away."""
        for session in self.sessions:
            if not session.ended:
                session.mark_dropped(reason, stats=stats)

    def consume(self) -> None:
        """The trainer has those that were accepted."""
        for session, row in zip(self.sessions, self.rows, strict=True):
            if row is not None:
                session.mark_consumed()

    def abort(self) -> None:
        """Nobody will take it any more: each of its rollouts keeps its verdict, or is cancelled."""
        for session in self.sessions:
            if not session.ended:
                session.abort("cancelled")


def _name_of(data: Any, number: int) -> int | str:
    get = data.get if isinstance(data, _MAPPINGS) else partial(getattr, data)
    for name in _NAMES:
        found = get(name, None)
        if type(found) is int or type(found) is str:
            return found
    return number

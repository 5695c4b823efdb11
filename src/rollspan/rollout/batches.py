"""The ways in which a trainer gets what is ready: so many, those of some data, or the next batch of a dataloader."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from .errors import RolloutError, check_whole, describe
from .pipeline import Pipeline
from .ready import deadline_in
from .submissions import ShouldAccept, Submission
from .supply import Supply
from .workflow import RolloutWorkflow

logger = logging.getLogger("rollspan.rollout")


class Batches:
    """Takes submissions out of a pipeline, and feeds it. Each way ends early, with none, once its `stop` is set."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._ready = pipeline.ready
        self._intake = pipeline.intake
        self._staleness = pipeline.staleness
        self._supplies: dict[int, Supply] = {}
        self._states: deque[Any] = deque()  # of supplies that are not there yet
        self._said = False

    def first(
        self, count: int, timeout: float | None, *, stop: threading.Event | None = None
    ) -> list[Submission]:
        """The `count` that were submitted first."""
        self._pipeline.check_may_wait()
        self._check_count(count)
        return self._ready.take(count, timeout, stop)

    def numbered(
        self, number: int, timeout: float | None, *, stop: threading.Event | None = None
    ) -> list[Submission]:
        """That very one, or none."""
        if not self._pipeline.was_given(number):
            raise ValueError(f"number is {number!r}; expected what submit() gave")
        self._pipeline.check_may_wait()
        submission = self._ready.take_number(number, timeout, stop)
        return [] if submission is None else [submission]

    def of_data(
        self,
        data: Iterable[Any],
        workflow: RolloutWorkflow,
        should_accept_fn: ShouldAccept | None,
        group_size: int | None,
        timeout: float | None,
        *,
        stop: threading.Event | None = None,
    ) -> list[Submission]:
        """Rollouts of all of it, without bounds on how far they run ahead: who asks waits for them."""
        self._pipeline.check_may_wait()
        _check_items("data", data)
        asked: list[Submission] = []
        taken: list[Submission] = []
        try:
            for item in data:
                submission = self._pipeline.submit(
                    item, workflow, should_accept_fn, group_size=group_size, bounded=False, reserved=True
                )
                if submission is not None:
                    asked.append(submission)
            for submission in asked:
                if self._ready.take_number(submission.number, timeout, stop) is not None:
                    taken.append(submission)
        except BaseException:
            self.let_go(taken)
            self._ready.forget(submission.number for submission in asked)
            raise
        if stop is not None and stop.is_set():
            self._ready.forget(submission.number for submission in asked)
        else:
            _check_failures(asked, taken)
        return taken

    def of_loader(
        self,
        dataloader: Iterable[Any],
        workflow: RolloutWorkflow,
        should_accept_fn: ShouldAccept | None,
        batch_size: int | None,
        group_size: int | None,
        timeout: float | None,
        *,
        stop: threading.Event | None = None,
    ) -> list[Submission]:
        """The next batch, with the pipeline fed from the dataloader before and after."""
        self._pipeline.check_may_wait()
        _check_items("dataloader", dataloader)
        size = batch_size
        if size is None:
            size = getattr(dataloader, "batch_size", None) or self._staleness.consumer_batch_size
        self._check_count(size)
        supply = self._supply(dataloader)
        submit = partial(
            self._pipeline.submit,
            workflow=workflow,
            should_accept_fn=should_accept_fn,
            group_size=group_size,
            supply=supply,
        )
        hungry = partial(self._is_hungry, size)
        deadline = deadline_in(timeout)
        while stop is None or not stop.is_set():
            more = self._feed(supply, submit, size)
            taken = self._ready.take_at_once(size, at_end=not more)
            if taken is not None:
                self._feed(supply, submit, size)  # for the time that the trainer trains
                return taken
            left = None if deadline is None else deadline - time.monotonic()
            self._ready.wait_for_more(size, left, hungry if more else bool, stop)
        return []

    def _feed(self, supply: Supply, submit: Callable[..., object], size: int) -> bool:
        """Fill the queue up for batches of this size; whether there is more to fill it with."""
        room = min(self._most(size) - self._under_way(), self._intake.room)
        try:
            while room > 0:
                submit(supply.next())
                room -= 1
        except StopIteration:
            return False
        return True

    def _is_hungry(self, size: int) -> bool:
        return self._under_way() <= self._most(size) // 2 and self._intake.room > 0

    def _under_way(self) -> int:
        """What counts towards `_most`: where `max_staleness` says what begins what waits for that, else all there is."""
        return len(self._intake) if self._staleness.max_staleness is not None else self._ready.open_or_there

    def _most(self, size: int) -> int:
        """How many are to be there for this batch and the next, and no more, however large the bounds are."""
        staleness = self._staleness
        most = 2 * size + staleness.max_concurrent_rollouts
        return most if staleness.max_staleness is None else min(most, staleness.get_pending_limit())

    def _supply(self, dataloader: Iterable[Any]) -> Supply:
        supply = self._supplies.get(id(dataloader))
        if supply is None:
            supply = Supply(dataloader)  # which keeps it, and so its id
            if self._states:
                supply.load_state_dict(self._states.popleft())
            elif self._supplies and not self._said:
                self._said = True
                logger.warning(
                    "rollspan: prepare_batch() was given another dataloader than before: it begins with its first "
                    "item, and comes after what is under way of the others. To go on in one, give the same object each "
                    "time"
                )
            self._supplies[id(dataloader)] = supply
        return supply

    def give_back(self, submissions: list[Submission]) -> None:
        """Nobody came for these: they are as if they had not been taken."""
        self.let_go([submission for submission in submissions if submission.reserved])
        self._ready.put_back([submission for submission in submissions if not submission.reserved])

    def let_go(self, submissions: Iterable[Submission]) -> None:
        """Throw away what was taken and is not wanted."""
        for submission in submissions:
            self._staleness.on_rollout_discarded(bounded=False)
            submission.drop("cancelled", self._staleness.get_stats())

    def state_dict(self) -> list[dict[str, Any]]:
        """Where each dataloader is, with the items of its that have not reached the trainer."""
        waiting = self._ready.in_flight()
        return [
            supply.state_dict([submission.data for submission in waiting if submission.supply is supply])
            for supply in self._supplies.values()
        ]

    def load_state_dict(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Go on there, with the dataloaders in the order of their first use."""
        if self._supplies:
            raise RolloutError("load_state_dict() comes too late: prepare_batch() has given data already")
        self._states = deque(states)

    def _check_count(self, count: int) -> None:
        check_whole("the number of rollouts", count, 1)
        staleness = self._staleness
        if staleness.max_staleness is not None and count > staleness.get_pending_limit():
            raise ValueError(
                f"{count} rollouts at once will never be ready: max_staleness={staleness.max_staleness} and "
                f"consumer_batch_size={staleness.consumer_batch_size} let {staleness.get_pending_limit()} be ahead of "
                "the trainer; raise one of them"
            )


def _check_items(name: str, items: Any) -> None:
    if isinstance(items, Mapping | str | bytes) or not isinstance(items, Iterable):
        raise ValueError(f"{name} is a {type(items).__name__}; expected an iterable of items, such as a list")


def _check_failures(asked: Sequence[Submission], taken: Sequence[Submission]) -> None:
    """Say which rollouts of a batch failed; raise RolloutError, with the last error as its cause, where none is good."""
    errors = [submission.error for submission in asked if submission.error is not None]
    if errors and not taken:
        raise RolloutError(
            f"none of {len(asked)} rollouts was good, {len(errors)} failed, the last one with "
            f"{describe(errors[-1])}"
        ) from errors[-1]
    if errors:
        kinds = ", ".join(sorted({type(error).__name__ for error in errors}))
        logger.warning("rollspan: %d of %d rollouts of a batch failed: %s", len(errors), len(asked), kinds)

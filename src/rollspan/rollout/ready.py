"""Where accepted trajectories wait for the trainer, none of them too old for the weights that are trained on."""

from __future__ import annotations

import heapq
import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from .errors import RolloutError, describe
from .staleness import StalenessManager
from .submissions import Submission

logger = logging.getLogger("rollspan.rollout")

_SAID_AFTER: Final = 60.0
"""Seconds after which who waits is told what may hold it up."""


class Ready:
    """Accepted submissions, and what is still to come. Safe from any thread.

    Version and consumption change under one lock: whatever is in here may be trained on now, and what is taken was so
    at that moment.
    """

    def __init__(self, staleness: StalenessManager) -> None:
        self._staleness = staleness
        self._lock = threading.RLock()  # to take it through the condition costs twice as much
        self._changed = threading.Condition(self._lock)
        self._done: dict[int, Submission] = {}
        self._order: list[int] = []  # a heap of the numbers of those that anybody may have
        self._coming: dict[int, Submission] = {}
        self._open = 0  # of those that are coming, the ones that anybody may have
        self._wanted: list[int] = []  # by those who wait
        self._hungry: list[Callable[[], bool]] = []  # of those who feed: whether there is room
        self._said = False
        self._failure: RolloutError | None = None
        self._closed = False
        self.last_error: BaseException | None = None
        """What a rollout failed with last."""

    def __len__(self) -> int:
        return len(self._order)

    @property
    def open_or_there(self) -> int:
        """How many anybody may have that are under way or ready."""
        return self._open + len(self._order)

    # What comes.

    def expect(self, submission: Submission) -> None:
        """One is under way."""
        with self._lock:
            self._coming[submission.number] = submission
            self._open += not submission.reserved

    def put(self, submission: Submission) -> None:
        """One is over: accepted where it has a trajectory."""
        reason = None
        with self._lock:
            if self._coming.pop(submission.number, None) is None:
                return
            self._open -= not submission.reserved
            if submission.trajectory is not None:
                if submission.unwanted:
                    reason = "cancelled"
                elif self._is_stale(submission):
                    reason = "stale_weight"
                else:
                    self._done[submission.number] = submission
                    if not submission.reserved:
                        heapq.heappush(self._order, submission.number)
            # Who waits for ten need not look at each of them; but when there is nothing left to wait for.
            if self._wanted and (
                submission.reserved or len(self._order) >= min(self._wanted) or not self._open
            ):
                self._changed.notify_all()
        if reason is not None:
            self._discard(submission, reason)

    def fail(self, failure: RolloutError) -> None:
        """Whoever waits next, or now, is told."""
        with self._lock:
            self._failure = failure
            self._changed.notify_all()

    def look_for_food(self) -> None:
        """Room has come about: whoever feeds is told."""
        if self._hungry:
            with self._lock:
                if any(hungry() for hungry in self._hungry):
                    self._changed.notify_all()

    def poke(self) -> None:
        """Whoever waits looks again whether it is to stop."""
        with self._lock:
            self._changed.notify_all()

    def set_version(self, version: int) -> None:
        """The weights are others now: what is too old for them is thrown away."""
        with self._lock:
            self._staleness.set_version(version)
            stale = [s for s in self._done.values() if self._is_stale(s)]
            for submission in stale:
                del self._done[submission.number]
            if stale:
                self._order = [number for number in self._order if number in self._done]
                heapq.heapify(self._order)
                self._changed.notify_all()
        for submission in stale:
            self._discard(submission, "stale_weight")

    def _is_stale(self, submission: Submission) -> bool:
        oldest = submission.oldest
        return submission.bounded and oldest is not None and oldest < self._staleness.oldest_allowed

    def _discard(self, submission: Submission, reason: str) -> None:
        self._staleness.on_rollout_discarded(bounded=submission.bounded)
        submission.drop(reason, self._staleness.get_stats())

    # What is taken.

    def take(
        self, count: int, timeout: float | None, stop: threading.Event | None = None
    ) -> list[Submission]:
        """The `count` oldest, once there are so many.

        Raises TimeoutError after `timeout` seconds; RolloutError where no more can come, when rollouts fail, and when
        closed. All stay where they are then. Gives none once `stop` is set and somebody pokes.
        """
        deadline = deadline_in(timeout)
        with self._lock:
            self._wanted.append(count)
            try:
                while True:
                    if stop is not None and stop.is_set():
                        return []
                    self._raise_failure()  # also where a good one has come since
                    if len(self._order) >= count:
                        break
                    if not self._open:
                        raise RolloutError(
                            f"{len(self._order)} trajectories are ready, {count} were asked for, and no rollout is "
                            f"under way that could give one more{self._what_became_of_others()}"
                        ) from self.last_error
                    self._wait(deadline, f"{count} trajectories, of which {len(self._order)} are ready")
            finally:
                self._wanted.remove(count)
            return self._pop_oldest(count)

    def take_at_once(self, count: int, *, at_end: bool) -> list[Submission] | None:
        """The `count` oldest, or None where there are fewer; with `at_end` those few where no more can come."""
        with self._lock:
            self._raise_failure()
            if len(self._order) < count and not (at_end and not self._open):
                return None
            return self._pop_oldest(min(count, len(self._order)))

    def wait_for_more(
        self,
        count: int,
        timeout: float | None,
        hungry: Callable[[], bool],
        stop: threading.Event | None = None,
    ) -> None:
        """Wait until there are `count`, or none are coming, or there is room to feed. Raises as `take`."""
        deadline = deadline_in(timeout)
        with self._lock:
            self._wanted.append(count)
            self._hungry.append(hungry)
            try:
                while len(self._order) < count and self._open and not hungry():
                    if stop is not None and stop.is_set():
                        return
                    self._raise_failure()
                    self._wait(deadline, f"{count} trajectories, of which {len(self._order)} are ready")
            finally:
                self._wanted.remove(count)
                self._hungry.remove(hungry)

    def take_number(
        self, number: int, timeout: float | None, stop: threading.Event | None = None
    ) -> Submission | None:
        """That very one, once it is over; None where it came to nothing, or was taken before. Raises as `take`."""
        deadline = deadline_in(timeout)
        with self._lock:
            self._wanted.append(0)  # whatever comes, look
            try:
                while True:
                    if stop is not None and stop.is_set():
                        return None
                    self._raise_failure()
                    if number not in self._coming:
                        break
                    self._wait(deadline, f"rollout {number}, which is not over")
            finally:
                self._wanted.remove(0)
            submission = self._done.get(number)
            if submission is None:
                return None
            if not submission.reserved:
                self._order.remove(number)
                heapq.heapify(self._order)
            return self._pop([number])[0]

    def put_back(self, submissions: list[Submission]) -> None:
        """Nobody came for these after all."""
        for submission in submissions:
            with self._lock:
                self._staleness.on_rollout_returned(bounded=submission.bounded)
                self._coming[submission.number] = submission
                self._open += not submission.reserved
            self.put(submission)

    def forget(self, numbers: Iterable[int]) -> None:
        """Nobody will come for these: what comes of them is thrown away."""
        arrived = []
        with self._lock:
            for number in numbers:
                if number in self._done:
                    arrived.append(self._done.pop(number))
                elif number in self._coming:
                    self._coming[number].unwanted = True
        for submission in arrived:
            self._discard(submission, "cancelled")

    def _pop_oldest(self, count: int) -> list[Submission]:
        return self._pop([heapq.heappop(self._order) for _ in range(count)])

    def _pop(self, numbers: Sequence[int]) -> list[Submission]:
        taken = [self._done.pop(number) for number in numbers]
        self._staleness.on_rollout_consumed(sum([submission.bounded for submission in taken]))
        return taken

    def _wait(self, deadline: float | None, what: str) -> None:
        left = math.inf if deadline is None else deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError(f"waited in vain for {what}; {self._what_holds_it_up()}")
        if not self._changed.wait(min(left, _SAID_AFTER)) and left > _SAID_AFTER and not self._said:
            stats = self._staleness.get_stats()
            if not stats.running and stats.enqueued:
                self._said = True
                logger.warning("rollspan: waiting for %s; %s", what, self._what_holds_it_up())

    def _what_holds_it_up(self) -> str:
        stats = self._staleness.get_stats()
        state = f"{stats.running} rollouts run, {stats.enqueued} wait"
        if stats.rejected:
            state += f", {stats.rejected} were rejected, failed or dropped"
        if self.last_error is not None:
            state += f" (the last error is {describe(self.last_error)})"
        if stats.running or not stats.enqueued:
            return state
        if self._staleness.may_be_further_ahead():
            return f"{state}: nothing begins while the executor is paused; resume() lets it"
        return (
            f"{state}: as many as max_staleness and consumer_batch_size allow are ahead of the trainer, and "
            "set_version() has to be called first"
        )

    def _what_became_of_others(self) -> str:
        if not self._staleness.get_stats().rejected:
            return ": submit() asks for more; what was submitted with is_eval comes by wait_for_task()"
        last = "" if self.last_error is None else f", the last error is {describe(self.last_error)}"
        return f": the others were rejected, failed or dropped{last}"

    def _raise_failure(self) -> None:
        if self._closed:
            raise RolloutError("this executor is closed: no rollout comes any more")
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def in_flight(self) -> list[Submission]:
        """Those that are coming or wait, in the order of their submission."""
        with self._lock:
            return [s for _, s in sorted({**self._coming, **self._done}.items())]

    def close(self) -> None:
        """Whoever waits, or comes, is told."""
        with self._lock:
            self._closed = True
            self._changed.notify_all()

    def clear(self) -> list[Submission]:
        """Take out what nobody took."""
        with self._lock:
            left = list(self._done.values())
            self._done.clear()
            self._order.clear()
            self._coming.clear()
            return left


def deadline_in(timeout: float | None) -> float | None:
    """When `timeout` seconds are over, on the monotonic clock. Raises ValueError for what is no number."""
    if timeout is not None and (type(timeout) not in (int, float) or timeout != timeout):
        raise ValueError(f"timeout is {timeout!r}; expected seconds, or None to wait for as long as it takes")
    return None if timeout is None else time.monotonic() + timeout

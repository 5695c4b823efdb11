"""The way of a rollout: it waits in the intake, is handed to the runner, runs, and is ready for the trainer."""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import threading
import uuid
import weakref
from collections import deque
from collections.abc import Coroutine
from functools import partial
from inspect import iscoroutinefunction
from typing import Any, Final, TypeVar

from .engine import InferenceEngine
from .errors import RolloutError, check_whole
from .intake import Intake
from .loop import LoopThread
from .ready import Ready
from .runner import Runner
from .staleness import StalenessManager
from .submissions import ShouldAccept, Submission
from .workflow import RolloutWorkflow

logger = logging.getLogger("rollspan.rollout")

_T = TypeVar("_T")

_GRACE_S: Final = 1.0
"""For what is under way when nobody closes it."""


class Pipeline:
    """Submissions on their way. What is public here is safe from any thread."""

    def __init__(
        self,
        engine: InferenceEngine,
        staleness: StalenessManager,
        *,
        queue_size: int | None,
        block: bool,
        rollout_timeout: float | None,
        min_group_size: int | None,
        max_consecutive_failures: int | None,
        check_trajectory_format: bool,
    ) -> None:
        self.staleness = staleness
        self.intake = Intake(queue_size)
        self.ready = Ready(staleness)
        self.paused = False
        self._engine = engine
        self._block = block
        self._runner = Runner(
            engine,
            staleness,
            self.ready,
            self.wake,
            rollout_timeout=rollout_timeout,
            min_group_size=min_group_size,
            check_trajectory_format=check_trajectory_format,
            max_consecutive_failures=max_consecutive_failures,
        )
        self._handed_over: deque[Submission] = deque()  # on the loop alone
        self._numbering = threading.Lock()
        self._next = 0
        self._name = uuid.uuid4().hex[:8]
        self._pump_is_due = False
        self._closing = threading.Lock()
        self._closed = False
        self._process = os.getpid()
        self._loop = LoopThread("rollspan-rollout")
        weakref.finalize(
            self, self._loop.stop, _GRACE_S
        )  # of one that nobody closes, and that nobody has any more
        self._at_exit = partial(_close_at_exit, weakref.ref(self))

    def submit(
        self,
        data: Any,
        workflow: RolloutWorkflow,
        should_accept_fn: ShouldAccept | None = None,
        *,
        group_size: int | None = None,
        task_id: int | str | None = None,
        bounded: bool = True,
        reserved: bool = False,
        supply: object = None,
    ) -> Submission | None:
        """None where the queue was full and it was dropped. `RolloutExecutor.submit` says the rest.

        `bounded`: `max_staleness` bounds it; `reserved`: for who asks for its number; `supply`: where `data` came from.
        """
        self.check_open()
        size = _group_size(workflow, group_size)
        if should_accept_fn is not None and (
            iscoroutinefunction(should_accept_fn) or not callable(should_accept_fn)
        ):
            raise ValueError(
                f"should_accept_fn is {should_accept_fn!r}; expected a plain function, not an async one"
            )
        if self._block and self.intake.is_full and self._loop.is_current():
            raise RolloutError("the queue is full, and to wait for room in the event loop would be for ever")
        with self._numbering:
            number = self._next
            self._next += 1
        submission = Submission(
            number,
            data,
            workflow,
            should_accept_fn,
            task_id=task_id,
            group_id=f"{self._name}-{number}",
            group_size=size,
            bounded=bounded,
            reserved=reserved,
            supply=supply,
        )
        if not number:  # rollspan has its own by now, which is to come after this one
            atexit.register(self._at_exit)
        self.staleness.on_rollout_enqueued()
        try:
            self.ready.expect(submission)
            waits = self.intake.put(submission, block=self._block)
        except BaseException:  # closed, or interrupted
            self._lost(submission, "cancelled")
            raise
        if not waits:
            self._lost(submission, "input_queue_full")
            return None
        if not self._pump_is_due:
            self.wake()
        return submission

    def was_given(self, number: Any) -> bool:
        """Whether this is the number of a submission."""
        return type(number) is int and 0 <= number < self._next

    def _lost(self, submission: Submission, reason: str) -> None:
        """It ends before it was handed over."""
        self.staleness.on_rollout_dequeued()
        submission.drop(reason, self.staleness.get_stats())
        self.ready.put(submission)

    def wake(self) -> None:
        """Have the loop look what may begin."""
        if not self._pump_is_due:
            self._pump_is_due = True
            self._loop.soon(self._pump)

    def _pump(self) -> None:
        """On the loop: hand over what may be, begin what has its turn."""
        self._pump_is_due = False
        if self.paused or self._closed:
            return
        staleness, handed_over = self.staleness, self._handed_over
        while True:
            while handed_over and staleness.may_run():
                self._runner.start(handed_over.popleft())
            if len(handed_over) >= staleness.max_concurrent_rollouts:
                break
            submission = self.intake.pop(bounded=staleness.may_be_further_ahead())
            if submission is None:
                break
            for session in submission.sessions:
                session.mark_enqueued()
            staleness.on_rollout_admitted(bounded=submission.bounded)
            handed_over.append(submission)
        self.ready.look_for_food()

    def set_version(self, version: int) -> None:
        """The weights are others now."""
        self.staleness.check_version(version)
        tell = getattr(self._engine, "set_version", None)
        if tell is not None:  # a stand-in may have none
            tell(version)  # before a rollout begins that is counted among those of the new weights
        self.ready.set_version(version)
        self.wake()

    def run(self, coroutine: Coroutine[Any, Any, _T], timeout: float | None = None) -> _T:
        """Run it on the loop, and wait for what it gives."""
        self.check_open()
        return self._loop.run(coroutine, timeout)

    def close(self, timeout: float) -> None:
        """End everything; `RolloutExecutor.close` says how."""
        if self._loop.is_current():
            raise RolloutError("close() inside of the executor's event loop would wait for itself")
        with self._closing:
            if self._closed or not self.is_of_this_process():
                return
            self._closed = True
            atexit.unregister(self._at_exit)
            self.ready.close()
            for submission in self.intake.close():
                self._lost(submission, "cancelled")
            try:
                self._loop.run(self._end(timeout), 2 * timeout + 1)
            except TimeoutError:
                logger.warning("rollspan: the event loop of the rollouts does not answer: it is left behind")
            except Exception as error:  # noqa: BLE001 - an engine that cannot even be closed
                logger.warning("rollspan: closing the engine failed with %s", type(error).__name__)
            for submission in self.ready.clear():
                submission.abort()
            self._loop.stop(timeout)

    async def _end(self, timeout: float) -> None:
        while self._handed_over:
            self._runner.give_up(self._handed_over.popleft())
        await self._runner.cancel(timeout)
        close = getattr(self._engine, "aclose", None)
        if close is not None:
            await asyncio.wait_for(close(), timeout)

    def is_of_this_process(self) -> bool:
        """False in a forked child, which does not have the event loop's thread."""
        return os.getpid() == self._process

    def check_open(self) -> None:
        """Raise RolloutError where nothing can be asked of it any more."""
        if self._closed:
            raise RolloutError("this executor is closed")
        if not self.is_of_this_process():
            raise RolloutError(
                "this executor belongs to the process that made it: a forked one needs its own"
            )

    def check_may_wait(self) -> None:
        """Raise RolloutError where who waits would wait for ever."""
        self.check_open()
        if self._loop.is_current():
            raise RolloutError("to wait for rollouts in the event loop that runs them would be for ever")


def _close_at_exit(reference: weakref.ref[Pipeline]) -> None:
    pipeline = reference()
    if pipeline is not None and pipeline.is_of_this_process():
        stats = pipeline.staleness.get_stats()
        if stats.running or stats.enqueued:
            logger.warning(
                "rollspan: rollouts are cut off by the program's end: call close() of their RolloutExecutor before, or "
                "use it in a `with` block"
            )
        pipeline.close(_GRACE_S)


def _group_size(workflow: Any, size: int | None) -> int:
    if not callable(getattr(workflow, "arun_episode", None)):
        raise ValueError(
            f"workflow is {workflow!r}; expected an object with `async arun_episode(engine, task)`, such as a "
            "RolloutWorkflow"
        )
    if isinstance(workflow, type):
        raise ValueError(f"workflow is the class {workflow.__name__}; expected an object of it")
    if size is None:
        size = getattr(workflow, "group_size", 1)
    check_whole("group_size", size, 1)
    return size

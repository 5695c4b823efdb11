"""Runs rollouts on the event loop, each to its verdict."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from inspect import isawaitable
from types import CoroutineType
from typing import Any, Final

from rollspan import RolloutStats

from .engine import InferenceEngine
from .errors import RolloutError, describe
from .ready import Ready
from .staleness import StalenessManager
from .submissions import Submission
from .trajectories import check, concat_padded, oldest_version

logger = logging.getLogger("rollspan.rollout")

_REWARDS: Final = "rewards"
_SAID_AT: Final = frozenset(256 * 8**n for n in range(8))
_MOST_SAID: Final = 100


class _Sample:
    """One rollout that runs."""

    __slots__ = ("index", "submission", "timed_out", "timer", "version")

    def __init__(self, submission: Submission, index: int, version: int) -> None:
        self.submission = submission
        self.index = index
        self.version = version  # when it began
        self.timer: asyncio.TimerHandle | None = None
        self.timed_out = False


class Runner:
    """Everything here happens on the event loop."""

    def __init__(
        self,
        engine: InferenceEngine,
        staleness: StalenessManager,
        ready: Ready,
        on_over: Callable[[], None],
        *,
        rollout_timeout: float | None,
        min_group_size: int | None,
        check_trajectory_format: bool,
        max_consecutive_failures: int | None,
    ) -> None:
        self._engine = engine
        self._staleness = staleness
        self._ready = ready
        self._on_over = on_over
        self._timeout = rollout_timeout
        self._min_group_size = min_group_size
        self._check = check_trajectory_format
        self._most_failures = max_consecutive_failures
        self._failures = 0
        self._fruitless = 0
        self._said: set[str] = set()
        self._running: dict[asyncio.Task[Any], _Sample] = {}
        self._context = contextvars.Context()  # what ends a rollout needs none of its own

    def start(self, submission: Submission) -> None:
        """Begin to run it; whoever waits for it is told by `Ready`."""
        self._staleness.on_rollout_submitted()
        loop = asyncio.get_running_loop()
        version = self._staleness.get_version()
        for index in range(len(submission.sessions)):
            sample = _Sample(submission, index, version)
            task = loop.create_task(self._execute(submission, index))
            self._running[task] = sample
            if self._timeout is not None:
                sample.timer = loop.call_later(self._timeout, partial(_time_out, sample, task))
            task.add_done_callback(self._over, context=self._context)

    async def _execute(self, submission: Submission, index: int) -> Any:
        try:
            with submission.sessions[index].execution():
                episode = submission.workflow.arun_episode(self._engine, submission.task(index))
                if type(episode) is not CoroutineType and not isawaitable(episode):
                    raise TypeError(
                        f"{type(submission.workflow).__name__}.arun_episode gave a {type(episode).__name__}; expected "
                        "something to await: it has to be an `async def`"
                    )
                return await episode
        except (KeyboardInterrupt, SystemExit) as error:  # which would end the loop
            raise RolloutError(f"the workflow raised {type(error).__name__}") from error

    def _over(self, task: asyncio.Task[Any]) -> None:
        """One rollout has ended, or was cancelled before it began: its own end, and that of its group."""
        sample = self._running.pop(task)
        submission, index = sample.submission, sample.index
        if sample.timer is not None:
            sample.timer.cancel()
        session = submission.sessions[index]
        if sample.timed_out:
            session.mark_dropped("timeout", stats=self._staleness.get_stats())
            self._failed(TimeoutError(f"a rollout took more than {self._timeout} s"), submission)
        elif task.cancelled():
            session.mark_dropped("cancelled", stats=self._staleness.get_stats())
        else:
            try:
                row = submission.rows[index] = self._checked(sample, task.result())
            except BaseException as error:  # noqa: BLE001 - what a workflow raises or returns may be anything
                session.mark_failed(error, stats=self._staleness.get_stats())
                self._failed(error, submission)
            else:
                if row is None:
                    self._failures = 0
                    session.mark_rejected("workflow_returned_none", stats=self._staleness.get_stats())
        submission.left -= 1
        if not submission.left:
            self._judge(submission)

    def _checked(self, sample: _Sample, row: Any) -> Any:
        if row is None:
            return None
        if self._check:
            try:
                check(row, rows=None)
            except ValueError as wrong:
                self._say_once(
                    f"a trajectory of {type(sample.submission.workflow).__name__} is wrong: {wrong}"
                )
                raise
        oldest = oldest_version(row)
        if oldest is None:
            oldest = sample.version
        elif oldest < sample.version:
            self._say_once(
                "rollouts have tokens of older versions than the one under which they began: the engine does not have "
                "the weights that set_version() told of, and what it gives will be dropped as too old. An engine of your "
                "own is told of them by its method set_version(version), and its output_versions have to say them"
            )
        known = sample.submission.oldest
        sample.submission.oldest = oldest if known is None else min(known, oldest)
        return row

    def _judge(self, submission: Submission) -> None:
        """All of its rollouts are over: the verdict on the good ones."""
        rows = submission.rows
        if len(rows) == 1:  # most are
            good: Sequence[int] = () if rows[0] is None else (0,)
        else:
            good = [index for index, row in enumerate(rows) if row is not None]
        accepted = False
        if good:
            needed = self._min_group_size or len(rows)
            if len(good) < min(needed, len(rows)):
                self._give(submission, good, self._staleness.get_stats(), "group_filtered")
            else:
                accepted = self._accept(submission, good)
        if accepted:
            self._fruitless = 0
            self._give(submission, good, self._staleness.on_rollout_accepted())
        else:
            self._fruitless += 1
            if self._fruitless in _SAID_AT:
                logger.warning(
                    "rollspan: %d rollouts in a row gave nothing to train on, the last one of %s: they were rejected, "
                    "failed or dropped. Who waits for a batch goes on waiting",
                    self._fruitless,
                    type(submission.workflow).__name__,
                )
            submission.rows = [None] * len(rows)
            self._staleness.on_rollout_rejected(bounded=submission.bounded)
        self._ready.put(submission)
        self._on_over()

    def _accept(self, submission: Submission, good: Sequence[int]) -> bool:
        """Whether the group is trained on; where it is not its rollouts have their verdict."""
        try:
            rows: list[Any] = submission.rows
            trajectory = rows[good[0]] if len(good) == 1 else concat_padded([rows[index] for index in good])
            should_accept = submission.should_accept_fn
            accepted = should_accept is None or bool(contextvars.Context().run(should_accept, trajectory))
        except Exception as error:  # noqa: BLE001 - whatever a user's function raises
            for index in good:
                submission.sessions[index].mark_failed(error, stats=self._staleness.get_stats())
            self._failed(error, submission)
            return False
        self._failures = 0
        if not accepted:
            for index in good:
                submission.sessions[index].mark_rejected(
                    stats=self._staleness.get_stats(), reward=_reward(submission.rows[index])
                )
            return False
        submission.trajectory = trajectory
        return True

    def _give(
        self, submission: Submission, good: Sequence[int], stats: RolloutStats, reason: str | None = None
    ) -> None:
        """Mark rollouts as accepted, and with a reason as thrown away after that."""
        for index in good:
            session = submission.sessions[index]
            session.mark_accepted(stats=stats, reward=_reward(submission.rows[index]))
            if reason is not None:
                session.mark_dropped(reason, stats=stats)

    def _failed(self, error: BaseException, submission: Submission) -> None:
        self._failures += 1
        self._ready.last_error = submission.error = error
        # What it says may be a prompt: whoever is told of the failures gets it as the cause.
        workflow = type(submission.workflow).__name__
        self._say_once(
            f"a rollout of {workflow} failed with {type(error).__name__}{_where(error)}; further ones of this kind are "
            "not logged"
        )
        if self._most_failures is not None and self._failures >= self._most_failures:
            failure = RolloutError(
                f"{self._failures} rollouts in a row have failed, the last one of {workflow} "
                f"with {describe(error)}; max_consecutive_failures says how many may"
            )
            failure.__cause__ = error
            self._failures = 0
            self._ready.fail(failure)

    def _say_once(self, what: str) -> None:
        if what not in self._said and len(self._said) < _MOST_SAID:
            self._said.add(what)
            logger.warning("rollspan: %s", what)

    def give_up(self, submission: Submission) -> None:
        """It was handed over, and will not run."""
        self._staleness.on_rollout_submitted()
        submission.drop("cancelled", self._staleness.get_stats())
        self._staleness.on_rollout_rejected(bounded=submission.bounded)
        self._ready.put(submission)

    async def cancel(self, timeout: float) -> None:
        """Cancel what runs, and wait until it has ended; what does not in `timeout` seconds is left behind."""
        tasks = list(self._running)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=timeout)
            await asyncio.sleep(0)  # their callbacks
        for sample in self._running.values():
            sample.submission.drop("cancelled", self._staleness.get_stats())
        if self._running:
            logger.warning(
                "rollspan: %d rollouts go on although they were cancelled: they are left behind",
                len(self._running),
            )


def _time_out(sample: _Sample, task: asyncio.Task[Any]) -> None:
    sample.timed_out = True
    task.cancel()


def _where(error: BaseException) -> str:
    """The line of code that raised it: what it says may be a prompt, where it comes from is none."""
    frames = traceback.extract_tb(error.__traceback__)
    return f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""


def _reward(row: Any) -> float | None:
    """The reward of a rollout, the mean where it has several rows; None where it has none."""
    try:
        rewards = row[_REWARDS]
        return float(rewards.item() if rewards.numel() == 1 else rewards.float().mean())
    except (KeyError, AttributeError, TypeError, ValueError):
        return None

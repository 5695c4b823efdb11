"""Runs rollouts ahead of training: a bounded queue, a fixed number of runners, groups that belong together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import rollspan
from rollspan.demo.config import DemoConfig
from rollspan.demo.task import Task
from rollspan.demo.workflow import Trajectory


@dataclass(eq=False)
class Sample:
    """One rollout of one task."""

    group: Group
    session: rollspan.Session
    running: asyncio.Task[None] | None = None  # set when the rollout has begun
    trajectory: Trajectory | None = None  # set when accepted
    done: bool = False


@dataclass(eq=False)
class Group:
    """All rollouts of one task."""

    task: Task
    samples: list[Sample] = field(default_factory=list)

    @property
    def accepted(self) -> list[Sample]:
        """The rollouts that can be learned from."""
        return [sample for sample in self.samples if sample.trajectory is not None]

    @property
    def trajectories(self) -> list[Trajectory]:
        """What to learn from."""
        return [sample.trajectory for sample in self.samples if sample.trajectory is not None]

    @property
    def unfinished(self) -> list[Sample]:
        """The rollouts that wait or run."""
        return [sample for sample in self.samples if not sample.done]


@dataclass
class Counts:
    """How many rollouts are where."""

    accepted: int = 0
    enqueued: int = 0
    rejected: int = 0
    running: int = 0
    finished: int = 0

    def stats(self) -> rollspan.RolloutStats:
        """The snapshot that goes into a rollout's record."""
        return rollspan.RolloutStats(
            accepted=self.accepted, enqueued=self.enqueued, rejected=self.rejected, running=self.running
        )


class Rollouts:
    """An executor of rollouts. Use it as an async context manager; leaving cancels what still runs."""

    def __init__(
        self,
        config: DemoConfig,
        run: Callable[[Task], Awaitable[Trajectory | None]],
        should_accept: Callable[[Trajectory], bool],
    ) -> None:
        self.counts = Counts()
        self.last_error: Exception | None = None
        self._config = config
        self._run = run
        self._should_accept = should_accept
        self._queue: asyncio.Queue[Sample] = asyncio.Queue(maxsize=config.queue_size)
        self._ready: asyncio.Queue[Group] = asyncio.Queue()
        self._open: set[Group] = set()
        self._runners: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Rollouts:
        self._runners = [asyncio.create_task(self._runner()) for _ in range(self._config.runners)]
        return self

    async def __aexit__(self, *exc: object) -> None:
        for runner in self._runners:
            runner.cancel()
        running = [s.running for group in self._open for s in group.unfinished if s.running is not None]
        for group in list(self._open):
            self._cancel(group)
        await asyncio.gather(*self._runners, *running, return_exceptions=True)

    def submit(self, task: Task) -> None:
        """Ask for a group of rollouts of `task`; those that find the queue full are dropped."""
        group = Group(task)
        for _ in range(self._config.group_size + self._config.spare_samples):
            session = rollspan.start_session(
                task_id=task.task_id, group_id=str(task.task_id), workflow="sort"
            )
            sample = Sample(group, session)
            group.samples.append(sample)
            try:
                self._queue.put_nowait(sample)
            except asyncio.QueueFull:
                session.mark_dropped("input_queue_full", stats=self.counts.stats())
                sample.done = True
                self.counts.finished += 1
            else:
                self.counts.enqueued += 1
        if group.unfinished:
            self._open.add(group)

    async def next_group(self) -> Group:
        """Wait for the next group in which every rollout has ended."""
        return await self._ready.get()

    async def _runner(self) -> None:
        while True:
            sample = await self._queue.get()
            if not sample.done:
                sample.session.mark_enqueued()
                await asyncio.wait([asyncio.create_task(self._rollout(sample))])

    async def _rollout(self, sample: Sample) -> None:
        """Run one rollout to its verdict."""
        if sample.done:
            return
        # Known from here on: a task cancelled before its first step would never come to its `except`.
        sample.running = asyncio.current_task()
        session, counts, trajectory = sample.session, self.counts, None
        counts.enqueued -= 1
        counts.running += 1
        try:
            async with session.execution():
                trajectory = await asyncio.wait_for(
                    self._run(sample.group.task), self._config.rollout_timeout_s
                )
        except asyncio.CancelledError:
            session.mark_dropped("cancelled", stats=counts.stats())
        except asyncio.TimeoutError:
            session.mark_dropped("timeout", stats=counts.stats())
        except Exception as error:  # noqa: BLE001 - whatever a workflow raises
            self.last_error = error
            session.mark_failed(error, stats=counts.stats())
        else:
            if trajectory is None:
                counts.rejected += 1
                session.mark_rejected("workflow_returned_none", stats=counts.stats())
            elif not self._should_accept(trajectory):
                counts.rejected += 1
                session.mark_rejected(stats=counts.stats(), reward=trajectory.reward)
            else:
                counts.accepted += 1
                session.mark_accepted(stats=counts.stats(), reward=trajectory.reward)
                sample.trajectory = trajectory
        finally:
            counts.running -= 1
            self._end(sample)

    def _end(self, sample: Sample) -> None:
        sample.done = True
        self.counts.finished += 1
        group = sample.group
        if len(group.accepted) == self._config.group_size:
            self._cancel(group)  # enough: the spare ones are not needed any more
        self._hand_over_if_complete(group)

    def _cancel(self, group: Group) -> None:
        for sample in group.unfinished:
            if sample.running is not None:
                sample.running.cancel()
            else:
                sample.session.mark_dropped("cancelled", stats=self.counts.stats())
                self.counts.enqueued -= 1
                self.counts.finished += 1
                sample.done = True

    def _hand_over_if_complete(self, group: Group) -> None:
        if group in self._open and not group.unfinished:
            self._open.discard(group)
            self._ready.put_nowait(group)

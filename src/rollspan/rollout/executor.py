"""Runs rollouts ahead of training: the trainer submits data and takes trajectories, an event loop does the rest."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar, cast

from rollspan import RolloutStats

from .batches import Batches
from .engine import InferenceEngine
from .errors import check_whole
from .pipeline import Pipeline
from .staleness import StalenessManager
from .submissions import ShouldAccept, Submission
from .trajectories import Trajectory
from .workflow import RolloutWorkflow

_T = TypeVar("_T")


class RolloutExecutor:
    """Asynchronous rollouts for a trainer, which may be plain code: every method may be called from any thread.

    What is submitted waits (`queue_wait`) until `max_staleness` lets it begin, then (`runner_wait`) until fewer than
    `max_concurrent_rollouts` run; its trajectory waits (`post_wait`) until the trainer takes it. A rollout is what one
    submission asks for, one session or a group of them, here and in all numbers below. A context manager.

    - `consumer_batch_size`: rollouts that the trainer takes for each version of the weights;
    - `max_staleness`: versions that may lie between a trajectory's oldest token and the trainer that takes it: how far
      rollouts run ahead. What is older is dropped. None for no bound, 0 for rollouts of the present weights alone;
    - `max_concurrent_rollouts`: as many run at once; by default `consumer_batch_size`, and 64 at least;
    - `queue_size`: as many may wait; None for any number. When it is full, `submit` waits (`when_full="block"`), or what
      is submitted is dropped (`"drop"`);
    - `rollout_timeout`: seconds that one session may take;
    - `min_group_size`: of a group, as many sessions at least have to be good, else all are dropped; by default all;
    - `max_consecutive_failures`: after so many sessions that raised or took too long, none good among them, the next
      call that waits raises RolloutError, with the last error as its cause; None for never;
    - `check_trajectory_format`: whether trajectories are checked; a wrong one fails its session;
    - `version`: of the weights that are there at the beginning.

    Raises ValueError for values that make no sense.
    """

    def __init__(
        self,
        engine: InferenceEngine,
        *,
        consumer_batch_size: int = 1,
        max_staleness: int | None = None,
        max_concurrent_rollouts: int | None = None,
        queue_size: int | None = None,
        when_full: str = "block",
        rollout_timeout: float | None = None,
        min_group_size: int | None = None,
        max_consecutive_failures: int | None = 32,
        check_trajectory_format: bool = True,
        version: int = 0,
    ) -> None:
        given: Any = engine
        if given is None or isinstance(given, str | bytes | type):
            raise ValueError(
                f"engine is {engine!r}; expected an object with `async agenerate(request)`, such as SGLangEngine(address)"
            )
        if type(check_trajectory_format) is not bool:
            raise ValueError(
                f"check_trajectory_format is {check_trajectory_format!r}; expected True or False"
            )
        if when_full not in ("block", "drop"):
            raise ValueError(f"when_full is {when_full!r}; expected 'block' or 'drop'")
        for name, value in (
            ("min_group_size", min_group_size),
            ("max_consecutive_failures", max_consecutive_failures),
        ):
            if value is not None:
                check_whole(name, value, 1, ", or None")
        if rollout_timeout is not None and not (
            type(rollout_timeout) in (int, float) and rollout_timeout > 0
        ):
            raise ValueError(f"rollout_timeout is {rollout_timeout!r}; expected seconds above 0, or None")
        self.engine = engine
        self.staleness_manager = StalenessManager(
            max_concurrent_rollouts=max_concurrent_rollouts,
            consumer_batch_size=consumer_batch_size,
            max_staleness=max_staleness,
            version=version,
        )
        self._pipeline = Pipeline(
            engine,
            self.staleness_manager,
            queue_size=queue_size,
            block=when_full == "block",
            rollout_timeout=rollout_timeout,
            min_group_size=min_group_size,
            max_consecutive_failures=max_consecutive_failures,
            check_trajectory_format=check_trajectory_format,
        )
        self._batches = Batches(self._pipeline)

    def __enter__(self) -> RolloutExecutor:
        self._pipeline.check_open()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    async def __aenter__(self) -> RolloutExecutor:
        return self.__enter__()

    async def __aexit__(self, *exc: object) -> None:
        await self.close_async()

    # Submission.

    def submit(
        self,
        data: Any,
        workflow: RolloutWorkflow,
        should_accept_fn: ShouldAccept | None = None,
        *,
        group_size: int | None = None,
        task_id: int | str | None = None,
        is_eval: bool = False,
    ) -> int | None:
        """Ask for a rollout of `data`, or for a group of them; its number, or None where it was dropped.

        `group_size`: sessions, by default as many as the workflow says. `should_accept_fn` looks at the trajectory, of
        a group at all of its rows, and says whether to train on it; it runs on the event loop, so it should be quick.
        `task_id` names the dataset's item, else its `task_id`, `query_id`, `qid` or `id` does, else the number.
        `is_eval`: not trained on, so that `max_staleness` says nothing of it, and `wait` does not give it:
        `wait_for_task` does. Raises ValueError for arguments that make no sense, RolloutError when closed.
        """
        submission = self._pipeline.submit(
            data,
            workflow,
            should_accept_fn,
            group_size=group_size,
            task_id=task_id,
            bounded=not is_eval,
            reserved=is_eval,
        )
        return None if submission is None else submission.number

    # What comes of it.

    def wait(self, count: int, timeout: float | None = None) -> list[Trajectory]:
        """The `count` trajectories that were submitted first, once so many are ready: [rows, length] each, unpadded.

        Raises TimeoutError after `timeout` seconds, and RolloutError where no more can come, when rollouts fail one
        after the other, and when closed; what is ready stays so. Raises ValueError where `max_staleness` never lets so
        many run.
        """
        return _consumed(self._batches.first(count, timeout))

    def wait_for_task(self, number: int, timeout: float | None = None) -> Trajectory | None:
        """The trajectory of the submission with this number, or None where it came to nothing, or was taken before.

        Raises ValueError for what is no number, TimeoutError after `timeout` seconds.
        """
        return next(iter(_consumed(self._batches.numbered(number, timeout))), None)

    def rollout_batch(
        self,
        data: Sequence[Any],
        workflow: RolloutWorkflow,
        should_accept_fn: ShouldAccept | None = None,
        *,
        group_size: int | None = None,
        timeout: float | None = None,
    ) -> list[Trajectory]:
        """Rollouts of all of `data`, now: the trajectories of those that were accepted, in the order of the data.

        `max_staleness` holds none of them back. `timeout` seconds are for each of them. That some failed is said in the
        log; where all gave nothing and some failed RolloutError is raised, with the last error as its cause.
        """
        return _consumed(self._batches.of_data(data, workflow, should_accept_fn, group_size, timeout))

    def prepare_batch(
        self,
        dataloader: Iterable[Any],
        workflow: RolloutWorkflow,
        should_accept_fn: ShouldAccept | None = None,
        *,
        batch_size: int | None = None,
        group_size: int | None = None,
        timeout: float | None = None,
    ) -> list[Trajectory]:
        """The next batch for the trainer, one trajectory [rows, length] for each item; keeps the pipeline full.

        Submits items of `dataloader`, epoch after epoch, so many that rollouts go on while the trainer trains; the next
        call goes on where this one was, and `state_dict` knows where that is. A DataLoader gives batches, any other
        iterable items or lists of them. An iterator ends: the last batch may be short then, those after it are empty.
        `batch_size` is the DataLoader's, else `consumer_batch_size`. Raises as `wait`.
        """
        return _consumed(
            self._batches.of_loader(dataloader, workflow, should_accept_fn, batch_size, group_size, timeout)
        )

    # The same without blocking, for async code on an event loop of its own.

    async def submit_async(self, *arguments: Any, **keywords: Any) -> int | None:
        """`submit`, which may have to wait for room."""
        return await asyncio.to_thread(self.submit, *arguments, **keywords)

    async def wait_async(self, count: int, timeout: float | None = None) -> list[Trajectory]:
        """`wait`. Cancelled, it takes nothing."""
        return await self._without_blocking(partial(self._batches.first, count, timeout))

    async def wait_for_task_async(self, number: int, timeout: float | None = None) -> Trajectory | None:
        """`wait_for_task`. Cancelled, it takes nothing."""
        taken = await self._without_blocking(partial(self._batches.numbered, number, timeout))
        return taken[0] if taken else None

    async def update_weights_async(self, weights: Any, version: int) -> None:
        """`update_weights`."""
        await asyncio.to_thread(self.update_weights, weights, version)

    async def rollout_batch_async(
        self,
        data: Sequence[Any],
        workflow: RolloutWorkflow,
        should_accept_fn: ShouldAccept | None = None,
        *,
        group_size: int | None = None,
        timeout: float | None = None,
    ) -> list[Trajectory]:
        """`rollout_batch`. Cancelled, it lets go of the rollouts that it asked for."""
        return await self._without_blocking(
            partial(self._batches.of_data, data, workflow, should_accept_fn, group_size, timeout)
        )

    async def prepare_batch_async(
        self,
        dataloader: Iterable[Any],
        workflow: RolloutWorkflow,
        should_accept_fn: ShouldAccept | None = None,
        *,
        batch_size: int | None = None,
        group_size: int | None = None,
        timeout: float | None = None,
    ) -> list[Trajectory]:
        """`prepare_batch`. Cancelled, it takes nothing."""
        return await self._without_blocking(
            partial(
                self._batches.of_loader,
                *(dataloader, workflow, should_accept_fn, batch_size, group_size, timeout),
            )
        )

    async def close_async(self, timeout: float = 10.0) -> None:
        """`close`."""
        await asyncio.to_thread(self.close, timeout)

    async def _without_blocking(self, take: Callable[..., list[Submission]]) -> list[Trajectory]:
        stop = threading.Event()
        taking = asyncio.ensure_future(asyncio.to_thread(take, stop=stop))
        try:
            return _consumed(await asyncio.shield(taking))
        except asyncio.CancelledError:
            stop.set()
            taking.add_done_callback(self._give_back)
            self._pipeline.ready.poke()
            raise

    def _give_back(self, taking: asyncio.Future[list[Submission]]) -> None:
        if not taking.cancelled() and taking.exception() is None:
            self._batches.give_back(taking.result())

    # Versions, pauses, the end.

    def get_version(self) -> int:
        """The version of the weights that is trained on now."""
        return self.staleness_manager.get_version()

    def set_version(self, version: int) -> None:
        """The weights are others now: what is too old for them is dropped, and more may begin.

        The engine is told first, by its own `set_version` where it has one. Raises ValueError for a version that is
        older than the present one.
        """
        self._pipeline.set_version(version)

    def update_weights(self, weights: Any, version: int) -> None:
        """Push weights to the engine, then `set_version`. Raises what the engine raises."""
        self.run(self.engine.update_weights(weights, version))
        self.set_version(version)

    def run(self, coroutine: Coroutine[Any, Any, _T], timeout: float | None = None) -> _T:
        """Run a coroutine, of the engine's say, on the event loop, and wait for what it gives."""
        return self._pipeline.run(coroutine, timeout)

    def pause(self) -> None:
        """Let no further rollout begin; those that run go on."""
        self._pipeline.paused = True

    def resume(self) -> None:
        """Let rollouts begin again."""
        self._pipeline.paused = False
        self._pipeline.wake()

    def is_paused(self) -> bool:
        """Whether `pause` was called last."""
        return self._pipeline.paused

    def get_capacity(self) -> int:
        """How many rollouts may begin now."""
        return self.staleness_manager.get_capacity()

    def get_stats(self) -> RolloutStats:
        """Rollouts by what they do."""
        return self.staleness_manager.get_stats()

    def state_dict(self) -> dict[str, Any]:
        """The version, and for each dataloader of `prepare_batch` where it is; for a checkpoint, by pickle.

        Items whose rollouts are under way or ready are among it, as they were given: who loads it submits them again,
        so none is lost and none trained on twice. What was rejected, failed or dropped has had its turn.
        """
        return {"version": self.get_version(), "dataloaders": self._batches.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was, with the same dataloaders in the order of their first use.

        To be called before `prepare_batch`; raises RolloutError after it, and ValueError for what is no such state.
        """
        given: Any = state
        if not isinstance(given, Mapping):
            raise ValueError(f"the state is a {type(state).__name__}; expected what state_dict() gave")
        if missing := {"version", "dataloaders"} - given.keys():
            raise ValueError(f"the state lacks {', '.join(sorted(missing))}; expected what state_dict() gave")
        self._batches.load_state_dict(state["dataloaders"])
        self.set_version(state["version"])

    def close(self, timeout: float = 10.0) -> None:
        """End: what waits and runs is cancelled, what waits for the trainer keeps its verdict, the engine is closed.

        What does not end in `timeout` seconds is left behind, with a word in the log. Again it does nothing.
        """
        self._pipeline.close(timeout)


def _consumed(submissions: Iterable[Submission]) -> list[Trajectory]:
    """The trainer has them, in whose thread, or task, this is."""
    trajectories = []
    for submission in submissions:
        submission.consume()
        trajectories.append(cast("Trajectory", submission.trajectory))
    return trajectories

"""From submission to consumption: one session for each sample of a task, through AReaL's dispatcher and executor.

A task crosses two threads before it runs, and its id repeats between the executors of a process. So its sessions are
kept by dispatcher and id; in the task they are current only while it runs.
"""

from __future__ import annotations

import copy
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextvars import ContextVar
from types import ModuleType
from typing import Any, Final

import rollspan
from rollspan import health, ids, semconv, switch
from rollspan.instrumentation.patches import Patches

TASK: Final = "areal.task_id"
"""Attribute: AReaL's number of the submission, from 0 in each executor."""
EVAL: Final = "areal.is_eval"
GROUP_FAILED: Final = "group_failed"
"""Reason: another sample of the group raised, which makes AReaL throw all of them away."""
BATCH_FAILED: Final = "batch_failed"
"""Reason: accepted and taken for a batch that was then never returned."""

_ITEMS = ("task_id", "query_id", "qid", "id")
"""Where a dataset's item may have its name."""


class Sample:
    """One run of a workflow: its session and what it came to."""

    __slots__ = ("error", "result", "session")

    def __init__(self, session: Any) -> None:
        self.session = session
        self.result: Any = None
        self.error: BaseException | None = None


class Submission:
    """A task that was submitted to a dispatcher."""

    __slots__ = ("_handed_over", "error", "reason", "samples", "status", "task_id")

    def __init__(self, task: Any, grouped: Any) -> None:
        self.task_id = task.task_id
        self.status: str | None = None
        self.reason: str | None = None
        self.error: BaseException | None = None
        self._handed_over = False
        workflow, size = task.workflow, 1
        said: dict[str, Any] = {TASK: task.task_id, EVAL: task.is_eval}
        if type(workflow) is grouped:
            workflow, size = workflow.workflow, workflow.group_size
            said["group_id"] = ids.trace_hex().decode()
        said["workflow"] = type(workflow).__name__
        item = _item_of(task.data)
        if item is not None:
            said["task_id"] = item
        self.samples = [Sample(rollspan.start_session(**said)) for _ in range(size)]

    def hand_over(self) -> None:
        """To the runner; AReaL does so again where the runner's queue was full."""
        if not self._handed_over:
            self._handed_over = True
            for sample in self.samples:
                sample.session.mark_enqueued()

    def traced(self, task: Any, grouped: Any) -> Any:
        """The task, with a workflow that runs each sample in its session."""
        left = iter(self.samples)
        if type(task.workflow) is grouped:
            workflow = copy.copy(task.workflow)
            workflow.workflow = _Traced(task.workflow.workflow, left)
        else:
            workflow = _Traced(task.workflow, left)
        traced = object.__new__(type(task))  # `dataclasses.replace` costs many times as much
        vars(traced).update(vars(task), workflow=workflow)
        return traced

    def finalized(self, status: str, reason: str | None, error: BaseException | None) -> None:
        """What AReaL's executor made of it, said from inside of it."""
        self.status, self.reason, self.error = status, reason, error

    def judge(self, stats: Any) -> bool:
        """Give each sample its verdict; whether there is anything that the trainer can consume."""
        accepted = self.status == semconv.ACCEPTED
        for sample in self.samples:
            if accepted and sample.error is None and sample.result is not None:
                sample.session.mark_accepted(stats=stats, reward=_reward_of(sample.result))
            else:
                self._throw_away(sample, stats)
        return accepted

    def _throw_away(self, sample: Sample, stats: Any) -> None:
        session = sample.session
        if self.status is None:
            session.mark_dropped(semconv.CANCELLED, stats=stats)
        elif sample.error is not None:
            session.mark_failed(sample.error, stats=stats)
        elif self.status == semconv.FAILED and any(other.error is not None for other in self.samples):
            session.mark_dropped(GROUP_FAILED, stats=stats)
        elif self.status == semconv.FAILED:  # by what comes after the workflow: a check, should_accept_fn
            session.mark_failed(self.error, stats=stats)
        elif sample.result is None:
            session.mark_rejected(semconv.WORKFLOW_RETURNED_NONE, stats=stats)
        else:
            session.mark_rejected(semconv.SHOULD_ACCEPT_FALSE, stats=stats, reward=_reward_of(sample.result))

    def consumed(self) -> None:
        """The trainer has it."""
        for sample in self.samples:
            if sample.session.status == semconv.ACCEPTED:
                sample.session.mark_consumed()

    def thrown_away(self) -> None:
        """It was accepted, and is lost with its batch."""
        for sample in self.samples:
            if sample.session.status == semconv.ACCEPTED:
                sample.session.mark_dropped(BATCH_FAILED)

    def abort(self) -> None:
        """Its executor is gone: what is open is cancelled, what had a verdict keeps it."""
        for sample in self.samples:
            sample.session.abort(semconv.CANCELLED)


class _Traced:
    """A workflow whose every run is the execution of the next session."""

    __slots__ = ("_left", "_workflow")

    def __init__(self, workflow: Any, left: Iterator[Sample]) -> None:
        self._workflow = workflow
        self._left = left

    def __getattr__(self, name: str) -> Any:
        return getattr(self._workflow, name)

    async def arun_episode(self, engine: Any, data: Any) -> Any:
        sample = next(self._left, None)
        if sample is None:
            return await self._workflow.arun_episode(engine, data)
        with sample.session.execution():
            try:
                sample.result = await self._workflow.arun_episode(engine, data)
            except Exception as error:
                sample.error = error
                raise
            return sample.result


def _under_way(dispatcher: Any) -> dict[int, Submission]:
    """Its submissions that are under way, by task id: it keeps them itself."""
    found: dict[int, Submission] = vars(dispatcher).setdefault("_rollspan", {})
    return found


_running: ContextVar[Submission | None] = ContextVar("rollspan-areal-submission", default=None)
_batch = threading.local()
"""`arrived`: results that a batch in the making has got, in its thread."""


def wrap(patches: Patches, module: ModuleType, dispatcher: type, executor: type, grouped: Any) -> None:
    """Follow tasks through the classes of `areal.infra.workflow_executor`."""
    _follow_execution(patches, module, executor, grouped)
    factory: Any = vars(executor)["_create_workflow_task"]

    def submit_task_input(inside: Callable[..., Any]) -> Callable[..., Any]:
        def submit_task_input(self: Any, task_input: Any) -> Any:
            submission = None
            try:
                # Neither those of a controller, whose workers trace them, nor those of before.
                if switch.runtime() is not None and getattr(self.task_factory, "__func__", None) is factory:
                    submission = Submission(task_input, grouped)
                    _under_way(self)[task_input.task_id] = submission
            except Exception:  # noqa: BLE001
                health.internal_error("areal.submit")
            try:
                return inside(self, task_input)
            except BaseException as error:
                if submission is not None and _under_way(self).pop(task_input.task_id, None) is submission:
                    for sample in submission.samples:
                        sample.session.mark_dropped(error)
                raise

        return submit_task_input

    def wait_results(inside: Callable[..., Any]) -> Callable[..., Any]:
        def wait_results(self: Any, *args: Any, **kwargs: Any) -> Any:
            results = inside(self, *args, **kwargs)
            arrived = getattr(_batch, "arrived", None)
            if arrived is None:
                _consume(self, results)
            else:  # what of them the batch takes is certain when it is full
                arrived.extend(results)
            return results

        return wait_results

    def wait_for_task(inside: Callable[..., Any]) -> Callable[..., Any]:
        def wait_for_task(self: Any, *args: Any, **kwargs: Any) -> Any:
            result = inside(self, *args, **kwargs)
            _consume(self, [result])
            return result

        return wait_for_task

    def active_submit_and_wait(inside: Callable[..., Any]) -> Callable[..., Any]:
        def active_submit_and_wait(self: Any, *args: Any, **kwargs: Any) -> Any:
            arrived: list[Any] = []
            taken: list[Any] = []
            _batch.arrived = arrived
            try:
                taken = inside(self, *args, **kwargs)
                return taken
            finally:
                _batch.arrived = None
                _consume(self, taken, arrived)

        return active_submit_and_wait

    def destroy(inside: Callable[..., Any]) -> Callable[..., Any]:
        def destroy(self: Any, *args: Any, **kwargs: Any) -> Any:
            try:
                return inside(self, *args, **kwargs)
            finally:
                try:
                    for submission in vars(self).pop("_rollspan", {}).values():
                        submission.abort()
                except Exception:  # noqa: BLE001
                    health.internal_error("areal.destroy")

        return destroy

    for wrapper in (submit_task_input, wait_results, wait_for_task, active_submit_and_wait, destroy):
        patches.wrap(dispatcher, wrapper.__name__, wrapper)


def _follow_execution(patches: Patches, module: ModuleType, executor: type, grouped: Any) -> None:
    def _create_workflow_task(inside: Callable[..., Any]) -> Callable[..., Any]:
        def _create_workflow_task(self: Any, pending_task: Any) -> Callable[[], Awaitable[Any]]:
            submission = None
            try:
                submission = _under_way(self.dispatcher).get(pending_task.task_id)
                if submission is not None:
                    submission.hand_over()
                    pending_task = submission.traced(pending_task, grouped)
            except Exception:  # noqa: BLE001
                health.internal_error("areal.task")
            run = inside(self, pending_task)
            return run if submission is None else _judged(self, submission, run)

        return _create_workflow_task

    def trace_session_event(inside: Callable[..., Any]) -> Callable[..., Any]:
        def trace_session_event(method: str, *args: Any, **kwargs: Any) -> Any:
            if method != "mark_finalized":
                return inside(method, *args, **kwargs)
            submission = _running.get()
            if submission is not None:
                # Of an exception that AReaL has caught this is the only trace.
                submission.finalized(kwargs.get("status", ""), kwargs.get("reason"), sys.exc_info()[1])
            return theirs(method, *args, **kwargs)

        theirs = getattr(inside, "__wrapped__", inside)  # to others of ours this event says nothing
        return trace_session_event

    patches.wrap(executor, "_create_workflow_task", _create_workflow_task)
    patches.wrap(module, "trace_session_event", trace_session_event)


def _judged(
    executor: Any, submission: Submission, run: Callable[[], Awaitable[Any]]
) -> Callable[[], Awaitable[Any]]:
    """`run`, after which each of the samples has its verdict, before AReaL hands on the result."""

    async def execute() -> Any:
        token = _running.set(submission)
        try:
            return await run()
        finally:
            _running.reset(token)
            try:
                if not submission.judge(executor.staleness_manager.get_stats()):
                    _under_way(executor.dispatcher).pop(submission.task_id, None)
            except Exception:  # noqa: BLE001
                health.internal_error("areal.judge")

    return execute


def _consume(dispatcher: Any, results: list[Any], arrived: list[Any] | None = None) -> None:
    """The trainer has got `results`; of those that had `arrived` for it the others are gone."""
    try:
        under_way = _under_way(dispatcher)
        for result in results:
            submission = None if result is None else under_way.pop(result.task_id, None)
            if submission is not None:
                submission.consumed()
        for result in arrived or ():
            submission = None if result is None else under_way.pop(result.task_id, None)
            if submission is not None:
                submission.thrown_away()
    except Exception:  # noqa: BLE001
        health.internal_error("areal.consume")


def _item_of(data: Any) -> str | int | None:
    """The name of the dataset's item, where it has one."""
    if isinstance(data, dict):
        for name in _ITEMS:
            item = data.get(name)
            if type(item) is str or type(item) is int:
                return item
    return None


def _reward_of(result: Any) -> float | None:
    """The reward of one sample's tensors."""
    rewards = result.get("rewards") if isinstance(result, dict) else None
    return float(rewards.item()) if rewards is not None and rewards.numel() == 1 else None

"""The demo's executor of rollouts: every rollout that was submitted ends, however it is left."""

from __future__ import annotations

import asyncio

from rollspan import health
from rollspan.demo.config import DemoConfig
from rollspan.demo.rollouts import Rollouts
from rollspan.demo.task import Task
from rollspan.demo.workflow import Trajectory
from rollspan.testing import Recording


async def _never(task: Task) -> Trajectory | None:
    await asyncio.Event().wait()
    raise AssertionError("unreachable")


def test_a_rollout_that_is_cancelled_before_its_first_step_has_a_verdict(rec: Recording) -> None:
    """A rollout that a runner has taken and the event loop has not begun is dropped as cancelled."""
    config = DemoConfig()
    submitted = config.group_size + config.spare_samples

    async def leave_at_once() -> None:
        async with Rollouts(config, _never, lambda trajectory: True) as rollouts:
            rollouts.submit(Task(7, (3, 1, 2)))
            await asyncio.sleep(0)  # the runners take samples; what they start has no turn yet

    asyncio.run(leave_at_once())
    assert "sessions.without_verdict" not in health.counters()
    ends = [(record["status"], record["rejection_reason"]) for record in rec.records()]
    assert ends == [("dropped", "cancelled")] * submitted


def test_rollouts_that_run_are_cancelled_when_the_executor_is_left(rec: Recording) -> None:
    """A rollout in the middle of its execution is dropped as cancelled, with its execution in the record."""
    config = DemoConfig()

    async def leave_later() -> None:
        async with Rollouts(config, _never, lambda trajectory: True) as rollouts:
            rollouts.submit(Task(7, (3, 1, 2)))
            await asyncio.sleep(0.1)  # they have begun

    asyncio.run(leave_later())
    records = rec.records()
    assert {record["status"] for record in records} == {"dropped"}
    assert all("execution" in record["phases"] for record in records)

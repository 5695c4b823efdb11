"""One of two executors over an engine that does nothing: `python -m benchmarks.runtime_child MODE FOLDER`.

MODE is `rollspan` (`rollspan.rollout.RolloutExecutor`, traced by rollspan) or `areal` (AReaL's own `WorkflowExecutor`,
traced by its own session tracer); both write a file into FOLDER. Answers as `executor_child` does; a line is a number
of sessions, and an answer has what each costs in each of `WAYS`.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any, NamedTuple

AREAL, ROLLSPAN = MODES = ("areal", "rollspan")
WAIT, BATCH, CHECKED = WAYS = ("submit and wait", "prepare_batch", "submit and wait, checked")
_BATCH_SIZE = 100
_STALENESS = 2
_LENGTH = 64
_CONCURRENT = 1000
_WAITED = 100.0  # seconds, for a guard


class Engine:
    """It does nothing. What is measured is who carries trajectories, so there is one for each version of the weights."""

    def __init__(self) -> None:
        self.set_version(0)

    def get_version(self) -> int:
        """Of the weights."""
        return self._version

    def set_version(self, version: int) -> None:
        """The weights are others now."""
        import torch  # noqa: PLC0415 - the parent, which asks for names alone, need not have it

        self._version = version
        self.trajectory = {
            "input_ids": torch.zeros(1, _LENGTH, dtype=torch.int64),
            "attention_mask": torch.ones(1, _LENGTH, dtype=torch.bool),
            "loss_mask": torch.ones(1, _LENGTH),
            "logprobs": torch.zeros(1, _LENGTH),
            "versions": torch.full((1, _LENGTH), version, dtype=torch.int32),
            "rewards": torch.ones(1),
        }


class Items:
    """A dataloader: one batch of items, epoch after epoch."""

    batch_size = _BATCH_SIZE

    def __init__(self) -> None:
        self._batch = [{"query_id": number} for number in range(_BATCH_SIZE)]

    def __iter__(self) -> Any:
        return iter([self._batch])


class Side(NamedTuple):
    """What both executors have, under one name each."""

    executor: Any
    workflow: Any
    set_version: Callable[[int], None]
    close: Callable[[], None]


def rollspans(checked: bool) -> Side:
    """Ours."""
    import rollspan  # noqa: PLC0415
    from rollspan.rollout import RolloutExecutor, RolloutWorkflow, WorkflowTaskInput  # noqa: PLC0415

    class Nothing(RolloutWorkflow):
        async def arun_episode(self, engine: Any, task: WorkflowTaskInput) -> dict[str, Any]:
            with rollspan.phase("generate"):
                pass
            await self.reward()
            return dict(engine.trajectory)

        @rollspan.phase("reward")
        async def reward(self) -> None:
            pass

    made = RolloutExecutor(
        Engine(),
        max_concurrent_rollouts=_CONCURRENT,
        consumer_batch_size=_BATCH_SIZE,
        max_staleness=_STALENESS,
        check_trajectory_format=checked,
    )
    return Side(made, Nothing(), made.set_version, made.close)


def areals(checked: bool) -> Side:
    """Theirs."""
    from areal.api.cli_args import InferenceEngineConfig  # noqa: PLC0415
    from areal.api.workflow_api import RolloutWorkflow  # noqa: PLC0415
    from areal.infra.workflow_executor import WorkflowExecutor  # noqa: PLC0415
    from areal.utils import perf_tracer  # noqa: PLC0415

    class Nothing(RolloutWorkflow):  # type: ignore[misc]
        @perf_tracer.session_context()  # type: ignore[untyped-decorator]
        async def arun_episode(self, engine: Any, data: Any) -> dict[str, Any]:
            async with perf_tracer.atrace_session_phase("generate"):
                pass
            await self.reward()
            return dict(engine.trajectory)

        @perf_tracer.trace_session("reward")  # type: ignore[untyped-decorator]
        async def reward(self) -> None:
            pass

    config = InferenceEngineConfig(
        backend="sglang:d1",
        experiment_name="bench",
        trial_name="runtime",
        max_concurrent_rollouts=_CONCURRENT,
        consumer_batch_size=_BATCH_SIZE,
        max_head_offpolicyness=_STALENESS,
        queue_size=20_000,
        check_trajectory_format=checked,
    )
    engine = Engine()
    made = WorkflowExecutor(config, engine)
    made.initialize(logger=logging.getLogger("bench"), train_data_parallel_size=1)
    return Side(made, Nothing(), engine.set_version, made.destroy)


def start_tracing(mode: str, folder: str) -> None:
    """Into a file."""
    if mode == ROLLSPAN:
        os.environ.update(ROLLSPAN_ENABLED="1", ROLLSPAN_DIR=folder)
        return
    from areal.api.cli_args import PerfTracerConfig, SessionTracerConfig  # noqa: PLC0415
    from areal.utils import perf_tracer  # noqa: PLC0415

    config = PerfTracerConfig(
        experiment_name="bench",
        trial_name="runtime",
        fileroot=folder,
        enabled=True,
        session_tracer=SessionTracerConfig(enabled=True),
    )
    perf_tracer.configure(config, rank=0)


def steps(side: Side, way: str) -> Callable[[int], None]:
    """What a trainer does in a step, of which it is given the number: it takes a batch, and has new weights."""
    items = Items()

    def step(number: int) -> None:
        if way == BATCH:
            taken = side.executor.prepare_batch(items, side.workflow)
        else:
            for task in range(_BATCH_SIZE):
                side.executor.submit({"query_id": task}, side.workflow)
            taken = side.executor.wait(_BATCH_SIZE, timeout=_WAITED)
        if None in taken or len(taken) != _BATCH_SIZE:
            raise RuntimeError("not every rollout was accepted")
        side.set_version(number + 1)

    return step


def measured(mode: str, way: str, sessions: int) -> dict[str, float]:
    """Microseconds a session: `wall` and `hot` (CPU of the process) until the trainer has all; `total` when delivered."""
    side = {AREAL: areals, ROLLSPAN: rollspans}[mode](way == CHECKED)
    step = steps(side, way)
    step(0)  # threads have begun, and the pipeline is full
    deliver(mode)
    count = -(-sessions // _BATCH_SIZE)
    gc.collect()
    cpu, clock = time.process_time_ns(), time.perf_counter_ns()
    for number in range(1, count + 1):
        step(number)
    clock, hot = time.perf_counter_ns() - clock, time.process_time_ns() - cpu
    deliver(mode)
    cpu = time.process_time_ns() - cpu
    side.close()
    spent = {"wall": clock, "hot": hot, "total": cpu}
    return {name: nanoseconds / (count * _BATCH_SIZE) / 1e3 for name, nanoseconds in spent.items()}


def deliver(mode: str) -> None:
    """Have what was traced in its file. AReaL's tracer writes as it goes."""
    if mode == ROLLSPAN:
        import rollspan  # noqa: PLC0415

        rollspan.flush()


def main(mode: str, folder: str) -> None:
    """Answer until the input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the framework prints must not stand among the answers
    start_tracing(mode, folder)

    def say(answer: dict[str, Any]) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    say({"versions": {name: version(name) for name in ("torch", *(["areal"] if mode == AREAL else []))}})
    for line in sys.stdin:
        say({way: measured(mode, way, int(line)) for way in WAYS})


if __name__ == "__main__":
    main(*sys.argv[1:])

"""AReaL's own executor over an engine that does nothing: `python -m benchmarks.executor_child MODE FOLDER`.

MODE is `untraced`, `areal` (its own session tracer writes a file) or `rollspan`. It says `{"versions": ...}` when it is
ready; each line on its standard input, a number of tasks, is answered by one line of JSON. It ends with its input.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import sys
import time
from importlib.metadata import version
from typing import Any

UNTRACED, AREAL, ROLLSPAN = MODES = ("untraced", "areal", "rollspan")


def executor(mode: str, folder: str) -> tuple[Any, Any]:
    """AReaL's executor, running, and a workflow that tells AReaL's session tracer of two phases in which nothing is."""
    if mode == ROLLSPAN:
        os.environ.update(ROLLSPAN_ENABLED="1", ROLLSPAN_DIR=folder)
        from rollspan import autostart  # noqa: PLC0415 - as at an interpreter's start, before the framework

        autostart.start()
    import torch  # noqa: PLC0415
    from areal.api.cli_args import (  # noqa: PLC0415
        InferenceEngineConfig,
        PerfTracerConfig,
        SessionTracerConfig,
    )
    from areal.api.workflow_api import RolloutWorkflow  # noqa: PLC0415
    from areal.infra.workflow_executor import WorkflowExecutor  # noqa: PLC0415
    from areal.utils import perf_tracer  # noqa: PLC0415

    named = {"experiment_name": "bench", "trial_name": mode}
    if mode == AREAL:
        sessions = SessionTracerConfig(enabled=True)
        perf_tracer.configure(
            PerfTracerConfig(fileroot=folder, enabled=True, session_tracer=sessions, **named), rank=0
        )
    nothing = torch.zeros(1, 2)

    class Engine:
        def get_version(self) -> int:
            return 0

    class Nothing(RolloutWorkflow):  # type: ignore[misc]
        @perf_tracer.session_context()  # type: ignore[untyped-decorator]
        async def arun_episode(self, engine: Any, data: Any) -> dict[str, Any]:
            async with perf_tracer.atrace_session_phase("generate"):
                pass
            await self.reward()
            return {"input_ids": nothing, "attention_mask": nothing}

        @perf_tracer.trace_session("reward")  # type: ignore[untyped-decorator]
        async def reward(self) -> None:
            pass

    config = InferenceEngineConfig(
        backend="sglang:d1",
        max_concurrent_rollouts=100_000,
        consumer_batch_size=1000,
        max_head_offpolicyness=10**6,
        queue_size=20_000,
        **named,
    )
    made = WorkflowExecutor(config, Engine())
    made.initialize(logger=logging.getLogger("bench"), train_data_parallel_size=1)
    return made, Nothing()


def measured(mode: str, made: Any, workflow: Any, tasks: int) -> dict[str, float]:
    """Microseconds a task: `wall` and `hot` (CPU of the process) until the trainer has all; `total` until delivered."""
    gc.collect()
    cpu, clock = time.process_time_ns(), time.perf_counter_ns()
    for number in range(tasks):
        made.submit({"query_id": number}, workflow)
    results = made.wait(count=tasks, timeout=100)
    clock, hot = time.perf_counter_ns() - clock, time.process_time_ns() - cpu
    if mode == ROLLSPAN:
        import rollspan  # noqa: PLC0415

        rollspan.flush()
    cpu = time.process_time_ns() - cpu
    if None in results or len(results) != tasks:
        raise RuntimeError("not every task was accepted")
    return {"wall": clock / tasks / 1e3, "hot": hot / tasks / 1e3, "total": cpu / tasks / 1e3}


def main(mode: str, folder: str) -> None:
    """Answer until the input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the framework prints must not stand among the answers
    made, workflow = executor(mode, folder)
    if mode == ROLLSPAN:
        from rollspan.instrumentation import areal  # noqa: PLC0415

        assert areal.is_enabled()

    def say(answer: dict[str, Any]) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    say({"versions": {name: version(name) for name in ("areal", "torch")}})
    for line in sys.stdin:
        say(measured(mode, made, workflow, int(line)))
    made.destroy()


if __name__ == "__main__":
    main(*sys.argv[1:])

"""A program that uses AReaL's tracer and nothing else of it: python small_program.py FOLDER [MODULE]."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import sys
import time

from areal.api.cli_args import PerfTracerConfig, SessionTracerConfig

perf_tracer = importlib.import_module(*(sys.argv[2:] or ["areal.utils.perf_tracer"]))


@perf_tracer.trace_perf("load", category="io")
def load() -> None:
    time.sleep(0.02)


class Workflow:
    @perf_tracer.session_context()
    async def sample(self) -> None:
        async with perf_tracer.atrace_session_phase("generate"):
            await asyncio.sleep(0.03)
        number = perf_tracer.get_session_id()
        perf_tracer.trace_session_event("mark_toolcall_start", session_id=number)
        await asyncio.sleep(0.02)
        perf_tracer.trace_session_event("mark_toolcall_end", session_id=number)
        perf_tracer.trace_session_event("increment_counter", session_id=number, name="retries", value=2)
        await self.score()

    @perf_tracer.trace_session("reward")
    async def score(self) -> None:
        await asyncio.sleep(0.01)


async def task(number: int, **verdict: str) -> None:
    perf_tracer.register_task(number)
    perf_tracer.set_task_id(number)
    await asyncio.gather(Workflow().sample(), Workflow().sample())
    perf_tracer.trace_session_event("mark_finalized", task_id=number, **verdict)


async def tasks() -> None:
    await asyncio.gather(
        asyncio.create_task(task(0, status="accepted")),
        asyncio.create_task(task(1, status="rejected", reason="returned_none")),
        asyncio.create_task(task(2, status="failed", reason="workflow_exception")),
    )


def main(folder: str) -> None:
    perf_tracer.configure(
        PerfTracerConfig(
            experiment_name="e",
            trial_name="t",
            fileroot=folder,
            enabled=True,
            session_tracer=SessionTracerConfig(enabled=True),
        ),
        rank=3,
        role="actor",
    )
    for step in range(2):
        with perf_tracer.trace_scope(
            "train", category=perf_tracer.Category.COMPUTE, args={"global_step": step}
        ):
            load()
        perf_tracer.instant("saved", category="sync", args={"step": step})
        perf_tracer.save(step=step)
    with contextlib.suppress(KeyError), perf_tracer.trace_scope("fails"):
        raise KeyError
    asyncio.run(tasks())
    perf_tracer.save(force=True)


if __name__ == "__main__":
    main(sys.argv[1])

"""What AReaL's tracer is told, and then the process is killed: `python tracer_program.py FOLDER`."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time

from areal.api.cli_args import PerfTracerConfig, SessionTracerConfig
from areal.utils import perf_tracer

import rollspan


async def tool(seconds: float) -> None:
    """A phase that others run beside."""
    async with perf_tracer.atrace_session_phase("toolcall"):
        await asyncio.sleep(seconds)


async def tools() -> None:
    """Three tool calls at once."""
    perf_tracer.register_task(1)
    perf_tracer.set_session_id(perf_tracer.register_session(1))
    await asyncio.gather(tool(0.3), tool(0.1), tool(0.3))
    perf_tracer.trace_session_event(
        "mark_finalized", session_id=perf_tracer.get_session_id(), status="accepted"
    )


sessions = SessionTracerConfig(enabled=True, flush_threshold=1)
perf_tracer.configure(
    PerfTracerConfig(
        experiment_name="e", trial_name="t", fileroot=sys.argv[1], enabled=True, session_tracer=sessions
    ),
    rank=0,
)
with rollspan.session(task_id=1):
    asyncio.run(tools())
perf_tracer.get_session_tracer().flush(force=True)
for step in range(2):
    with perf_tracer.trace_scope("forward", category="compute", args={"global_step": step}):
        at = time.time()
    if step == 0:
        perf_tracer.save(step=0, force=True)
print(at, flush=True)
time.sleep(1)
os.kill(os.getpid(), signal.SIGKILL)

"""Puts the parts together: the server's process, the pool of scorers, the trainer; and takes them down again."""

from __future__ import annotations

import asyncio
import contextlib
import json
import multiprocessing
import multiprocessing.process
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor

import httpx
import torch

import rollspan
from rollspan.demo.client import EngineClient
from rollspan.demo.config import DemoConfig
from rollspan.demo.rollouts import Rollouts
from rollspan.demo.task import tasks
from rollspan.demo.trainer import StepReport, Trainer, should_accept
from rollspan.demo.workflow import SortWorkflow


async def run(config: DemoConfig, report: Callable[[StepReport], None]) -> bool:
    """Run the whole demo. False when a signal (Ctrl-C, SIGTERM) ended it early; all is taken down either way."""
    torch.set_num_threads(1)
    training = asyncio.current_task()
    assert training is not None
    loop = asyncio.get_running_loop()
    with contextlib.ExitStack() as undo:
        for number in (signal.SIGINT, signal.SIGTERM):
            with contextlib.suppress(RuntimeError, ValueError):  # not in the main thread
                loop.add_signal_handler(number, training.cancel)
                undo.callback(loop.remove_signal_handler, number)
        try:
            async with server(config) as url, connect(url, config) as engine:
                with scorers(config) as pool:
                    workflow = SortWorkflow(config, engine, pool)
                    async with Rollouts(config, workflow.run, should_accept) as rollouts:
                        await Trainer(config, engine, rollouts, tasks(config)).run(report)
        except asyncio.CancelledError:
            return False
    return True


@contextlib.asynccontextmanager
async def server(config: DemoConfig) -> AsyncIterator[str]:
    """A server in a process of its own; gives its URL."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *["-m", "rollspan.demo.server", f"--seed={config.seed}", f"--hidden-size={config.hidden_size}"],
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=True,  # so that Ctrl-C reaches us alone
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        line = await process.stdout.readline()
        if not line:
            raise RuntimeError("the demo's server did not start; what it printed above says why")
        yield f"http://127.0.0.1:{json.loads(line)['port']}"
    finally:
        process.stdin.close()  # it leaves by itself
        try:
            await asyncio.wait_for(process.wait(), timeout=5)
        except asyncio.TimeoutError:
            process.kill()
            await process.wait()


@contextlib.contextmanager
def scorers(config: DemoConfig) -> Iterator[Executor]:
    """A pool of processes that score answers; spans of the work in them come back with the results."""
    pool = ProcessPoolExecutor(
        config.reward_workers, multiprocessing.get_context("spawn"), initializer=_start_scorer
    )
    try:
        yield rollspan.TracedExecutor(pool)
    finally:
        pool.shutdown(cancel_futures=True)


def _start_scorer() -> None:
    """Leave Ctrl-C to the parent, and leave with the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_leave_with, args=[parent], daemon=True).start()


def _leave_with(parent: multiprocessing.process.BaseProcess) -> None:
    parent.join()
    os._exit(1)


@contextlib.asynccontextmanager
async def connect(url: str, config: DemoConfig) -> AsyncIterator[EngineClient]:
    """A client with one connection for each runner."""
    limits = httpx.Limits(max_connections=config.runners + 1, max_keepalive_connections=config.runners + 1)
    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=30, trust_env=False) as http:
        yield EngineClient(http)

"""Rollouts by the thousand, while 10,000 wait: each line on standard input, a number of them, is answered by JSON.

`cpu`: seconds of the process until the trainer has them; `memory`: bytes of its own, at the end, with all delivered.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from functools import lru_cache
from pathlib import Path

import rollspan
from rollspan.rollout import RolloutExecutor, Trajectory, WorkflowTaskInput

from .workflows import NullEngine, Steps, trajectory

WAITING = 10_000
BATCH = 100


@lru_cache(maxsize=1)
def row(version: int) -> Trajectory:
    """What is measured is not how it is made."""
    return trajectory(version=version)


async def nothing(engine: NullEngine, task: WorkflowTaskInput) -> Trajectory:
    """Two phases with nothing in them."""
    with rollspan.phase("generate"):
        pass
    with rollspan.phase("reward"):
        pass
    return dict(row(engine.get_version()))


def memory() -> int:
    """Of this process alone: without what is mapped from files, as the journal is."""
    _, resident, shared, *_ = map(int, Path("/proc/self/statm").read_text().split())
    return (resident - shared) * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    """One version of the weights for each batch: all that is submitted beyond it has to wait."""
    workflow = Steps(nothing)
    with RolloutExecutor(NullEngine(), consumer_batch_size=BATCH, max_staleness=0) as executor:
        for _ in range(WAITING):
            executor.submit({}, workflow)
        for line in sys.stdin:
            begun = time.process_time()
            for _ in range(int(line) // BATCH):
                for _ in range(BATCH):
                    executor.submit({}, workflow)
                executor.wait(BATCH, timeout=60)
                assert executor.get_stats().enqueued == WAITING
                executor.set_version(executor.get_version() + 1)
            cpu = time.process_time() - begun
            rollspan.flush()
            gc.collect()
            print(json.dumps({"cpu": cpu, "memory": memory()}), flush=True)


if __name__ == "__main__":
    main()

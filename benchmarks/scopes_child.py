"""Steps full of timed scopes: `python -m benchmarks.scopes_child MODE FOLDER`.

MODE is `areal`, `rollspan` (scopes in a step's block) or `unchanged` (scopes that say their step, as AReaL's do).
Answers as `executor_child` does; a line is the number of scopes in a step.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from importlib.metadata import version
from typing import Any

AREAL, ROLLSPAN, UNCHANGED = MODES = ("areal", "rollspan", "unchanged")
_STEPS = 10


def scopes_of(mode: str, folder: str) -> tuple[Any, Any, Any]:
    """What makes a scope, what saves, and a step's block."""
    if mode == AREAL:
        from areal.api.cli_args import PerfTracerConfig  # noqa: PLC0415
        from areal.utils import perf_tracer  # noqa: PLC0415

        perf_tracer.configure(
            PerfTracerConfig(experiment_name="bench", trial_name=mode, fileroot=folder, enabled=True), rank=0
        )
        return perf_tracer.trace_scope, perf_tracer.save, contextlib.nullcontext
    os.environ.update(ROLLSPAN_ENABLED="1", ROLLSPAN_DIR=folder)
    from rollspan import perf  # noqa: PLC0415

    return perf.trace_scope, perf.save, perf.step if mode == ROLLSPAN else contextlib.nullcontext


def measured(mode: str, scope: Any, save: Any, block: Any, count: int, first: int) -> dict[str, float]:
    """Microseconds a scope, steps and their end included: `wall` and `cpu` of the thread that enters them."""
    wall = cpu = 0
    for step in range(first, first + _STEPS):
        said = {"tokens": step} if mode == ROLLSPAN else {"global_step": step}
        begun, clock = time.thread_time_ns(), time.perf_counter_ns()
        with block(step):
            for _ in range(count // 2):
                with scope("outer", category="compute", args=said), scope("inner", category="compute"):
                    pass
        save(step=step)
        wall += time.perf_counter_ns() - clock
        cpu += time.thread_time_ns() - begun
        time.sleep(0.02)  # in which a trainer computes
    return {name: spent / _STEPS / count / 1e3 for name, spent in (("wall", wall), ("cpu", cpu))}


def main(mode: str, folder: str) -> None:
    """Answer until the input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the framework prints must not stand among the answers
    scope, save, block = scopes_of(mode, folder)

    def say(answer: dict[str, Any]) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    say({"versions": {"areal": version("areal")}})
    for number, line in enumerate(sys.stdin):
        say(measured(mode, scope, save, block, int(line), number * _STEPS))


if __name__ == "__main__":
    main(*sys.argv[1:])

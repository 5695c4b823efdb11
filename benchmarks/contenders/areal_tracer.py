"""AReaL's own session tracer, unmodified, called as its own framework calls it for such a rollout.

Those calls are: `WorkflowExecutor.submit` registers the task, its `_execute_workflow` names it in the context and
finalizes it; `RLVRWorkflow` registers the session by decorator, has `generate` as a scope and `reward` as a
decorator. The framework makes them from coroutines; here all contenders run in a plain loop, and the tracer's
plain counterparts, which do the same without a coroutine's cost, are used. There are no attributes, for it has none.

Its module is `areal.utils.perf_tracer`. Importing that drags in the whole framework (torch, transformers, ray and
more, gigabytes of it) for things that the tracer's sessions do not use, so three imports meet stand-ins instead:

- `areal` itself: a package without its `__init__`, which loads the whole framework;
- `torch.profiler`: empty; it is used when a scope of the other tracer in that module profiles kernels;
- `areal.api.cli_args`: two dataclasses of settings with the fields that the tracer reads and AReaL's defaults.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import distribution
from pathlib import Path
from types import ModuleType
from typing import Any

from benchmarks.workload import Rollout


@dataclass
class SessionTracerConfig:
    """As in AReaL."""

    enabled: bool = False
    flush_threshold: int = 256


@dataclass
class PerfTracerConfig:
    """As in AReaL."""

    experiment_name: str
    trial_name: str
    fileroot: str
    enabled: bool = False
    save_interval: int = 1
    profile_steps: list[int] | None = None
    session_tracer: SessionTracerConfig | None = None


def perf_tracer() -> Any:
    """AReaL's module. Raises ImportError."""
    areal = ModuleType("areal")
    areal.__path__ = [str(distribution("areal").locate_file("areal"))]
    settings = ModuleType("areal.api.cli_args")
    settings.SessionTracerConfig = SessionTracerConfig  # type: ignore[attr-defined]
    settings.PerfTracerConfig = PerfTracerConfig  # type: ignore[attr-defined]
    torch = ModuleType("torch")
    torch.profiler = ModuleType("torch.profiler")  # type: ignore[attr-defined]
    for stand_in in (areal, settings, torch):
        sys.modules[stand_in.__name__] = stand_in
    return import_module("areal.utils.perf_tracer")


class ArealTracer:
    """Defaults, turned on."""

    def __init__(self, folder: Path) -> None:
        self._tracer = tracer = perf_tracer()
        tracer.configure(
            PerfTracerConfig(
                "benchmark",
                "trial",
                str(folder),
                enabled=True,
                session_tracer=SessionTracerConfig(enabled=True),
            ),
            rank=0,
        )
        self._sample = tracer.session_context()(self._generate_and_reward)
        self._reward = tracer.trace_session("reward")(lambda: None)

    def session(self, rollout: Rollout) -> None:
        tracer = self._tracer
        tracer.register_task(rollout.number)
        tracer.set_task_id(rollout.number)
        self._sample()
        tracer.trace_session_event("mark_finalized", task_id=rollout.number, status="accepted")

    def _generate_and_reward(self) -> None:
        with self._tracer.trace_session_phase("generate"):
            pass
        self._reward()

    def finish(self) -> None:
        """What a round has left below the flush threshold."""
        self._tracer.get_session_tracer().flush(force=True)

    def versions(self) -> dict[str, str]:
        return {"areal": distribution("areal").version}

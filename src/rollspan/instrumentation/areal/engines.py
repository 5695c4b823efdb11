"""AReaL's training engines: their batches, optimizer steps, weight updates and checkpoints as timed scopes.

What AReaL times itself in there (forward, backward, `step`, the two ways of updating weights) comes in by its own scopes,
below these.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from rollspan import perf
from rollspan.instrumentation.patches import Patches

ENGINES: Final = {
    "areal.engine.fsdp_engine": "FSDPEngine",
    "areal.engine.megatron_engine": "MegatronEngine",
    "areal.experimental.engine.archon_engine": "ArchonEngine",
}
"""Classes by module, each of which needs something that not every job has."""

_METHODS: Final = {
    "train_batch": perf.Category.COMPUTE,
    "eval_batch": perf.Category.COMPUTE,
    "forward_batch": perf.Category.COMPUTE,
    "forward_backward_batch": perf.Category.COMPUTE,
    "optimizer_step": perf.Category.COMPUTE,
    "update_weights": perf.Category.COMM,
    "connect_engine": perf.Category.SYNC,
    "save": perf.Category.IO,
    "load": perf.Category.IO,
    "onload": perf.Category.IO,
    "offload": perf.Category.IO,
}
_ENDS_WITH_A_BARRIER: Final = ".connect_engine"  # of all ranks, at a job's beginning


def wrap(patches: Patches, engine: type, module: str) -> None:
    """Time the methods of an engine, and of those that inherit them."""
    prefix = module.rpartition(".")[2]
    for name, category in _METHODS.items():
        patches.wrap(engine, name, _timed(patches, f"{prefix}.{name}", category))


def wrap_inference(patches: Patches, engine: type) -> None:
    """Time what the trainer asks of inference servers."""
    for name, category in {
        "pause_generation": perf.Category.SYNC,
        "continue_generation": perf.Category.SYNC,
        "init_weights_update_group": perf.Category.COMM,
    }.items():
        patches.wrap(engine, name, _timed(patches, f"inference.{name}", category))


def _timed(
    patches: Patches, name: str, category: perf.Category
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def wrapper(inside: Callable[..., Any]) -> Callable[..., Any]:
        def method(*args: Any, **kwargs: Any) -> Any:
            if not patches.active:
                return inside(*args, **kwargs)
            with perf.trace_scope(name, category=category):
                done = inside(*args, **kwargs)
            if name.endswith(_ENDS_WITH_A_BARRIER):
                perf.clock_anchor(name)
            return done

        return method

    return wrapper

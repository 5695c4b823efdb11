"""Collectives of `torch.distributed`, and the moments by which clocks of hosts are set.

On a GPU a call ends when the collective is queued, unless torch is told to block: it is the call that is timed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any, Final

from rollspan import health, perf, switch
from rollspan.instrumentation.patches import Patches

_NAMES: Final = (
    *("all_reduce", "all_gather", "all_gather_into_tensor", "reduce_scatter", "reduce_scatter_tensor"),
    *("broadcast", "reduce", "gather", "scatter", "all_to_all", "all_to_all_single", "barrier"),
    *("send", "recv", "isend", "irecv", "batch_isend_irecv"),
    *(
        "all_gather_object",
        "broadcast_object_list",
        "gather_object",
        "scatter_object_list",
        "monitored_barrier",
    ),
)
_BARRIERS: Final = frozenset({"barrier", "monitored_barrier"})


def wrap(patches: Patches, c10d: ModuleType) -> None:
    """Time what of these `torch.distributed.distributed_c10d` has, and its copy in `torch.distributed`."""
    copies = sys.modules.get("torch.distributed")
    for name in _NAMES:
        inside = getattr(c10d, name, None)
        if inside is None:
            continue
        is_copied = getattr(copies, name, None) is inside
        patches.wrap(c10d, name, lambda inside, name=name: _timed(name, inside, c10d))  # type: ignore[misc]
        if is_copied:
            timed = getattr(c10d, name)
            patches.wrap(copies, name, lambda _, timed=timed: timed)  # type: ignore[misc]


def _timed(name: str, inside: Callable[..., Any], c10d: ModuleType) -> Callable[..., Any]:
    is_compiling = getattr(getattr(sys.modules.get("torch"), "compiler", None), "is_compiling", bool)

    def collective(*args: Any, **kwargs: Any) -> Any:
        scope = None if is_compiling() else _scope(name, args, kwargs)
        if scope is None:
            return inside(*args, **kwargs)
        with scope:
            done = inside(*args, **kwargs)
        if name in _BARRIERS and done is None:
            _anchor(c10d, kwargs.get("group", args[0] if args else None))
        return done

    return collective


def _scope(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    try:
        runtime = switch.runtime()
        if runtime is None or "distributed" not in runtime.settings.torch_scopes:
            return None
        said: dict[str, Any] = {"bytes": sum(map(_bytes, (*args, *kwargs.values())))}
        if kwargs.get("async_op"):
            said["async_op"] = True
        return perf.trace_scope(f"dist.{name}", category="comm", args=said)
    except Exception:  # noqa: BLE001
        health.internal_error("torch.collective")
        return None


def _bytes(value: Any) -> int:
    """What a tensor takes, or several."""
    if hasattr(value, "element_size"):
        return int(value.numel() * value.element_size())
    if isinstance(value, list | tuple):
        tensors: Iterable[Any] = value
        return sum(map(_bytes, tensors))
    return 0


def _anchor(c10d: ModuleType, group: Any) -> None:
    """All ranks leave a barrier of the whole job at one moment, and count these alike."""
    try:
        if group is not None and c10d.get_world_size(group) != c10d.get_world_size():
            return
        perf.clock_anchor("barrier")
    except Exception:  # noqa: BLE001
        health.internal_error("torch.anchor")

"""Steps of any `torch.optim.Optimizer`, by the hooks that torch has for them."""

from __future__ import annotations

import contextlib
import threading
from types import ModuleType
from typing import Any

from rollspan import health, perf, switch


class _Open(threading.local):
    """The steps that are going on in a thread: an optimizer may hold another one."""

    def __init__(self) -> None:
        self.scopes: list[tuple[Any, Any]] = []


_open = _Open()


def watch(optimizer: ModuleType) -> list[Any]:
    """Time every optimizer's steps from now on; gives the hooks' handles. Raises AttributeError before torch 2.1."""
    return [
        optimizer.register_optimizer_step_pre_hook(_begin),
        optimizer.register_optimizer_step_post_hook(_end),
    ]


def _begin(optimizer: Any, args: Any, kwargs: Any) -> None:
    try:
        runtime = switch.runtime()
        if runtime is None or "optimizer" not in runtime.settings.torch_scopes:
            return
        _leave(optimizer)  # one that raised, of which nobody was told
        scope = perf.trace_scope(
            "optimizer.step", category="compute", args={"optimizer": type(optimizer).__name__}
        )
        scope.__enter__()
        _open.scopes.append((optimizer, scope))
    except Exception:  # noqa: BLE001
        health.internal_error("torch.optimizer")


def _end(optimizer: Any, args: Any, kwargs: Any) -> None:
    with contextlib.suppress(Exception):
        _leave(optimizer)


def _leave(optimizer: Any) -> None:
    scopes = _open.scopes
    if any(whose is optimizer for whose, _ in scopes):
        while scopes:
            whose, scope = scopes.pop()
            scope.__exit__(None, None, None)
            if whose is optimizer:
                return

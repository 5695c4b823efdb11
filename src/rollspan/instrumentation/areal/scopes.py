"""AReaL's own timing scopes: spans of the session that they run in, else of the trainer's step.

The trainer says its step's number with each of its scopes (`args={"global_step": 12}`), and saves at the end of a step.
From that the step itself is known, to which sessions link.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

from rollspan import health, perf, switch
from rollspan.instrumentation.patches import Patches

from .timed import Both


def wrap(patches: Patches, tracer: ModuleType) -> None:
    """Follow the functions of `areal.utils.perf_tracer`, whether AReaL's own tracer is turned on or not."""

    def scope(inside: Callable[..., Any]) -> Callable[..., Any]:
        def trace_scope(name: str, **kwargs: Any) -> Any:
            made = inside(name, **kwargs)
            if not patches.active or switch.runtime() is None:
                return made
            try:
                ours = perf.trace_scope(name, category=kwargs.get("category"), args=kwargs.get("args"))
            except Exception:  # noqa: BLE001
                health.internal_error("areal.scope")
                return made
            return Both(ours, made)

        return trace_scope

    def instant(inside: Callable[..., Any]) -> Callable[..., Any]:
        def instant(name: str, **kwargs: Any) -> Any:
            try:
                if patches.active:
                    perf.instant(name, category=kwargs.get("category"), args=kwargs.get("args"))
            except Exception:  # noqa: BLE001
                health.internal_error("areal.instant")
            return inside(name, **kwargs)

        return instant

    def save(inside: Callable[..., Any]) -> Callable[..., Any]:
        def save(**kwargs: Any) -> Any:
            try:
                perf.save()
            except Exception:  # noqa: BLE001
                health.internal_error("areal.save")
            return inside(**kwargs)

        return save

    patches.wrap(tracer, "trace_scope", scope)
    patches.wrap(tracer, "atrace_scope", scope)
    patches.wrap(tracer, "instant", instant)
    patches.wrap(tracer, "save", save)

"""AReaL's own timing scopes: spans of the session that they run in, else of the trainer's step.

The trainer says its step's number with each of its scopes (`args={"global_step": 12}`), and saves at the end of a step.
From that the step itself is known, to which sessions link.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, Final

import rollspan
from rollspan import context, health, switch
from rollspan.attributes import fit_name
from rollspan.instrumentation.patches import Patches

from .timed import Both, Timed

_STEP: Final = "global_step"
_CATEGORY: Final = "areal.category"


class _TrainerStep:
    """The step that this process's trainer is in, if it has one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: Any = None

    def at(self, number: int) -> None:
        """The trainer is in this step now, which may be a new one."""
        with self._lock:
            if self.current() is None or self._open.number != number:
                self._end()
                self._open = rollspan.step(number)._start()  # noqa: SLF001 - no block holds it

    def current(self) -> Any:
        """The step, or None."""
        step = self._open
        return step if step is not None and not step.ended and not step.abandoned else None

    def over(self) -> None:
        """The trainer has done with it."""
        with self._lock:
            self._end()

    def _end(self) -> None:
        step, self._open = self._open, None
        if step is not None:
            step.finish()


_step = _TrainerStep()


def _ours(name: str, category: Any, args: Any) -> Any:
    """Our scope for one of AReaL's, or None where it belongs to nothing."""
    said = dict(args) if isinstance(args, Mapping) else {}
    current = context.current()
    if current is None:
        number = said.get(_STEP)
        if type(number) is int:
            _step.at(number)
        current = _step.current()
        if current is None:
            return None
    said[_CATEGORY] = str(getattr(category, "value", category) or "misc")
    return Timed(current, fit_name(name), said)


def wrap(patches: Patches, tracer: ModuleType) -> None:
    """Follow the functions of `areal.utils.perf_tracer`, whether AReaL's own tracer is turned on or not."""

    def scope(inside: Callable[..., Any]) -> Callable[..., Any]:
        def trace_scope(name: str, **kwargs: Any) -> Any:
            made = inside(name, **kwargs)
            if not patches.active or switch.runtime() is None:
                return made
            try:
                ours = _ours(name, kwargs.get("category"), kwargs.get("args"))
            except Exception:  # noqa: BLE001
                health.internal_error("areal.scope")
                return made
            return made if ours is None else Both(ours, made)

        return trace_scope

    def instant(inside: Callable[..., Any]) -> Callable[..., Any]:
        def instant(name: str, **kwargs: Any) -> Any:
            try:
                ours = None
                if patches.active and switch.runtime() is not None:
                    ours = _ours(name, kwargs.get("category"), kwargs.get("args"))
                if ours is not None:
                    with ours:
                        pass
            except Exception:  # noqa: BLE001
                health.internal_error("areal.instant")
            return inside(name, **kwargs)

        return instant

    def save(inside: Callable[..., Any]) -> Callable[..., Any]:
        def save(**kwargs: Any) -> Any:
            try:
                _step.over()
            except Exception:  # noqa: BLE001
                health.internal_error("areal.save")
            return inside(**kwargs)

        return save

    patches.wrap(tracer, "trace_scope", scope)
    patches.wrap(tracer, "atrace_scope", scope)
    patches.wrap(tracer, "instant", instant)
    patches.wrap(tracer, "save", save)

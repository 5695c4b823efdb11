"""torch itself, where a setting asks for it: steps of optimizers, and collectives."""

from __future__ import annotations

import importlib
from typing import Any, Final

from rollspan.instrumentation import FRAMEWORKS
from rollspan.instrumentation.patches import DidNotEnable, Patches

from . import collectives, optimizers

_OPTIMIZERS, _COLLECTIVES = FRAMEWORKS["torch"]

_patches = Patches()
_hooks: list[Any] = []
_done: set[str] = set()


def enable(*modules: str) -> None:
    """Time what these modules of torch have, once; all of `PARTS` without any. Raises DidNotEnable."""
    for module in modules or PARTS:
        if module in _done:
            continue
        try:
            PARTS[module]()
        except (ImportError, AttributeError) as why:
            raise DidNotEnable(f"torch is not as expected: {why}") from why
        _done.add(module)


def disable() -> None:
    """Put torch's own functions back."""
    _patches.undo()
    while _hooks:
        _hooks.pop().remove()
    _done.clear()


def _time_optimizers() -> None:
    _hooks.extend(optimizers.watch(importlib.import_module(_OPTIMIZERS)))


def _time_collectives() -> None:
    collectives.wrap(_patches, importlib.import_module(_COLLECTIVES))


PARTS: Final = {_OPTIMIZERS: _time_optimizers, _COLLECTIVES: _time_collectives}
"""By the module after which it can be done."""

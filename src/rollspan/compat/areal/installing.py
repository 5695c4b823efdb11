"""Putting our module in the place of AReaL's."""

from __future__ import annotations

import importlib
import sys
from typing import Final

from rollspan.instrumentation import imports

_PACKAGE: Final = "areal.utils"
_NAME: Final = "perf_tracer"
_PLACE: Final = f"{_PACKAGE}.{_NAME}"
_OURS: Final = "rollspan.compat.areal.perf_tracer"


def install() -> None:
    """Have AReaL use `rollspan.compat.areal.perf_tracer` for its own tracer, which is then never loaded.

    To be called before anything of AReaL is imported: modules keep functions that they have copied. Raises RuntimeError
    where AReaL's tracer has been loaded already.
    """
    there = sys.modules.get(_PLACE)
    ours = importlib.import_module(_OURS)
    if there is not None and there is not ours:
        raise RuntimeError(
            f"{_PLACE} has been imported already, and other modules may have copied its functions: call "
            "rollspan.compat.areal.install() before anything of AReaL is imported"
        )
    sys.modules[_PLACE] = ours
    imports.after(_PACKAGE, lambda: setattr(sys.modules[_PACKAGE], _NAME, ours))

"""The ways that nearly every phase and line goes, in C (`native/`), where that could be built.

Its functions stand in the places of Python's, which they call for whatever is not the usual case. So the Python is the
whole of it, and all there is without a C compiler, on PyPy, and where Python has no global lock. Modules say here, of
their own functions, which have a short form in C, and what that works with.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import sys
from types import ModuleType
from typing import Any

from . import health

_places: dict[str, list[tuple[Any, str, Any]]] = {}
"""By a function's name in C: owners, the names that it has there, and Python's functions."""

_known: dict[str, Any] = {}
_functions: dict[str, Any] = {}
"""Those in C, once all that they work with is known."""
_wanted = False


def stands_for(function: str, owner: Any, name: str) -> None:
    """`owner.name` has a short form in C, `function`."""
    _places.setdefault(function, []).append((owner, name, getattr(owner, name)))
    _settle()


def works_with(**known: Any) -> None:
    """What the functions in C need, by the names under which they ask for it."""
    _known.update(known)
    _settle()


def is_built() -> bool:
    """Whether there is any C to use."""
    return _module() is not None


def in_use() -> bool:
    """Whether phases and lines go by it now."""
    return _wanted and bool(_functions)


def use(wanted: bool) -> None:
    """Have the functions in C stand in their places, where there are any, or Python's again."""
    global _wanted  # noqa: PLW0603 - once for the process
    _wanted = wanted
    _settle()


def _settle() -> None:
    """Put everything where it belongs. Modules are loaded one by one, and the C begins when the last one is there."""
    if _wanted and not _functions:
        _install()
    if _functions:
        for function, places in _places.items():
            for owner, name, python in places:
                setattr(owner, name, _functions[function] if _wanted else python)
        _functions["make_phases"](_wanted)


def _install() -> None:
    global _wanted  # noqa: PLW0603
    module = _module()
    found = {**_known, **{function: places[0][2] for function, places in _places.items()}}
    if module is None or not found.keys() >= set(module.NEEDS):
        return
    try:
        _functions.update(module.install(**found), make_phases=module.make_phases)
    except (
        AttributeError,
        TypeError,
    ):  # built from another version of these files, or an OpenTelemetry that is not known
        _wanted = False
        health.internal_error("native")


@functools.cache
def _module() -> ModuleType | None:
    if not getattr(sys, "_is_gil_enabled", lambda: True)():  # loading it would bring the lock back
        return None
    with contextlib.suppress(ImportError):  # not built
        return importlib.import_module("._native", __package__)
    return None

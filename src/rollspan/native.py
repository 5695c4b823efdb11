"""The ways that nearly every phase and line goes, in C (`_native.c`), where that could be built.

Its functions stand in the places of Python's, which they call for whatever is not the usual case. So the Python is the
whole of it, and all there is without a C compiler, on PyPy, and where Python has no global lock.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from contextvars import ContextVar
from types import ModuleType
from typing import Any, Final, NamedTuple
from zlib import crc32

import orjson
from opentelemetry.context import Context

from . import clock, context, health, lines, names, phases, plain, recorders, sessions, span, switch, tracelog

_native: ModuleType | None = None
if getattr(sys, "_is_gil_enabled", lambda: True)():  # it would bring the lock back
    with contextlib.suppress(ImportError):  # not built
        _native = importlib.import_module("._native", __package__)


class _Place(NamedTuple):
    owner: Any
    name: str
    python: Any
    """What stands there by itself."""


def _place(owner: Any, name: str) -> _Place:
    return _Place(owner, name, getattr(owner, name))


_ENTER = _place(phases.phase, "__enter__")
_EXIT = _place(phases.phase, "__exit__")
_SEND = _place(tracelog.TraceLog, "_send")
_DESCRIBE = _place(recorders, "_describe")
_PLAIN: Final = tuple(_place(module, "are_plain") for module in (plain, phases, sessions))

_in_use = False
_installed: tuple[Any, ...] | None = None


def is_built() -> bool:
    """Whether there is any C to use."""
    return _native is not None


def in_use() -> bool:
    """Whether phases and lines go by it now."""
    return _in_use


def use(wanted: bool) -> None:
    """Put the functions in C in their places, where there are any, or Python's again."""
    global _in_use, _installed  # noqa: PLW0603 - once for the process
    wanted = wanted and isinstance(context.variable, ContextVar)
    if _native is None or wanted is _in_use:
        return
    if _installed is None:
        try:
            _installed = _native.install(**_given())
        except (AttributeError, TypeError):  # built from another version of these files
            health.internal_error("native")
            return
    enter, leave, send, describe, are_plain = _installed
    stands = {
        _ENTER: enter,
        _EXIT: leave,
        _SEND: send,
        _DESCRIBE: describe,
        **dict.fromkeys(_PLAIN, are_plain),
    }
    for place, function in stands.items():
        setattr(place.owner, place.name, function if wanted else place.python)
    _native.make_phases(wanted)
    _in_use = wanted


def _given() -> dict[str, Any]:
    """What the functions work with, by the names that `install` asks for."""
    return {
        "phase": phases.phase,
        "span": span.RolloutSpan,
        "trace": tracelog.TraceLog,
        "context": Context,
        "variable": context.variable,
        "span_key": context.SPAN_KEY,
        "phase_key": context.PHASE_KEY,
        "switch": vars(switch),
        "clock": vars(clock),
        "known": names.known,
        "enter": _ENTER.python,
        "exit": _EXIT.python,
        "send": _SEND.python,
        "describe": _DESCRIBE.python,
        "are_plain": _PLAIN[0].python,
        "dumps": orjson.dumps,
        "crc32": crc32,
        "write_every": lines.WRITE_EVERY,
        "most": plain.MOST,
    }

"""What the drop-in needs of AReaL's configuration, looked at before anything is done with it."""

from __future__ import annotations

import os
from typing import Any, Final, SupportsIndex

from rollspan import health

_TEXTS: Final = ("experiment_name", "trial_name", "fileroot")
_NEEDED: Final = (*_TEXTS, "enabled", "save_interval")


def check(config: Any, rank: Any, role: Any) -> None:
    """See that a tracer can be made of these.

    Raises: AttributeError for a field that is not there, TypeError for one of a wrong type, ValueError for a negative
    rank. These are what Python would raise later, with what was expected.
    """
    for name in _NEEDED:
        if not hasattr(config, name):
            raise AttributeError(
                f"the tracer's configuration, of type {type(config).__name__}, has no field {name!r}: expected AReaL's "
                f"PerfTracerConfig, or an object with the fields {', '.join(_NEEDED)}"
            )
    for name in _TEXTS:
        value = getattr(config, name)
        if not isinstance(value, str | os.PathLike):
            raise TypeError(f"{name}={value!r} in the tracer's configuration: expected a text")
    if not isinstance(config.save_interval, int | float):
        value = config.save_interval
        raise TypeError(
            f"save_interval={value!r} in the tracer's configuration: expected a whole number of steps"
        )
    if not isinstance(rank, SupportsIndex):
        raise TypeError(f"rank={rank!r}: expected an int, the number of this process in the job")
    if rank.__index__() < 0:
        raise ValueError(f"rank={rank!r}: expected 0 or more")
    if not isinstance(role, str | None):
        raise TypeError(f"role={role!r}: expected a text such as 'actor', or None")


def traces_sessions(config: Any) -> bool:
    """Whether it asks for the tracer of sessions."""
    sessions = getattr(config, "session_tracer", None)
    if sessions is not None and not hasattr(sessions, "enabled"):
        health.warn_once(
            "compat.areal.session_tracer",
            "rollspan: session_tracer=%r in the tracer's configuration: expected AReaL's SessionTracerConfig, or an "
            "object with the field enabled; sessions are not traced",
            sessions,
        )
    return bool(getattr(sessions, "enabled", False))

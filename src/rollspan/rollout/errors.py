"""What the runtime raises into the caller's code."""

from __future__ import annotations

from typing import Any


class RolloutError(RuntimeError):
    """Rollouts cannot go on, or not as was asked; the message says why and what would do."""


class EngineError(RolloutError):
    """An inference server did not do what it was asked for."""


def check_whole(name: str, value: Any, least: int, otherwise: str = "") -> None:
    """Raise ValueError for what is no whole number of at least `least`; `otherwise` says what else would do."""
    if type(value) is not int or value < least:
        raise ValueError(f"{name} is {value!r}; expected a whole number of at least {least}{otherwise}")


def describe(error: BaseException) -> str:
    """An exception as sentences name it: its type, and what it says. For who is raised something, not for the log."""
    return f"{type(error).__name__}: {error}"

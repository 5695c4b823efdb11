"""What the runtime raises into the caller's code."""

from __future__ import annotations


class RolloutError(RuntimeError):
    """Rollouts cannot go on, or not as was asked; the message says why and what would do."""


class EngineError(RolloutError):
    """An inference server did not do what it was asked for."""

"""What Python's start-up (rollspan.pth, rollspan.start) and `opentelemetry-instrument` call."""

from __future__ import annotations


def start() -> None:
    """Prepare this process and its children for a traced run; does nothing unless ROLLSPAN_ENABLED is true."""

"""A program that turns AReaL's tracer on turns rollspan on, where nobody else has decided about it."""

from __future__ import annotations

import importlib
import os
from typing import Any

import rollspan
from rollspan import health, switch

from .paths import logs_of


def turn_on(config: Any, rank: int, role: str | None) -> None:
    """By ROLLSPAN_ENABLED, or in code, somebody may have said on or off: then it stays so."""
    try:
        if switch.is_open():
            os.environ.setdefault("ROLLSPAN_SYSTEM", "areal")
            given: dict[str, Any] = {"rank": rank, "role": role}
            if not os.environ.get("ROLLSPAN_DIR", "").strip():
                given["dir"] = logs_of(config) / "rollspan"
            rollspan.configure(**given)
        runtime = switch.runtime()
        if runtime is not None:  # what is timed later shall not hold the time in which things are loaded
            runtime.start()
            importlib.import_module("rollspan.instrumentation.areal.session_events")
    except Exception:  # noqa: BLE001
        health.internal_error("compat.areal.turn_on")

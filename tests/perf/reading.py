"""Reads a file of timed scopes, as the format says and not as our own reader does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def events(path: Path) -> list[dict[str, Any]]:
    """All events; the array's last bracket is missing, behind a comma."""
    text = path.read_text().rstrip()
    assert text.endswith(",")
    found: list[dict[str, Any]] = json.loads(text[:-1] + "]")
    return found


def scopes(path: Path) -> dict[str, dict[str, Any]]:
    """Slices and moments by name, the last of each."""
    return {event["name"]: event for event in events(path) if event["ph"] in "Xi"}

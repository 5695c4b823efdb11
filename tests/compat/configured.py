"""A configuration like AReaL's, and what its tracer left in files."""

from __future__ import annotations

import getpass
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any


def config(root: Path, *, sessions: bool = True, **more: Any) -> SimpleNamespace:
    """With the attributes of `PerfTracerConfig` and `SessionTracerConfig`."""
    given = {
        "experiment_name": "experiment",
        "trial_name": "trial",
        "fileroot": str(root),
        "enabled": True,
        "save_interval": 1,
        "profile_steps": None,
        "session_tracer": SimpleNamespace(enabled=sessions, flush_threshold=256),
    }
    return SimpleNamespace(**{**given, **more})


def trial(root: Path) -> Path:
    """The folder of the trial's logs."""
    return root / "logs" / getpass.getuser() / "experiment" / "trial"


def lines(root: Path, name: str) -> list[dict[str, Any]]:
    """What is in a file of AReaL's; nothing where it is not there."""
    path = trial(root) / name
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def scopes(root: Path, name: str = "perf_tracer/traces-r0.jsonl") -> list[dict[str, Any]]:
    """The events that are no names."""
    return [event for event in lines(root, name) if event["ph"] != "M"]


def sessions(root: Path, name: str = "session_tracer/sessions-r0.jsonl") -> dict[int, dict[str, Any]]:
    """Sessions by their numbers, each of which is there once."""
    found = lines(root, name)
    by_number = {session["session_id"]: session for session in found}
    assert len(by_number) == len(found)
    return by_number

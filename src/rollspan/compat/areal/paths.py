"""Where AReaL's tracer has its files."""

from __future__ import annotations

import getpass
import os
from pathlib import Path
from typing import Any, Final

PERF: Final = "perf_tracer", "traces"
SESSIONS: Final = "session_tracer", "sessions"


def logs_of(config: Any) -> Path:
    """The folder of a trial's logs."""
    root = os.path.expanduser(os.path.expandvars(config.fileroot))  # noqa: PTH111 - variables first, and then `~`
    return Path(root, "logs", _user(), config.experiment_name, config.trial_name)


def file_of(config: Any, kind: tuple[str, str], rank: int, role: str | None = None) -> Path:
    """One of its files: `PERF` or `SESSIONS`."""
    folder, stem = kind
    return logs_of(config) / folder / (role or "") / f"{stem}-r{rank}.jsonl"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):  # a container may have a user without a name
        return str(os.getuid())

"""torch's profiler, for steps and scopes that were chosen; its files are merged into the timeline.

A thread's own operations are what it sees, and what they start on GPUs. One profile at a time in a process: what is asked
for inside of another is in that one.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rollspan import health, semconv

if TYPE_CHECKING:
    from rollspan.config import Settings

_taken = threading.Lock()


class Profile:
    """A context manager that raises nothing of its own; without torch it says so once and does nothing."""

    def __init__(self, settings: Settings, label: str, arguments: Mapping[str, Any] | None = None) -> None:
        """`label` becomes part of the file's name; `arguments` are those of `torch.profiler.profile`."""
        self._settings = settings
        self._label = label
        self._arguments = arguments or {}
        self._profile: Any = None

    def __enter__(self) -> Profile:
        if not _taken.acquire(blocking=False):
            return self
        try:
            from torch import autograd, profiler  # noqa: PLC0415

            _look_for_another(autograd)
            self._profile = profiler.profile(**self._arguments)
            self._profile.__enter__()
            with contextlib.suppress(AttributeError):  # of a torch without it the file's name has to do
                self._profile.add_metadata_json(semconv.PROCESS_EVENT, json.dumps(_about(self._settings)))
        except Exception as error:  # noqa: BLE001 - torch's, or an argument that it does not take
            self._profile = None
            _taken.release()
            health.warn_once("perf.profiler", "rollspan: %s is not profiled: %r", self._label, error)
        return self

    def __exit__(self, *left_by: object) -> None:
        made, self._profile = self._profile, None
        if made is None:
            return
        try:
            made.__exit__(*left_by)
            _write(made, self._label, self._settings)
        except Exception as error:  # noqa: BLE001
            health.warn_once("perf.profile", "rollspan: the profile of %s is lost: %r", self._label, error)
        finally:
            _taken.release()


def _look_for_another(autograd: Any) -> None:
    """Raises RuntimeError where the program has a profiler of its own going on, which a second one would end."""
    if autograd._profiler_enabled():  # noqa: SLF001 - it is said nowhere else
        raise RuntimeError("the program has a profiler of its own going on")


def is_wanted(settings: Settings, step: Any) -> bool:
    """Whether a scope that asks to be profiled is, in that step: where steps are chosen, in these alone."""
    return not settings.profile_steps or step in settings.profile_steps


def _about(settings: Settings) -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "rank": settings.rank,
        "role": settings.role,
        "run_id": settings.run_id,
    }


def _write(made: Any, label: str, settings: Settings) -> None:
    from rollspan.exporters.ownfile import make_directory  # noqa: PLC0415 - off, nothing of that is loaded

    make_directory(settings.dir, settings.file_mode)
    host = _word(socket.gethostname())
    path = _free(settings.dir, f"profile-r{settings.rank}.{host}.{os.getpid()}.{_word(label)}")
    made.export_chrome_trace(str(path))
    path.chmod(settings.file_mode)


def _word(text: object) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "-", str(text))[:80].strip("-") or "x"


def _free(directory: Path, stem: str) -> Path:
    for suffix in ("", *(f"-{number}" for number in range(2, 1000))):
        path = directory / f"{stem}{suffix}.json.gz"
        if not path.exists():
            return path
    raise FileExistsError(f"{stem} and 998 more like it are there already")

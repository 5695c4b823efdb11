"""AReaL's `SessionTracer`: sessions under its numbers, and their file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from rollspan import health

from . import files
from .events import tell
from .files import Output
from .records import SessionLines, SessionLines539
from .sessions import found

_MOST_TASKS = 4096


class _Tracer:
    """What both versions have. `flush_threshold` has no say: each session is written as soon as it is over."""

    def __init__(self, config: Any, path: str, rank: int, role: str | None, lines: SessionLines) -> None:
        self._config = config
        self._rank = rank
        self._role = role
        self._output = Output(Path(path), lines)
        self._output.open()

    def record_event(self, session_id: int, event: Any, **payload: Any) -> None:
        """Tell a session of an event."""
        tell(found.get(session_id), event, payload)

    def increment_counter(self, session_id: int, name: str, value: int = 1) -> None:
        """Add to a counter of a session."""
        tell(found.get(session_id), "increment_counter", {"name": name, "value": value})

    def flush(self, force: bool = False) -> None:
        """What is over is written anyway; with `force` wait until it is. Open sessions go on."""
        if force:
            files.wait()

    def reset(self) -> None:
        """Cancel what is open, and write it."""
        try:
            found.abort()
        except Exception:  # noqa: BLE001
            health.internal_error("compat.areal.reset")
        files.wait()

    def close(self) -> None:
        """Write no more to its file."""
        self._output.close()


class SessionTracer(_Tracer):
    """Of AReaL 1.0.4."""

    def __init__(self, config: Any, *, output_path: str, rank: int, role: str | None = None) -> None:
        super().__init__(config, output_path, rank, role, SessionLines(rank, role))
        self._tasks: dict[Any, list[int]] = {}

    def register_task(self, task_id: int) -> None:
        """A task is known, and has no session yet."""
        self._guarded(lambda: self._sessions_of(task_id), None)

    def register_session(self, task_id: int) -> int:
        """The number of a session of this task: of the one that is current, else of a new one."""
        number = self._guarded(lambda: found.begin(task_id), -1)
        self._guarded(lambda: self._sessions_of(task_id).append(number), None)
        return number  # type: ignore[no-any-return]

    def get_session_ids(self, task_id: int) -> list[int]:
        """The numbers of a task's sessions."""
        return list(self._guarded(lambda: self._tasks.get(task_id, ()), ()))

    def reset(self) -> None:
        """As said above; its tasks are forgotten."""
        super().reset()
        self._tasks.clear()

    def _sessions_of(self, task_id: Any) -> list[int]:
        if len(self._tasks) > _MOST_TASKS:
            for task, numbers in list(self._tasks.items()):
                if not any(map(found.get, numbers)):
                    self._tasks.pop(task, None)
        return self._tasks.setdefault(task_id, [])

    @staticmethod
    def _guarded(call: Callable[[], Any], otherwise: Any) -> Any:
        try:
            return call()
        except Exception:  # noqa: BLE001
            health.internal_error("compat.areal.session")
            return otherwise


class SessionTracer539(_Tracer):
    """Of pull request 539."""

    def __init__(self, config: Any, *, output_path: str, rank: int) -> None:
        super().__init__(config, output_path, rank, None, SessionLines539(rank))

    def register_submission(self) -> int:
        """The number of a session that begins to wait now."""
        try:
            return found.submit()
        except Exception:  # noqa: BLE001
            health.internal_error("compat.areal.session")
            return -1

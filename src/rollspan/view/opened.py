"""The table of what is open now in a running job."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.text import Text

from rollspan.view.chart import phase_style, status_style
from rollspan.view.reading import label, verdict
from rollspan.view.table import new_table
from rollspan.view.text import count, duration, number, safe

_WIDE = 100


def open_table(sessions: Iterable[Mapping[str, Any]]) -> RenderableType:
    """Open sessions (as `rollspan.recovery.open_sessions` gives them), the oldest first.

    Each is a record so far with `age_s`, `open_phases` (outermost first), `rank`, `host` and `pid` beside.
    """
    return _OpenTable(by_age(sessions))


class _OpenTable:
    """Narrow consoles do without the session's id."""

    def __init__(self, sessions: list[Mapping[str, Any]]) -> None:
        self._sessions = sessions

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        number_of = len(self._sessions)
        yield Text(f"{count(number_of)} open rollout{'' if number_of == 1 else 's'}", "bold")
        yield Text()
        wide = options.max_width >= _WIDE
        table = new_table()
        table.add_column("age", justify="right", no_wrap=True)
        table.add_column("status", no_wrap=True)
        table.add_column("in phase", overflow="ellipsis", no_wrap=True, max_width=24)
        for head in ("task", "group"):
            table.add_column(head, overflow="ellipsis", no_wrap=True, max_width=16 if wide else 10)
        table.add_column("rank", justify="right", no_wrap=True)
        table.add_column("process", overflow="ellipsis", no_wrap=True, max_width=28)
        if wide:
            table.add_column("session", overflow="ellipsis", no_wrap=True)
        for session in self._sessions:
            cells = _cells(session)
            table.add_row(*(cells if wide else cells[:-1]))
        yield table


def _cells(session: Mapping[str, Any]) -> list[RenderableType]:
    status, _ = verdict(dict(session))
    phases = session.get("open_phases")
    phase = str(phases[-1]) if isinstance(phases, (list, tuple)) and phases else ""
    return [
        duration(number(session, "age_s") or 0.0),
        Text(safe(status, 12), status_style(status)),
        Text(safe(phase, 24), phase_style(phase)) if phase else Text("-", "dim"),
        *(_text(session.get(key), 16) for key in ("task_id", "group_id", "rank")),
        _text(f"{session.get('host', '?')}:{session.get('pid', '?')}", 28),
        Text(label(dict(session), 32)),
    ]


def by_age(sessions: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The sessions, the oldest first."""
    return sorted(sessions, key=lambda session: number(session, "age_s") or 0.0, reverse=True)


def _text(value: object, width: int) -> Text:
    return Text("-", "dim") if value is None else Text(safe(value, width))

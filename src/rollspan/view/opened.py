"""The table of what is open now in a running job."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.text import Text

from rollspan.view.chart import phase_style, status_style
from rollspan.view.reading import label, verdict
from rollspan.view.table import new_table
from rollspan.view.text import count, duration, number, safe

_WIDE = 100
_OLD = 1.0  # seconds; knowledge no older than that needs no explanation
_AS_OF = (
    "What a rollout is in is known as of its last line in the journal. One that stays open gets a new line every "
    "ROLLSPAN_CHECKPOINT_INTERVAL (10 s by default)."
)


def open_table(sessions: Iterable[Mapping[str, Any]], directory: str = "DIR") -> RenderableType:
    """Open sessions (as `rollspan.recovery.open_sessions` gives them), those of dead processes apart.

    Each is a record so far with `age_s`, `as_of_s`, `open_phases` (outermost first), `rank`, `host`, `pid` and
    `alive` beside. The oldest come first. `directory` is what they were found in.
    """
    known = by_age(sessions)
    running = [session for session in known if session.get("alive", True)]
    died = [session for session in known if not session.get("alive", True)]
    parts: list[RenderableType] = []
    if running or not died:
        parts += [Text(_counted(running, "open rollout"), "bold"), Text(), _OpenTable(running)]
    if any((number(session, "as_of_s") or 0.0) > _OLD for session in running):
        parts += [Text(), Text(_AS_OF, "dim")]
    if died:
        if parts:
            parts.append(Text())
        parts += [
            Text(f"{_counted(died, 'rollout')} left open by processes that died", "bold"),
            Text(),
            _OpenTable(died),
        ]
        parts += [Text(), Text(f"`rollspan recover {directory}` ends and delivers what those left.")]
    return Group(*parts)


class _OpenTable:
    """Narrow consoles do without group and session id."""

    def __init__(self, sessions: list[Mapping[str, Any]]) -> None:
        self._sessions = sessions

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        wide = options.max_width >= _WIDE
        table = new_table()
        table.add_column("age", justify="right", no_wrap=True)
        table.add_column("status", no_wrap=True)
        table.add_column("in phase", overflow="ellipsis", no_wrap=True, max_width=24)
        table.add_column("as of", justify="right", no_wrap=True)
        for head in ("task", "group") if wide else ("task",):
            table.add_column(head, overflow="ellipsis", no_wrap=True, max_width=16 if wide else 10)
        table.add_column("rank", justify="right", no_wrap=True)
        table.add_column("process", overflow="ellipsis", no_wrap=True, max_width=28)
        if wide:
            table.add_column("session", overflow="ellipsis", no_wrap=True)
        for session in self._sessions:
            table.add_row(*_cells(session, wide))
        yield table


def _cells(session: Mapping[str, Any], wide: bool) -> list[RenderableType]:
    status, _ = verdict(dict(session))
    phases = session.get("open_phases")
    phase = str(phases[-1]) if isinstance(phases, (list, tuple)) and phases else ""
    as_of = number(session, "as_of_s")
    return [
        duration(number(session, "age_s") or 0.0),
        Text(safe(status, 12), status_style(status)),
        Text(safe(phase, 24), phase_style(phase)) if phase else Text("-", "dim"),
        _text(None if as_of is None else f"{duration(as_of)} ago", 16),
        *(_text(session.get(key), 16) for key in (("task_id", "group_id") if wide else ("task_id",))),
        _text(session.get("rank"), 16),
        _text(f"{session.get('host', '?')}:{session.get('pid', '?')}", 28),
        *([Text(label(dict(session), 32))] if wide else []),
    ]


def by_age(sessions: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The sessions, the oldest first."""
    return sorted(sessions, key=lambda session: number(session, "age_s") or 0.0, reverse=True)


def _counted(sessions: list[Mapping[str, Any]], what: str) -> str:
    return f"{count(len(sessions))} {what}{'' if len(sessions) == 1 else 's'}"


def _text(value: object, width: int) -> Text:
    return Text("-", "dim") if value is None else Text(safe(value, width))

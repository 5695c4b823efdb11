"""The table of a run: how its rollouts ended and where their time went."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from rollspan.record import Record
from rollspan.view.chart import phase_style, status_style
from rollspan.view.figures import summary
from rollspan.view.text import count, duration, plain, safe, share

_MOST_ROWS = 30


def summary_table(records: Sequence[Record]) -> RenderableType:
    """The figures of `summary(records)` as tables: endings, durations, and what else there is."""
    figures = summary(records)
    sessions = figures["sessions"]
    if not sessions:
        return Text("no rollouts")
    title = Text.assemble((f"{count(sessions)} rollout{'' if sessions == 1 else 's'}", "bold"))
    if figures["span_s"] > 0:
        title.append(f" in {duration(figures['span_s'])}")
        title.append(f" ({plain(sessions / figures['span_s'])} a second)", "dim")
    parts: list[RenderableType] = [title, _endings(figures), _times(figures)]
    if facts := _facts(figures):
        parts += [facts]
    return Group(*parts)


def new_table() -> Table:
    """A table as all of ours look: no frame, a line below the heads."""
    return Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="dim", show_edge=False, padding=(0, 1))


def _endings(figures: dict[str, Any]) -> RenderableType:
    table = new_table()
    for head in ("status", "reason"):
        table.add_column(head, overflow="ellipsis", no_wrap=True, max_width=36)
    for head in ("rollouts", "share", "consumed"):
        table.add_column(head, justify="right", no_wrap=True)
    for row in figures["statuses"]:
        table.add_row(
            Text(safe(row["status"], 24), status_style(row["status"])),
            Text(safe(row["reason"] or "", 36)),
            count(row["count"]),
            share(row["count"], figures["sessions"]),
            count(row["consumed"]) if row["consumed"] else Text("-", "dim"),
        )
    return Group(Text(), table)


def _times(figures: dict[str, Any]) -> RenderableType:
    table = new_table()
    table.add_column("time", overflow="ellipsis", no_wrap=True, max_width=36)
    for head in ("rollouts", "p50", "p95", "max", "of total"):
        table.add_column(head, justify="right", no_wrap=True)
    shown = list(figures["durations"].items())
    phases = [name for name, row in shown if row["kind"] == "phase"]
    hidden = set(phases[_MOST_ROWS:])
    last_kind = ""
    for name, row in shown:
        if name in hidden:
            continue
        kind = "end" if row["kind"] in ("total", "unattributed") else row["kind"]
        if last_kind and kind != last_kind:
            table.add_section()
        last_kind = kind
        style = "bold" if row["kind"] == "total" else "" if kind == "end" else phase_style(name)
        table.add_row(
            Text(safe(name, 36), style),
            count(row["count"]),
            *(duration(row[key]) for key in ("p50_s", "p95_s", "max_s")),
            f"{100 * row['share']:.1f} %",
        )
    parts: list[RenderableType] = [Text(), table]
    if hidden:
        parts.append(Text(f"and {count(len(hidden))} more phases", "dim"))
    return Group(*parts)


def _facts(figures: dict[str, Any]) -> RenderableType | None:
    lines: list[tuple[str, str]] = []
    tokens = [
        f"{count(figures[key]['sum'])} {name} ({plain(figures[key]['mean'])} a rollout)"
        for name, key in (("in", "input_tokens"), ("out", "output_tokens"))
        if key in figures
    ]
    if tokens:
        lines.append(("tokens", ", ".join(tokens)))
    if turns := figures.get("turns"):
        lines.append(("turns", f"{plain(turns['mean'])} a rollout, at most {count(turns['max'])}"))
    rewards = []
    if reward := figures.get("reward"):
        spread = f"from {plain(reward['min'])} to {plain(reward['max'])}"
        rewards.append(f"{plain(reward['mean'])} on average, {spread}, {count(reward['count'])} scored")
    for name, number in figures.get("rewards_not_finite", {}).items():
        rewards.append(f"{count(number)} {'not a number' if name == 'NaN' else name}")
    if rewards:
        lines.append(("reward", ", ".join(rewards)))
    if versions := figures.get("weight_versions"):
        text = f"{versions['min']} to {versions['max']}"
        if versions["mixed"]:
            one = versions["mixed"] == 1
            text += (
                f", {count(versions['mixed'])} rollout{'' if one else 's'} under more than one"
                f" (at most {versions['widest']} update{'' if versions['widest'] == 1 else 's'} within one)"
            )
        lines.append(("weight versions", text))
    if steps := figures.get("steps"):
        text = f"{steps['first']} to {steps['last']}"
        if "mean_lag" in steps:
            text += f", consumed {plain(steps['mean_lag'])} after dispatch on average"
            text += f", at most {steps['max_lag']}"
        lines.append(("steps", text))
    if late := figures.get("late_spans"):
        lines.append(("late", f"{count(late)} phases still open when their rollout ended, cut there"))
    if counters := figures.get("counters"):
        named = [f"{safe(name, 24)} {count(value)}" for name, value in list(counters.items())[:8]]
        lines.append(("counters", ", ".join(named) + (" ..." if len(counters) > 8 else "")))
    if not lines:
        return None
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for name, text in lines:
        grid.add_row(Text(name, "dim"), Text(text))
    return Group(Text(), grid)

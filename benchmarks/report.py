"""From rounds to ratios: what is said, in a table and as JSON."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table

from .contenders import AREAL, Entry
from .driver import Round

MEASURES = ("hot", "total")


class Ratio(NamedTuple):
    """Of a contender to the reference within the same round: median over the rounds, and the quartiles."""

    median: float
    low: float
    high: float


class Bound(NamedTuple):
    """A promise: `contender` costs at most `limit` times what AReaL does."""

    contender: str
    measure: str
    limit: float


BOUNDS = (Bound("rollspan-otlp", "hot", 0.5), Bound("rollspan-otlp", "total", 1.8))


def reference(names: Sequence[str]) -> str:
    """Whose costs are 1."""
    return next((name for name in (AREAL, "sdk-otlp") if name in names), names[0])


def ratios(rounds: Sequence[Round], to: str) -> dict[str, dict[str, Ratio]]:
    """By contender and measure."""
    found: dict[str, dict[str, Ratio]] = {}
    for name in rounds[0].results:
        found[name] = {}
        for measure in MEASURES:
            each = [r.results[name][measure] / r.results[to][measure] for r in rounds]
            low, median, high = statistics.quantiles(each, n=4, method="inclusive")
            found[name][measure] = Ratio(median, low, high)
    return found


def verdicts(found: dict[str, dict[str, Ratio]]) -> list[tuple[Bound, float, bool]]:
    """Each bound whose contender and AReaL both took part: the ratio, and whether it holds."""
    if AREAL not in found:
        return []
    bounds = [bound for bound in BOUNDS if bound.contender in found]
    measured = [(bound, found[bound.contender][bound.measure].median) for bound in bounds]
    return [(bound, ratio, ratio <= bound.limit) for bound, ratio in measured]


def machine() -> dict[str, Any]:
    """What it ran on."""
    return {
        "cpu": _cpu(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def as_json(
    sessions: int, rounds: Sequence[Round], to: str, on: dict[str, Any], versions: dict[str, str]
) -> dict[str, Any]:
    """Everything that was measured, and what follows from it. `hot` and `total` are microseconds a session."""
    found = ratios(rounds, to)
    return {
        "machine": on,
        "versions": versions,
        "sessions": sessions,
        "reference": to,
        "rounds": [{"order": r.order, "results": r.results} for r in rounds],
        "ratios": {n: {m: ratio._asdict() for m, ratio in by.items()} for n, by in found.items()},
        "bounds": [{**b._asdict(), "ratio": ratio, "holds": ok} for b, ratio, ok in verdicts(found)],
    }


def show(
    console: Console,
    entries: Sequence[Entry],
    sessions: int,
    rounds: Sequence[Round],
    to: str,
    on: dict[str, Any],
    versions: dict[str, str],
) -> None:
    """Print the table, what it stands on, and the bounds."""
    found = ratios(rounds, to)
    table = Table(
        "",
        box=box.SIMPLE_HEAD,
        title=f"CPU time a session, in multiples of {to}'s in the same round",
        title_justify="left",
    )
    for measure in MEASURES:
        table.add_column(measure, justify="right")
    table.add_column("µs here", justify="right", style="dim")
    for entry in entries:
        by = found[entry.name]
        spent = [statistics.median(r.results[entry.name][m] for r in rounds) for m in MEASURES]
        table.add_row(
            f"{entry.name}\n[dim]{entry.what}[/]",
            *(f"{by[m].median:.2f} [dim]\\[{by[m].low:.2f}-{by[m].high:.2f}][/]" for m in MEASURES),
            " / ".join(f"{us:.0f}" for us in spent),
        )
    console.print(table)
    console.print(
        f"Median and [quartiles] of {len(rounds)} interleaved rounds of {sessions} sessions. hot: the calling thread; "
        "total: the whole process, until everything has arrived. The endpoint is another process and not counted; "
        "every line, span and record was.",
        style="dim",
        markup=False,
    )
    if any(entry.name == AREAL for entry in entries):
        console.print(
            "AReaL's tracer is its registry package's, unmodified; instead of torch.profiler, the settings' module and "
            "the framework's __init__, which load gigabytes that sessions do not use, stand-ins are imported.",
            style="dim",
        )
    on_what = ", ".join(f"{name} {number}" for name, number in versions.items())
    console.print(
        f"{on['cpu']}, {on['cpus']} CPUs, load {on['load']} before, {on['system']}, Python {on['python']}; {on_what}",
        style="dim",
    )
    for bound, ratio, holds in verdicts(found):
        word, style = ("holds", "green") if holds else ("is missed", "bold red")
        console.print(
            f"{bound.contender} {bound.measure}: {ratio:.2f} times AReaL's; the bound of {bound.limit} {word}",
            style=style,
        )

"""What `rollspan doctor` looks at: settings, endpoints, file systems, journals. Plain data, no printing."""

from __future__ import annotations

import os
import shutil
import site
import sysconfig
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Final

from rollspan import autostart, config, place
from rollspan.cli import _endpoints
from rollspan.cli._endpoints import SIGNALS
from rollspan.cli._outcomes import one_too_high
from rollspan.cli.version import versions
from rollspan.left import Left, Standing, orphans
from rollspan.left import journals as all_journals
from rollspan.values import without_user

_GROUPS: Final = {
    "traces": "opentelemetry_traces_exporter",
    "records": "opentelemetry_logs_exporter",
    "metrics": "opentelemetry_metrics_exporter",
}
_FEW: Final = 3
_COMPLETE_SAMPLERS: Final = frozenset({"", "always_on", "parentbased_always_on"})


def examine(folder: str | None, environ: Mapping[str, str]) -> dict[str, Any]:
    """All that can be known from here, as JSON; `problems` is empty where all is well."""
    start_up = autostart.resolved if environ is os.environ else None
    resolved = start_up or config.resolve(environ)
    settings = resolved.settings
    directory = Path(folder).absolute() if folder else settings.dir
    problems = [str(problem) for problem in resolved.problems]
    report: dict[str, Any] = {
        "settings": {
            name: {
                "value": config.shown(name, getattr(settings, name)),
                "source": source,
                "variables": [v for v in config.VARIABLES[name].environment if v not in config.INTERNAL],
                "meaning": config.VARIABLES[name].meaning,
            }
            for name, source in resolved.sources.items()
        },
        "opentelemetry": {
            name: _shown(name, text)
            for name, text in sorted(environ.items())
            if name.startswith("OTEL_") and text
        },
        "versions": versions(),
        "endpoints": _endpoints.examine(settings, environ),
        "file_systems": file_systems(directory, settings.journal_dir, problems),
        "journals": journals(directory, settings.journal_dir, problems),
        "orphans": orphaned(directory, settings.journal_dir),
        "directory": str(directory),
        "problems": problems,
    }
    report["notes"] = notes(settings, environ, report["endpoints"]) + of_orphans(report["orphans"])
    if said := one_too_high(directory):
        (problems if folder else report["notes"]).append(said)
    problems += _missing_exporters(settings)
    problems += _endpoints.problems(settings, environ, report["endpoints"])
    if not start_up_installed():
        problems.append(
            "rollspan.pth is in no site-packages folder of this Python, so ROLLSPAN_ENABLED counts only in "
            "programs that import rollspan, and the run is not named before; install rollspan with pip"
        )
    return report


def _shown(name: str, text: str) -> str:
    if "HEADERS" in name or name.endswith("_KEY"):
        return "(set, not shown)"
    return without_user(text) if "://" in text or name.endswith("_ENDPOINT") else text


def start_up_installed() -> bool:
    """Whether Python's start-up finds rollspan.pth."""
    folders = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *site.getsitepackages()}
    folders.add(site.getusersitepackages())
    return any(Path(folder, "rollspan.pth").is_file() for folder in folders)


def _missing_exporters(settings: config.Settings) -> list[str]:
    found = []
    for signal, group in _GROUPS.items():
        known = {"otlp", "console"} | {point.name for point in entry_points(group=group)}
        found += [
            f"OTEL_{SIGNALS[signal]}_EXPORTER names {name!r}, which is not installed; "
            f"there are {', '.join(sorted(known))}, none"
            for name in getattr(settings, f"{signal}_exporters")
            if name not in known
        ]
    return found


def notes(
    settings: config.Settings, environ: Mapping[str, str], examined: Sequence[Mapping[str, Any]]
) -> list[str]:
    """What is no fault, and good to know."""
    found = []
    if not settings.enabled:
        found.append("rollspan is off; ROLLSPAN_ENABLED=1 turns it on.")
    if settings.sdk_disabled:
        also = ", although ROLLSPAN_ENABLED turns it on" if settings.enabled else ""
        found.append(f"OTEL_SDK_DISABLED=true switches rollspan off together with OpenTelemetry{also}.")
    sampler = environ.get("OTEL_TRACES_SAMPLER", "").strip()
    if sampler not in _COMPLETE_SAMPLERS:
        found.append(
            f"OTEL_TRACES_SAMPLER={sampler}: traces are sampled; every session made by rollspan's API has its "
            "record all the same. Sessions made of spans of the plain OpenTelemetry API have none where the "
            "sampler drops them."
        )
    limit = environ.get("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT") or environ.get("OTEL_ATTRIBUTE_COUNT_LIMIT") or ""
    if limit.strip().isdigit() and int(limit) < 128:
        found.append(
            f"An SDK tracer provider would keep {limit.strip()} attributes of a span (OTEL_*_COUNT_LIMIT); a "
            "session's root may bear 128."
        )
    if not any((settings.traces_exporters, settings.records_exporters, settings.metrics_exporters)):
        found.append("No endpoint and no exporter is named: there will be the file of records alone.")
    return found + _endpoints.notes(settings, environ, examined)


def file_systems(directory: Path, journal_dir: Path | None, problems: list[str]) -> dict[str, Any]:
    """Where data and journals go, on what kind of file system, and the room there."""
    usable = place.usable(directory, journal_dir)
    candidates = place.candidates(directory, journal_dir)
    nearest = directory
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    if not nearest.is_dir():
        problems.append(f"{directory} cannot be made: {nearest} is no folder")
    elif why := _why_not_writable(nearest):
        problems.append(
            f"nothing can be kept in {directory}: {nearest} cannot be written to ({why}); set ROLLSPAN_DIR to a "
            "folder that can"
        )
    if not usable:
        tried = ", ".join(f"{each.folder} ({each.file_system or 'unknown'})" for each in candidates)
        problems.append(
            f"no folder for the journal on a file system that reserves room for real; tried {tried}. "
            "Sessions stay in memory and do not survive a kill; set ROLLSPAN_JOURNAL_DIR to one on tmpfs, "
            "ext4 or xfs"
        )
    return {
        "data": {
            "folder": str(directory),
            "type": place.file_system(directory),
            "free_bytes": _free(nearest),
        },
        "journal": [
            {
                "folder": str(each.folder),
                "type": each.file_system,
                "usable": each in usable,
                "chosen": bool(usable) and each == usable[0],
            }
            for each in candidates
        ],
    }


def _why_not_writable(folder: Path) -> str:
    """Why no file can be made there, "" where one can. Tried, because os.access tells root what is not so."""
    try:
        with tempfile.TemporaryDirectory(prefix=".rollspan-doctor-", dir=folder) as made:
            Path(made, "file").touch()
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _free(folder: Path) -> int | None:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def journals(directory: Path, journal_dir: Path | None, problems: list[str]) -> dict[str, Any]:
    """Journals of a data directory by what became of their processes, and where those processes disagree."""
    running: list[Left] = []
    left: list[Left] = []
    elsewhere: dict[str, int] = defaultdict(int)
    kept = 0
    for header in all_journals(directory, journal_dir):
        if header.kept:
            kept += 1
            continue
        with header.locked() as standing:
            (running if standing is Standing.HELD else left).append(header)
            if standing is Standing.ELSEWHERE:
                elsewhere[str(header.get("host", "?"))] += 1
    here = len(left) - sum(elsewhere.values())
    if here:
        problems.append(
            f"{_counted(here, 'journal')} left by processes that died; `rollspan recover {directory}` "
            "delivers what is in them"
        )
    problems += [
        f"{_counted(number, 'journal')} left by processes that died on host {host}; `rollspan recover "
        f"{directory}` delivers what is in them, run there, or with --discard what of them is here, if {host} is gone"
        for host, number in sorted(elsewhere.items())
    ]
    differences = disagreements(running, left)
    problems += [each["text"] for each in differences]
    return {
        "running": len(running),
        "left": len(left),
        "kept": kept,
        "runs": sorted({str(each.get("run_id", "")) for each in (*running, *left)} - {""}),
        "disagreements": differences,
    }


def orphaned(directory: Path, journal_dir: Path | None) -> list[dict[str, Any]]:
    """What nobody would find, the most first: journals in memory whose data directories were removed, or never made."""
    held: dict[str, dict[str, Any]] = {}
    for left in orphans(journal_dir):
        data, folder = str(left.settings["dir"]), str(left.hot.parent)
        if data == str(directory):  # its journals are told of as such
            continue
        each = held.setdefault(folder, {"data": data, "folder": folder, "journals": 0, "bytes": 0})
        each["journals"] += 1
        each["bytes"] += sum(path.stat().st_size for _, path in left.segments if path.exists())
    return sorted(held.values(), key=lambda each: (-each["bytes"], each["folder"]))


def of_orphans(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """One note of all of them, with the command that gets them back; it names the first few."""
    if not found:
        return []
    named = ", ".join(f"{each['data']} (in {each['folder']})" for each in found[:_FEW])
    more = f" and {len(found) - _FEW} more, which --json lists" if len(found) > _FEW else ""
    size = sum(each["bytes"] for each in found) / 2**20
    number = _counted(sum(each["journals"] for each in found), "journal")
    return [
        f"{size:.0f} MiB of sessions lie in {number} left by processes that died, whose data directories are not there: "
        f"{named}{more}. `rollspan recover {found[0]['data']} --to OTHER` writes the records of the first below OTHER; "
        "a folder that nobody wants may be removed."
    ]


def disagreements(
    running: Sequence[Mapping[str, Any]], left: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Settings that differ between the processes of one run, and run names that differ between live ones."""
    found = []
    names = {str(each.get("run_id", "")): _who(each) for each in running}
    if len(names) > 1:
        found.append(_difference("run_id", names, "processes that write here now"))
    runs: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for header in (*running, *left):
        runs[str(header.get("run_id", ""))].append(header)
    for run, headers in sorted(runs.items()):
        by_setting: dict[str, dict[str, str]] = defaultdict(dict)
        for header in headers:
            for setting, value in _compared(header).items():
                by_setting[setting].setdefault(config.shown(setting, value), _who(header))
        found += [
            _difference(setting, values, f"processes of the run {run or '(unnamed)'}")
            for setting, values in sorted(by_setting.items())
            if len(values) > 1
        ]
    return found


def _compared(header: Mapping[str, Any]) -> dict[str, Any]:
    settings, points = header.get("settings"), header.get("endpoints")
    found = dict(settings) if isinstance(settings, dict) else {}
    if isinstance(points, dict):
        found |= {f"endpoint of {name}": without_user(str(address)) for name, address in points.items()}
    return found


def _difference(setting: str, values: Mapping[str, str], among: str) -> dict[str, Any]:
    said = "; ".join(f"{value} ({who})" for value, who in values.items())
    return {"setting": setting, "values": dict(values), "text": f"{setting} differs among {among}: {said}"}


def _who(header: Mapping[str, Any]) -> str:
    return f"rank {header.get('rank', '?')}, pid {header.get('pid', '?')} on {header.get('host', '?')}"


def _counted(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"

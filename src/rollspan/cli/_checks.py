"""What `rollspan doctor` looks at: settings, endpoints, file systems, journals. Plain data, no printing."""

from __future__ import annotations

import os
import shutil
import site
import socket
import sysconfig
import urllib.parse
import urllib.request
from collections import defaultdict
from collections.abc import Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Final

from rollspan import autostart, config, owner, place
from rollspan.cli.version import versions

CONNECT_TIMEOUT: Final = 2.0
_SIGNALS: Final = {"traces": "TRACES", "records": "LOGS", "metrics": "METRICS"}
_GROUPS: Final = {
    "traces": "opentelemetry_traces_exporter",
    "records": "opentelemetry_logs_exporter",
    "metrics": "opentelemetry_metrics_exporter",
}
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
            name: "(set, not shown)" if "HEADERS" in name or name.endswith("_KEY") else _without_user(text)
            for name, text in sorted(environ.items())
            if name.startswith("OTEL_") and text
        },
        "versions": versions(),
        "endpoints": endpoints(settings, environ),
        "file_systems": file_systems(directory, settings.journal_dir, problems),
        "journals": journals(directory, settings.journal_dir, problems),
        "directory": str(directory),
        "notes": notes(settings, environ, problems),
        "problems": problems,
    }
    problems += _missing_exporters(settings)
    problems += [
        f"{each['signal']}: {each['endpoint']} does not answer: {each['error']}"
        for each in report["endpoints"]
        if each["reachable"] is False
    ]
    if not start_up_installed():
        problems.append(
            "rollspan.pth is in no site-packages folder of this Python, so ROLLSPAN_ENABLED counts only in "
            "programs that import rollspan, and the run is not named before; install rollspan with pip"
        )
    return report


def start_up_installed() -> bool:
    """Whether Python's start-up finds rollspan.pth."""
    folders = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *site.getsitepackages()}
    folders.add(site.getusersitepackages())
    return any(Path(folder, "rollspan.pth").is_file() for folder in folders)


def endpoints(settings: config.Settings, environ: Mapping[str, str]) -> list[dict[str, Any]]:
    """For each signal that goes out by OTLP: where to, and whether something listens there."""
    found = []
    seen: dict[tuple[str, int], str | None] = {}
    for signal, word in _SIGNALS.items():
        exporters = getattr(settings, f"{signal}_exporters")
        if not any(name.startswith("otlp") for name in exporters):
            continue
        address = _endpoint(settings, environ, word)
        entry: dict[str, Any] = {"signal": signal, "endpoint": _without_user(address)}
        try:
            target = _target(address)
        except ValueError:
            found.append(
                entry | {"reachable": False, "error": "expected an address such as http://host:4318"}
            )
            continue
        proxy = _proxy(address)
        if proxy:
            found.append(entry | {"reachable": None, "error": f"by way of the proxy {proxy}; not tried"})
            continue
        if target not in seen:
            seen[target] = _connect(target)
        found.append(entry | {"reachable": seen[target] is None, "error": seen[target] or ""})
    return found


def _endpoint(settings: config.Settings, environ: Mapping[str, str], word: str) -> str:
    own = environ.get(f"OTEL_EXPORTER_OTLP_{word}_ENDPOINT", "").strip()
    common = settings.endpoint or environ.get(config.COMMON_ENDPOINT, "").strip()
    protocol = (
        environ.get(f"OTEL_EXPORTER_OTLP_{word}_PROTOCOL")
        or environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")
        or "http/protobuf"
    )
    return own or common or f"http://localhost:{4317 if protocol.strip() == 'grpc' else 4318}"


def _target(address: str) -> tuple[str, int]:
    """Host and port. Raises: ValueError where there are none in it."""
    parts = urllib.parse.urlsplit(address if "://" in address else f"grpc://{address}")
    if not parts.hostname:
        raise ValueError(address)
    return parts.hostname, parts.port or {"https": 443, "http": 80}.get(parts.scheme, 4317)


def _proxy(address: str) -> str | None:
    parts = urllib.parse.urlsplit(address)
    proxy = urllib.request.getproxies().get(parts.scheme)
    if not proxy or not parts.hostname or urllib.request.proxy_bypass(parts.hostname):
        return None
    return _without_user(proxy)


def _connect(target: tuple[str, int]) -> str | None:
    """Why no TCP connection came about, or None where one did."""
    try:
        with socket.create_connection(target, timeout=CONNECT_TIMEOUT):
            return None
    except (OSError, UnicodeError) as error:
        return str(error.strerror or error) if isinstance(error, OSError) else "no such host name"


def _without_user(text: str) -> str:
    """An address without the user and the password that may stand in it."""
    head, separator, rest = text.partition("://")
    if not separator:
        return text
    authority, slash, path = rest.partition("/")
    return f"{head}://{authority.rpartition('@')[2]}{slash}{path}"


def _missing_exporters(settings: config.Settings) -> list[str]:
    found = []
    for signal, group in _GROUPS.items():
        known = {"otlp", "console"} | {point.name for point in entry_points(group=group)}
        found += [
            f"OTEL_{_SIGNALS[signal]}_EXPORTER names {name!r}, which is not installed; "
            f"there are {', '.join(sorted(known))}, none"
            for name in getattr(settings, f"{signal}_exporters")
            if name not in known
        ]
    return found


def notes(settings: config.Settings, environ: Mapping[str, str], problems: list[str]) -> list[str]:
    """What is no fault, and good to know; what is one goes to `problems`."""
    found = []
    if not settings.enabled:
        found.append("rollspan is off; ROLLSPAN_ENABLED=1 turns it on.")
    if settings.sdk_disabled:
        found.append("OTEL_SDK_DISABLED=true switches rollspan off together with OpenTelemetry.")
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
    return found


def file_systems(directory: Path, journal_dir: Path | None, problems: list[str]) -> dict[str, Any]:
    """Where data and journals go, on what kind of file system, and the room there."""
    usable = place.usable(directory, journal_dir)
    candidates = place.candidates(directory, journal_dir)
    nearest = directory
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    if not nearest.is_dir():
        problems.append(f"{directory} cannot be made: {nearest} is no folder")
    elif not os.access(nearest, os.W_OK | os.X_OK):
        problems.append(f"{nearest} may not be written to, so nothing can be kept in {directory}")
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


def _free(folder: Path) -> int | None:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def journals(directory: Path, journal_dir: Path | None, problems: list[str]) -> dict[str, Any]:
    """Journals of a data directory by what became of their processes, and where those processes disagree."""
    running: list[owner.Left] = []
    left: list[owner.Left] = []
    kept = 0
    for header in owner.journals(directory, journal_dir):
        if header.kept:
            kept += 1
            continue
        with header.locked() as dead:
            (left if dead else running).append(header)
    if left:
        problems.append(
            f"{_counted(len(left), 'journal')} left by processes that died; `rollspan recover {directory}` "
            "delivers what is in them"
        )
    differences = disagreements(running, left)
    problems += [each["text"] for each in differences]
    return {
        "running": len(running),
        "left": len(left),
        "kept": kept,
        "runs": sorted({str(each.get("run_id", "")) for each in (*running, *left)} - {""}),
        "disagreements": differences,
    }


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
        found |= {f"endpoint of {name}": _without_user(str(address)) for name, address in points.items()}
    return found


def _difference(setting: str, values: Mapping[str, str], among: str) -> dict[str, Any]:
    said = "; ".join(f"{value} ({who})" for value, who in values.items())
    return {"setting": setting, "values": dict(values), "text": f"{setting} differs among {among}: {said}"}


def _who(header: Mapping[str, Any]) -> str:
    return f"rank {header.get('rank', '?')}, pid {header.get('pid', '?')} on {header.get('host', '?')}"


def _counted(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"

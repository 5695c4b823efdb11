"""What a timeline is made of: the files of scopes and of torch's profiler, and the events in them."""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from rollspan import semconv
from rollspan.perf.lanes import Slice
from rollspan.view.files import open_bytes

Event = dict[str, Any]
_NUMBER = (int, float)

_PERF = re.compile(r"perf-r(?P<rank>\d+)(?P<by>\..+\.\d+)??(?:\.(?P<number>\d+))?\.json(?:\.gz)?", re.ASCII)
_PROFILE = re.compile(r"profile-r(?P<rank>\d+).*\.json(?:\.gz)?", re.ASCII)


class Process(NamedTuple):
    """A process, in the order of ranks. One pid may be on several hosts, and one rank in several processes."""

    rank: int
    role: str
    host: str
    pid: int
    run: str = ""


class Source(NamedTuple):
    """The files of one writer, the oldest first, and the rank in their names."""

    rank: int
    paths: tuple[Path, ...]


def perf_sources(directory: Path) -> list[Source]:
    """The files of scopes in `directory` and below, by rank."""
    writers: dict[tuple[int, str, str], list[tuple[int, Path]]] = {}
    for path, match in _matching(directory, _PERF):
        writer = (int(match["rank"]), str(path.parent), match["by"] or "")
        writers.setdefault(writer, []).append((-int(match["number"] or 0), path))
    return [
        Source(writer[0], tuple(path for _, path in sorted(files)))
        for writer, files in sorted(writers.items())
    ]


def profile_sources(directory: Path) -> list[Source]:
    """The files of torch's profiler in `directory` and below, by rank."""
    return sorted(Source(int(match["rank"]), (path,)) for path, match in _matching(directory, _PROFILE))


def _matching(directory: Path, pattern: re.Pattern[str]) -> Iterator[tuple[Path, re.Match[str]]]:
    for folder, _, names in os.walk(directory):
        for name in names:
            if match := pattern.fullmatch(name):
                yield Path(folder, name), match


def read_perf(
    source: Source, names: dict[tuple[Process, int], str], problems: list[str]
) -> Iterator[tuple[Process, Slice]]:
    """The scopes and instants of a writer, each with its process; `names` is told the names of its threads."""
    owners: dict[int, Process] = {}  # by pid; a rotated file need not say it again
    for path in source.paths:
        for event in _read(path, _line_by_line, problems):
            pid, kind, args = event["pid"], event.get("name"), event.get("args")
            is_metadata = event.get("ph") == "M"
            if is_metadata and kind == semconv.PROCESS_EVENT and isinstance(args, dict):
                owners[pid] = as_process(args, source.rank)
            process = owners.get(pid) or as_process({"pid": pid}, source.rank)
            if is_metadata and kind == "thread_name" and isinstance(args, dict):
                names[process, event["tid"]] = str(args.get("name"))
            if not is_metadata and (one := as_slice(event, 0)):
                yield process, one


def read_profile(source: Source, problems: list[str]) -> dict[str, Any]:
    """What torch's profiler wrote: an object with `traceEvents`; an empty one where it cannot be read."""
    return next(_read(source.paths[0], _whole, problems), {})


def as_process(said: Mapping[str, Any], rank: int) -> Process:
    """The process that the metadata tells of; the rank in the file's name where it does not."""
    given, pid = said.get("rank"), said.get("pid")
    return Process(
        given if isinstance(given, int) else rank,
        str(said.get("role") or ""),
        str(said.get("host") or ""),
        pid if isinstance(pid, int) else 0,
        str(said.get("run_id") or ""),
    )


def as_slice(event: Event, shift: int) -> Slice | None:
    """The interval of an event (ph X), or the point (any other), moved by `shift`; None without a time."""
    if not _has_time(event):
        return None
    at = event["ts"]
    whole = int(at)  # times a thousand, a float could not hold it
    start = whole * 1000 + round((at - whole) * 1000) + shift
    end = start + max(0, round(event.get("dur", 0) * 1000))
    args = event.get("args")
    if not isinstance(args, dict):
        return Slice(start, end, event, event.get("ph") != "X")
    trace, span, parent = (str(args.get(key) or "") for key in ("trace_id", "span_id", "parent_id"))
    return Slice(start, end, event, event.get("ph") != "X", trace, span, parent)


def _read(
    path: Path, parse: Callable[[Any, Callable[[str, str], None]], Iterator[Event]], problems: list[str]
) -> Iterator[Event]:
    def on_bad(where: str, why: str) -> None:
        problems.append(f"{path}{where}: left out: {why}")

    try:
        with open_bytes(str(path)) as file:
            yield from parse(file, on_bad)
    except (OSError, EOFError, zlib.error) as error:
        problems.append(f"{path}: cannot be read to its end: {error}")


def _line_by_line(file: Any, on_bad: Callable[[str, str], None]) -> Iterator[Event]:
    """An array that nobody closes, a line of events at a time, so that it is legal at any moment."""
    for at, line in enumerate(file, 1):
        try:
            events = orjson.loads(b"[" + line.strip(b"[], \r\n") + b"]")
        except orjson.JSONDecodeError as error:
            torn = not line.endswith(b"\n")
            on_bad(
                f":{at}", "torn: its process died, or is just writing it" if torn else f"not JSON: {error}"
            )
            continue
        for event in events:
            if isinstance(event, dict) and _is_whole(event):
                yield event
            else:
                on_bad(f":{at}", "not an event: expected an object with numbers as pid, tid and ts")


def _is_whole(event: Event) -> bool:
    has_place = isinstance(event.get("pid"), int) and isinstance(event.get("tid"), int)
    return has_place and (event.get("ph") == "M" or _has_time(event))


def _has_time(event: Event) -> bool:
    return isinstance(event.get("ts"), _NUMBER) and isinstance(event.get("dur", 0), _NUMBER)


def _whole(file: Any, on_bad: Callable[[str, str], None]) -> Iterator[Event]:
    try:
        value = orjson.loads(file.read())
    except orjson.JSONDecodeError as error:
        on_bad("", f"not JSON: {error}")
        return
    if isinstance(value, dict) and isinstance(value.get("traceEvents"), list):
        value["traceEvents"] = [event for event in value["traceEvents"] if isinstance(event, dict)]
        yield value
    else:
        on_bad("", 'no profile: expected an object with "traceEvents", as torch.profiler writes it')

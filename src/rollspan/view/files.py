"""From files to records."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import re
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import orjson

from rollspan.fold import fold
from rollspan.otlp_json import read_records, read_spans
from rollspan.record import Record
from rollspan.view.text import safe

_RECORD_FILE = re.compile(r"sessions-r.*\.jsonl(\.\d+)?(\.gz)?")
_LOGS_KEY, _SPANS_KEY = b'"resourceLogs"', b'"resourceSpans"'
_HEAD_BYTES = 65536
_MOST_PROBLEMS = 10


def record_files(directory: Path) -> list[Path]:
    """All files of records in `directory` and below, rotated and packed ones included, sorted by path."""
    found = []
    for folder, _, names in os.walk(directory):
        found += [Path(folder, name) for name in names if _RECORD_FILE.fullmatch(name)]
    return sorted(found)


def load(path: str | Path, problems: list[str] | None = None) -> list[Record]:
    """The records of a file, of all `sessions-r*.jsonl` of a directory and below, or of stdin (`-`).

    A file may hold records, one JSON object a line, or what a Collector wrote as OTLP/JSON lines: record
    events, or spans, which are folded. Which of them is seen from its content, as is gzip. A record whose
    session id came before is dropped, and what AReaL's drop-in wrote of a session of which there is a record. A
    line that is damaged or no record is left out and described in `problems`. Raises FileNotFoundError where
    `path` is not there.
    """
    said: list[str] = []
    if str(path) != "-" and not Path(path).exists():
        raise FileNotFoundError(f"no such file or directory: {path}")
    is_folder = str(path) != "-" and Path(path).is_dir()
    files = record_files(Path(path)) if is_folder else [path]
    records = list(_first_of_each(record for file in files for record in _read(str(file), said)))
    if problems is not None:
        problems += shortened(said)
    return records


def shortened(problems: list[str]) -> list[str]:
    """The first few problems, each safe to print, and how many more there are."""
    more = len(problems) - _MOST_PROBLEMS
    return [safe(problem, 400) for problem in problems[:_MOST_PROBLEMS]] + (
        [f"and {more} more like these"] if more > 0 else []
    )


def _first_of_each(records: Iterable[Record]) -> Iterator[Record]:
    seen: set[tuple[object, object]] = set()
    traces: set[object] = set()
    for record in sorted(records, key=_is_of_areal):
        session_id, trace_id = record.get("session_id"), record.get("trace_id")
        if _is_of_areal(record):
            if trace_id in traces:
                continue
        elif isinstance(session_id, str):
            known_by = (session_id, trace_id)  # callers may give one id in several runs
            if known_by in seen:
                continue
            seen.add(known_by)
        traces.add(trace_id)
        yield record


def _is_of_areal(record: Record) -> bool:
    """Whether it is as the drop-in for AReaL's tracer writes it: a number as its id, and its trace."""
    return isinstance(record.get("session_id"), int) and isinstance(record.get("trace_id"), str)


def _read(name: str, problems: list[str]) -> Iterator[Record]:
    def on_bad(line: int, why: str) -> None:
        problems.append(f"{name}:{line}: left out: {why}")

    try:
        with open_bytes(name) as file:
            head = file.peek(_HEAD_BYTES)
            if _LOGS_KEY in head:
                yield from read_records(file, on_bad)
            elif _SPANS_KEY in head:
                yield from fold(read_spans(file, on_bad))
            else:
                yield from _lines(file, on_bad)
    except (OSError, EOFError, zlib.error) as error:
        problems.append(f"{name}: cannot be read to its end: {error}")


@contextlib.contextmanager
def open_bytes(name: str) -> Iterator[io.BufferedReader]:
    """The file of that name, or stdin for `-`, unpacked where its content begins as gzip does."""
    with contextlib.ExitStack() as stack:
        if name == "-":
            stdin: Any = sys.stdin.buffer  # ours to read, not to close
            file: Any = io.BufferedReader(stdin, _HEAD_BYTES)
            stack.callback(file.detach)
        else:
            file = stack.enter_context(Path(name).open("rb", buffering=_HEAD_BYTES))
        if file.peek(2).startswith(b"\x1f\x8b"):
            packed: Any = stack.enter_context(gzip.GzipFile(fileobj=file))
            file = stack.enter_context(io.BufferedReader(packed, _HEAD_BYTES))
        yield file


def holds_records(file: io.BufferedReader) -> bool:
    """Whether its first line is a record, and no request as a Collector writes them; nothing is read of it."""
    try:
        return _is_record(orjson.loads(file.peek(_HEAD_BYTES).partition(b"\n")[0]))
    except orjson.JSONDecodeError:
        return False


def _is_record(value: object) -> bool:
    return isinstance(value, dict) and "status" in value


def _lines(file: Iterable[bytes], on_bad: Callable[[int, str], None]) -> Iterator[Record]:
    for at, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            value = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            torn = not line.endswith(b"\n")
            on_bad(at, "torn: its process died, or is just writing it" if torn else f"not JSON: {error}")
            continue
        if _is_record(value):
            yield value
        else:
            on_bad(at, 'not a record: expected an object with a "status"')

"""From files to records."""

from __future__ import annotations

import gzip
import os
import re
import sys
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

import orjson

from rollspan.record import Record

_RECORD_FILE = re.compile(r"sessions-r.*\.jsonl(\.\d+)?(\.gz)?")
_LOGS_KEY, _SPANS_KEY = b'"resourceLogs"', b'"resourceSpans"'
_HEAD_BYTES = 65536
_MAX_PROBLEMS = 100


def record_files(directory: Path) -> list[Path]:
    """All files of records in `directory` and below, rotated and packed ones included, sorted by path."""
    found = []
    for folder, _, names in os.walk(directory):
        found += [Path(folder, name) for name in names if _RECORD_FILE.fullmatch(name)]
    return sorted(found)


def load(path: str | Path, problems: list[str] | None = None) -> list[Record]:
    """The records of a file, of all `sessions-r*.jsonl` of a directory and below, or of stdin (`-`).

    A file may hold records, one JSON object a line, or a Collector's record events (OTLP/JSON lines);
    which of them is seen from its content. A record whose session id came before is dropped. A line that
    is damaged or no record is left out and described in `problems`. Raises FileNotFoundError where
    `path` is not there.
    """
    said: list[str] = []
    if str(path) == "-":
        records = list(_lines(sys.stdin.buffer, "-", said))
    elif (path := Path(path)).is_dir():
        records = [record for file in record_files(path) for record in _read(file, said)]
    elif path.exists():
        records = list(_read(path, said))
    else:
        raise FileNotFoundError(f"no such file or directory: {path}")
    if problems is not None:
        more = len(said) - _MAX_PROBLEMS
        problems += said[:_MAX_PROBLEMS] + ([f"and {more} more of the same kind"] if more > 0 else [])
    return list(_first_of_each(records))


def _first_of_each(records: Iterable[Record]) -> Iterator[Record]:
    seen: set[str] = set()
    for record in records:
        session_id = record.get("session_id")
        if isinstance(session_id, str):
            if session_id in seen:
                continue
            seen.add(session_id)
        yield record


def _read(path: Path, problems: list[str]) -> Iterator[Record]:
    try:
        with open_bytes(path) as file:
            head = file.read(_HEAD_BYTES)
        if _LOGS_KEY in head:
            from rollspan.otlp_json import read_records

            with open_bytes(path) as file:
                yield from read_records(
                    file, lambda at, why: problems.append(f"{path}:{at}: left out, {why}")
                )
        elif _SPANS_KEY in head:
            problems.append(
                f"{path}: these are OTLP spans, not records; turn them into records first: "
                f"rollspan fold {path} | rollspan show -"
            )
        else:
            with open_bytes(path) as file:
                yield from _lines(file, str(path), problems)
    except (OSError, EOFError, zlib.error) as error:
        problems.append(f"{path}: cannot be read: {error}")


def open_bytes(path: Path) -> IO[bytes]:
    """`path` for reading, unpacked where its content begins as gzip does."""
    file = path.open("rb")
    packed = file.read(2) == b"\x1f\x8b"
    file.seek(0)
    return gzip.open(file) if packed else file  # type: ignore[return-value]


def _lines(file: Iterable[bytes], name: str, problems: list[str]) -> Iterator[Record]:
    for at, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            value = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            why = str(error) if line.endswith(b"\n") else "torn: its process died, or is just writing it"
            problems.append(f"{name}:{at}: left out, no JSON: {why}")
            continue
        if not isinstance(value, dict) or "status" not in value:
            problems.append(f'{name}:{at}: left out, no record: expected an object with a "status"')
            continue
        yield value

"""What the files of a rank hold already, so that recovery writes no trace twice."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import orjson

from rollspan import health

from .lockedfile import mend
from .ownfile import PERF, RECORDS
from .perf_file import events_of


class KnownIds:
    """Trace ids in all files of one rank, of records and of timed scopes. Asked again, it reads only what has come since.

    Session ids will not do: callers give them, and may give the same ones in every run.
    """

    def __init__(self, rank: int, *directories: Path) -> None:
        self._patterns = [f"{stem}-r{rank}.*{suffix[1:]}" for stem, suffix in (RECORDS, PERF)]
        self._directories = dict.fromkeys(directories)
        self._read_to: dict[tuple[int, int], int] = {}
        self._found: set[Any] = set()

    def now(self) -> set[Any]:
        """All that are there now; lines that are damaged are passed over, those that killed writers left torn cut off."""
        for directory in self._directories:
            for pattern in self._patterns:
                for path in sorted(directory.glob(pattern)):
                    try:
                        mend(path)
                        self._read(path)
                    except OSError as error:
                        health.warn_once("file.unreadable", "rollspan: cannot read %s: %s", path, error)
        return self._found

    def _read(self, path: Path) -> None:
        with path.open("rb") as file:
            about = os.fstat(file.fileno())
            which = about.st_dev, about.st_ino  # names change when a file is full
            at = self._read_to.get(which, 0)
            file.seek(at)
            for line in file:
                if line.endswith(b"\n"):  # else its rest may still come
                    at += len(line)
                self._found |= _trace_ids(line)
            self._read_to[which] = at


def _trace_ids(line: bytes) -> set[Any]:
    try:
        if line.endswith(b",\n"):
            return {event["args"].get("trace_id") for event in events_of(line)}
        return {orjson.loads(line)["trace_id"]}
    except (ValueError, TypeError, KeyError):
        return set()

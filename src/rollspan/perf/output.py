"""The file that is written: a Chrome trace, its clock, and the numbers and names of its tracks."""

from __future__ import annotations

import itertools
from typing import Any, BinaryIO

import orjson

from rollspan import __version__


class Output:
    """A Chrome trace that is written event by event; `end` makes it whole.

    Numbers of processes and threads are given out here, each once: hosts share the real ones, and Perfetto
    takes two threads of one number for the same.
    """

    def __init__(self, file: BinaryIO, origin: int) -> None:
        self._file, self._origin, self._separator = file, origin, b"\n"
        self._numbers = itertools.count(1)
        other = {"made by": f"rollspan {__version__}", "epoch_ns_at_0": str(origin)}
        head = orjson.dumps({"displayTimeUnit": "ms", "otherData": other})
        file.write(head[:-1] + b',"traceEvents":[')

    def event(self, event: dict[str, Any], start: int, end: int | None = None) -> None:
        """Write an event with its time, in nanoseconds since the epoch."""
        event["ts"] = (start - self._origin) / 1000
        if end is not None:
            event["dur"] = (end - start) / 1000
        self._write(event)

    def end(self) -> None:
        """Write what comes after the last event."""
        self._file.write(b"\n]}\n")

    def number(self) -> int:
        """A number that nothing else in the file has."""
        return next(self._numbers)

    def process(self, name: str, sort_index: int) -> int:
        """The number of a new process of that name."""
        pid = self.number()
        self._name("process", pid, pid, name, sort_index)
        return pid

    def thread(self, pid: int, name: str) -> int:
        """The number of a new thread of a process; threads are shown in the order in which they are made."""
        tid = self.number()
        self._name("thread", pid, tid, name, tid)
        return tid

    def _name(self, what: str, pid: int, tid: int, name: str, sort_index: int) -> None:
        for kind, args in (("name", {"name": name}), ("sort_index", {"sort_index": sort_index})):
            self._write({"name": f"{what}_{kind}", "ph": "M", "pid": pid, "tid": tid, "args": args})

    def _write(self, event: dict[str, Any]) -> None:
        self._file.write(self._separator + orjson.dumps(event))
        self._separator = b",\n"

"""The file of timed scopes, `perf-r<rank>.json`: a Chrome trace, which Perfetto and chrome://tracing open as it is.

It is the format's JSON array, whose last bracket may be missing: `[` in the first line, then a line of events for each
trace, with a comma behind it. Times are microseconds of the epoch.
Source: "Trace Event Format", section "JSON Array Format".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import orjson

from rollspan import semconv
from rollspan.finished import FinishedTrace
from rollspan.spandata import AttributeValue, SpanData

from .ownfile import PERF, OwnFile

_BEGIN: Final = b"[\n"
_STEP: Final = "step"
_MISC: Final = "misc"
_AS_FIELDS: Final = frozenset(
    {semconv.CATEGORY, semconv.INSTANT, semconv.THREAD_ID, semconv.THREAD_NAME, semconv.PHASE}
)


class PerfFile(OwnFile):
    """A part of the exporter `file`."""

    def __init__(self, directory: Path, rank: int, *, mode: int = 0o600, max_bytes: int = 0) -> None:
        """See `OwnFile`."""
        super().__init__(directory, rank, PERF, mode=mode, max_bytes=max_bytes)
        self._rank = rank
        self._told: AttributeValue | None = None  # the process whose name stands in the file

    def write(self, traces: Sequence[FinishedTrace], resource: Mapping[str, AttributeValue]) -> None:
        """Append the scopes of `traces`. Raises OSError, and then nothing of them was written."""
        pid = _int(resource.get(semconv.PROCESS_ID))
        text = b"".join(_line(events) for trace in traces if (events := list(_events(trace, pid))))
        if not text:
            return
        file = self.ready(len(text))
        begin = b"" if file.size() else _BEGIN
        instance = resource.get(semconv.INSTANCE_ID)
        if begin or instance != self._told:
            begin += _line(_process(resource, pid, self._rank))
        file.append(begin + text)
        self._told = instance


def events_of(line: bytes) -> list[dict[str, Any]]:
    """The events of a line, none for the first one. Raises ValueError for what is no such line, or a torn one."""
    if line == _BEGIN:
        return []
    found = orjson.loads(b"[%b]" % line.rstrip().rstrip(b","))
    if not all(isinstance(event, dict) and isinstance(event.get("args"), dict) for event in found):
        raise ValueError("expected Chrome trace events, each with args")
    return found  # type: ignore[no-any-return]


def _line(events: Sequence[Mapping[str, Any]]) -> bytes:
    return b",".join(map(orjson.dumps, events)) + b",\n"


def _process(resource: Mapping[str, AttributeValue], pid: int, rank: int) -> list[dict[str, Any]]:
    role = resource.get(semconv.ROLE)
    about = {
        "host": resource.get("host.name"),
        "pid": pid,
        "rank": rank,
        "role": role,
        "run_id": resource.get(semconv.RUN_ID),
        "instance": resource.get(semconv.INSTANCE_ID),
    }
    said = {
        "process_name": {"name": f"rank {rank}" + (f" {role}" if role else "")},
        "process_sort_index": {"sort_index": rank},
        semconv.PROCESS_EVENT: {key: value for key, value in about.items() if value is not None},
    }
    return [{"name": name, "ph": "M", "pid": pid, "tid": 0, "args": args} for name, args in said.items()]


def _events(trace: FinishedTrace, pid: int) -> Iterator[dict[str, Any]]:
    root = trace.spans[0]
    threads: dict[int, str] = {}
    for span in trace.spans:
        if span is root and span.name == semconv.PROCESS_NAME:
            continue
        said = span.attributes
        thread = _int(said.get(semconv.THREAD_ID))
        threads.setdefault(thread, str(said.get(semconv.THREAD_NAME, "")))
        yield _event(span, pid, thread, said)
    for thread, name in threads.items():
        if name:
            yield {"name": "thread_name", "ph": "M", "pid": pid, "tid": thread, "args": {"name": name}}


def _event(span: SpanData, pid: int, thread: int, said: Mapping[str, AttributeValue]) -> dict[str, Any]:
    is_step = not span.parent_id
    event: dict[str, Any] = {
        "name": f"{_STEP} {said.get(semconv.STEP, '')}".rstrip() if is_step else span.name,
        "cat": _STEP if is_step else said.get(semconv.CATEGORY, _MISC),
        "pid": pid,
        "tid": thread,
        "ts": span.start_ns / 1000,
    }
    event |= (
        {"ph": "i", "s": "t"}
        if said.get(semconv.INSTANT)
        else {"ph": "X", "dur": (span.end_ns - span.start_ns) / 1000}
    )
    args = {key: value for key, value in said.items() if key not in _AS_FIELDS}
    args |= {"trace_id": f"{span.trace_id:032x}", "span_id": f"{span.span_id:016x}"}
    if span.parent_id:
        args["parent_id"] = f"{span.parent_id:016x}"
    if span.status_message:
        args["error"] = span.status_message
    event["args"] = args
    return event


def _int(value: object) -> int:
    return value if type(value) is int else 0

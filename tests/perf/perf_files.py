"""Files of scopes as a run leaves them."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import orjson

BEGIN = 1_760_000_000.0
Event = dict[str, Any]


def a_process(
    pid: int = 10,
    rank: int = 0,
    role: str = "trainer",
    host: str = "a",
    threads: dict[int, str] | None = None,
    run: str = "run",
) -> list[Event]:
    """The metadata that a process begins with."""
    said = {"host": host, "pid": pid, "rank": rank, "role": role, "run_id": run, "instance": "uuid"}
    names = {pid: "MainThread"} if threads is None else threads
    return [
        {"name": "process_name", "ph": "M", "pid": pid, "tid": 0, "args": {"name": f"rank {rank} {role}"}},
        {"name": "process_sort_index", "ph": "M", "pid": pid, "tid": 0, "args": {"sort_index": rank}},
        {"name": "rollspan_process", "ph": "M", "pid": pid, "tid": 0, "args": said},
        *(
            {"name": "thread_name", "ph": "M", "pid": pid, "tid": tid, "args": {"name": name}}
            for tid, name in names.items()
        ),
    ]


def a_scope(
    name: str,
    start: float,
    length: float,
    span: int,
    parent: int = 0,
    *,
    trace: int = 1,
    pid: int = 10,
    tid: int | None = None,
    cat: str = "compute",
    **args: Any,
) -> Event:
    """A scope; times are seconds, from `BEGIN` on."""
    ids = {"trace_id": f"{trace:032x}", "span_id": f"{span:016x}"}
    if parent:
        ids["parent_id"] = f"{parent:016x}"
    when = {"ts": (BEGIN + start) * 1e6, "dur": length * 1e6}
    place = {"pid": pid, "tid": pid if tid is None else tid}
    return {"name": name, "cat": cat, "ph": "X", **when, **place, "args": {**args, **ids}}


def a_step(number: int, start: float, length: float, span: int, **more: Any) -> Event:
    """A trainer's step."""
    args = {"cat": "step", **more, "rollout.step": number}
    return a_scope(f"step {number}", start, length, span, **args)


def an_instant(name: str, at: float, span: int, parent: int = 0, **more: Any) -> Event:
    """An event without a length."""
    event = {**a_scope(name, at, 0, span, parent, **more), "ph": "i", "s": "t"}
    del event["dur"]
    return event


def write_perf(path: Path, *lines: list[Event]) -> Path:
    """Write such a file: an array that is never closed, a line for each of `lines`."""
    text = b"[\n" + b"".join(b",".join(map(orjson.dumps, line)) + b",\n" for line in lines)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path

"""Timed scopes as AReaL's tracer writes them: Chrome events, whose times begin with the tracer."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any, Final

from rollspan import semconv
from rollspan.finished import FinishedTrace
from rollspan.spandata import AttributeValue, SpanData

_NO_ARGUMENTS: Final = frozenset(
    {
        semconv.CATEGORY,
        semconv.INSTANT,
        semconv.THREAD_ID,
        semconv.THREAD_NAME,
        semconv.PHASE,
        semconv.PARENT_PHASE,
        semconv.SESSION_ID,
        semconv.ERROR_TYPE,
    }
)


class ChromeEvents:
    """Of one process and those that it forks. Names of processes and threads come before their first event."""

    kind = "scopes"

    def __init__(self, rank: int, role: str | None, origin_ns: int | None = None) -> None:
        self.who: dict[str, Any] = {"rank": rank} | ({"role": role} if role is not None else {})
        self._process = (f"[{role}] " if role is not None else "") + f"Rank {rank}, Process"
        self.begin(origin_ns)

    def begin(self, origin_ns: int | None = None) -> None:
        """The times of what comes are counted from there, or from now."""
        self.origin_ns = time.time_ns() if origin_ns is None else origin_ns
        self.renew()

    def renew(self) -> None:
        """Nothing of it has been written: names come anew."""
        self._named: set[tuple[int, int]] = set()

    def about(self) -> dict[str, Any]:
        """What makes another one like it."""
        return {"rank": self.who["rank"], "role": self.who.get("role"), "origin_ns": self.origin_ns}

    def of(self, trace: FinishedTrace, resource: Mapping[str, AttributeValue]) -> Iterator[Mapping[str, Any]]:
        """Those of a trace: of whatever has a category, in a step, in a session, or in neither."""
        pid = int(resource.get(semconv.PROCESS_ID) or 0)  # type: ignore[arg-type]
        for span in trace.spans:
            if semconv.CATEGORY in span.attributes:
                tid = int(span.attributes.get(semconv.THREAD_ID) or 0)  # type: ignore[arg-type]
                yield from self._names(pid, tid, str(span.attributes.get(semconv.THREAD_NAME, "")))
                yield self._event(span, pid, tid)

    def _names(self, pid: int, tid: int, thread: str) -> Iterator[Mapping[str, Any]]:
        # AReaL's converter takes names of those alone that say their rank.
        if (pid, -1) not in self._named:
            self._named.add((pid, -1))
            yield _meta("process_name", pid, name=self._process, **self.who)
            yield _meta("process_sort_index", pid, sort_index=self.who["rank"], **self.who)
        if (pid, tid) not in self._named:
            self._named.add((pid, tid))
            yield {**_meta("thread_name", pid, name=thread or f"Thread {tid}", **self.who), "tid": tid}

    def _event(self, span: SpanData, pid: int, tid: int) -> Mapping[str, Any]:
        said = span.attributes
        args = {key: value for key, value in said.items() if key not in _NO_ARGUMENTS}
        if semconv.ERROR_TYPE in said:
            args.setdefault("exception", str(said[semconv.ERROR_TYPE]).rpartition(".")[2])
        # The way to its trace, in whatever shows those.
        args |= {**self.who, "trace_id": f"{span.trace_id:032x}", "span_id": f"{span.span_id:016x}"}
        event = {"name": span.name, "ts": max((span.start_ns - self.origin_ns) // 1000, 0)}
        if said.get(semconv.INSTANT):
            event |= {"ph": "i", "s": "t"}
        else:
            event |= {"ph": "X", "dur": max((span.end_ns - span.start_ns) // 1000, 1)}
        return event | {"pid": pid, "tid": tid, "cat": said[semconv.CATEGORY], "args": args}


def _meta(event: str, pid: int, **args: Any) -> dict[str, Any]:
    return {"name": event, "ph": "M", "pid": pid, "args": args}

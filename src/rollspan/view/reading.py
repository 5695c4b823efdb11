"""Reading records: the few that were asked for, and what a record says about its session.

Files of records are also written by others, so nothing here trusts the type of a field.
"""

from __future__ import annotations

from collections.abc import Iterable

from rollspan import semconv
from rollspan.record import Record
from rollspan.view.text import finite, number, safe


def find(records: Iterable[Record], wanted: str) -> list[Record]:
    """The records whose session or trace id is `wanted`; where none is, those whose id begins with it.

    A number also finds the sessions of that `request_id`, where no id fits.
    """
    wanted = wanted.strip()
    exact, begins, numbered = [], [], []
    for record in records:
        ids = [value for key in ("session_id", "trace_id") if isinstance(value := record.get(key), str)]
        if wanted in ids:
            exact.append(record)
        elif wanted and any(value.startswith(wanted) for value in ids):
            begins.append(record)
        elif str(record.get("request_id")) == wanted:
            numbered.append(record)
    return exact or begins or numbered


def slowest(records: Iterable[Record], n: int) -> list[Record]:
    """The `n` records with the largest total time, the slowest first."""
    return sorted(records, key=total, reverse=True)[: max(0, n)]


def total(record: Record) -> float:
    """Seconds from the submission to the end; derived where `total_s` is absent, never negative."""
    if (value := number(record, "total_s")) is not None:
        return max(0.0, value)
    start = submitted(record)
    ends = [end for spans in intervals(record).values() for _, end in spans if end is not None]
    ends += [value for key in ("enqueue_ts", "wait_return_ts") if (value := number(record, key)) is not None]
    return max(0.0, max(ends, default=start) - start)


def submitted(record: Record) -> float:
    """Epoch seconds of the submission; derived where `submit_ts` is absent."""
    if (value := number(record, "submit_ts")) is not None:
        return value
    starts = [start for spans in intervals(record).values() for start, _ in spans]
    return min(starts, default=number(record, "enqueue_ts") or 0.0)


def intervals(record: Record) -> dict[str, list[tuple[float, float | None]]]:
    """`phases` as {name: [(start, end or None while open)]}, without what is no interval."""
    phases = record.get("phases")
    if not isinstance(phases, dict):
        return {}
    result: dict[str, list[tuple[float, float | None]]] = {}
    for name, spans in phases.items():
        for span in spans if isinstance(spans, list) else ():
            start = finite(span.get("start_ts")) if isinstance(span, dict) else None
            if start is None:
                continue
            end = finite(span.get("end_ts"))
            result.setdefault(str(name), []).append((start, None if end is None else max(start, end)))
    return result


def label(record: Record, width: int = 36) -> str:
    """How a record is called among others: its session id, else rank and request id."""
    if (session_id := record.get("session_id")) is not None:
        return safe(session_id, width)
    return safe(f"request {record.get('request_id', '?')} of rank {record.get('rank', '?')}", width)


def verdict(record: Record) -> tuple[str, str]:
    """Status and reason; the reason is empty where there is none."""
    reason = record.get("rejection_reason")
    return str(record.get("status", semconv.PENDING)), "" if reason is None else str(reason)

"""A usual session's spans and event as protobuf bytes, from the rows of its lines and its record.

The same bytes as `span_bytes` makes of the same session, without making the spans. What sessions have in
common is remembered as ready bytes; the numbers of a record, most of which are durations, are written in one go.
"""

from __future__ import annotations

import struct
from binascii import unhexlify
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from itertools import groupby
from operator import itemgetter
from typing import Any, Final, TypeAlias

from rollspan import ids, semconv
from rollspan.attributes import MAX_SPAN_ATTRIBUTES
from rollspan.record import event_attributes, root_name
from rollspan.rows import SessionRows, with_record
from rollspan.spandata import KIND_INTERNAL, FinishedTrace

from .keyvalues import HOLE, LOG_ATTRIBUTES, SPAN_ATTRIBUTES, Attributes, remember, varint, with_holes
from .span_bytes import (
    SPAN_END,
    SPAN_FLAGS,
    SPAN_START,
    event_around,
    event_ids,
    link_bytes,
    name_and_kind,
    span_times,
    status_and_message,
)

_root_ids: Final = struct.Struct(">H16sHQ").pack
_row_ids: Final = struct.Struct(">H16sHQHQ").pack
_TRACE_ID, _SPAN_ID, _PARENT_ID = 0x0A10, 0x1208, 0x2208  # each a tag and a length
_LOG_TRACE_ID, _LOG_SPAN_ID = 0x4A10, 0x5208

_MOST_REMEMBERED: Final = 64  # intervals: how longer sessions go on is seldom met again


def spans_of_rows(trace: FinishedTrace) -> list[bytes] | None:
    """The spans, root first, each behind its tag in pieces; None for a session that is not as usual."""
    if trace.rows is None or trace.record is None:
        return None
    try:
        return _spans(trace.rows, trace.record)
    except (OverflowError, struct.error, IndexError, TypeError):  # a number that OTLP cannot hold
        return None


def _spans(session: SessionRows, record: dict[str, Any]) -> list[bytes]:
    trace_hex, attributes, links, start, end, code, message, rows, parent_names = session
    trace_id = unhexlify(trace_hex)
    refs = [0, *[row[0] for row in rows]]
    span_ids = dict(zip(refs, ids.derived_span_ids(int(trace_hex, 16), refs), strict=True))
    fields = [
        _root_ids(_TRACE_ID, trace_id, _SPAN_ID, span_ids[0]),
        name_and_kind(semconv.ROOT_NAME, KIND_INTERNAL),
        span_times(SPAN_START, start, SPAN_END, end),
        _root_attributes(attributes, record),
        *map(link_bytes, links),
    ]
    if code or message:
        fields.append(status_and_message(code, message))
    fields.append(SPAN_FLAGS)
    body = b"".join(fields)
    spans = [b"\x12", varint(len(body)), body]
    encode = SPAN_ATTRIBUTES.encode
    session_id = encode(((semconv.SESSION_ID, attributes[semconv.SESSION_ID]),))
    for row, parent_name in zip(rows, parent_names, strict=True):
        ref, parent, name, kind, begun, ended, extra, code, message = row
        named, phases = _named.get((name, kind, parent_name)) or _learn_named(name, kind, parent_name)
        fields = [
            _row_ids(_TRACE_ID, trace_id, _SPAN_ID, span_ids[ref], _PARENT_ID, span_ids[parent]),
            named,
            span_times(SPAN_START, begun, SPAN_END, ended),
            session_id,
            phases,
            encode(extra.items()) if extra else b"",
            status_and_message(code, message) if code or message else b"",
            SPAN_FLAGS,
        ]
        body = b"".join(fields)
        spans += b"\x12", varint(len(body)), body
    return spans


_named: dict[tuple[str, int, str], tuple[bytes, bytes]] = {}


def _learn_named(name: str, kind: int, parent_name: str) -> tuple[bytes, bytes]:
    pairs = ((semconv.PHASE, name), (semconv.PARENT_PHASE, parent_name))
    encoded = name_and_kind(name, kind), SPAN_ATTRIBUTES.encode(pairs)
    return remember(_named, (name, kind, parent_name), encoded)


def _root_attributes(attributes: Mapping[str, Any], record: dict[str, Any]) -> bytes:
    """The root's own attributes, and what it repeats of its record."""
    on_root = _on_root(tuple(record))
    if len(attributes) + len(on_root.keys) > MAX_SPAN_ATTRIBUTES or not on_root.keys.isdisjoint(attributes):
        return SPAN_ATTRIBUTES.encode(with_record(attributes, record).items())
    return SPAN_ATTRIBUTES.encode(attributes.items()) + on_root.encode(record)


def event_of_rows(trace: FinishedTrace) -> bytes | None:
    """The record's event, behind its tag; None for a session that is not as usual."""
    session, record = trace.rows, trace.record
    if session is None or record is None:
        return None
    if "counters" in record:  # whose names decide how they stand there
        attributes = LOG_ATTRIBUTES.encode(event_attributes(record).items())
    else:
        attributes = _in_event(tuple(record)).encode(record)
    trace_hex = session.trace_hex
    (span_id,) = ids.derived_span_ids(int(trace_hex, 16), (0,))
    of_root = event_ids(_LOG_TRACE_ID, unhexlify(trace_hex), _LOG_SPAN_ID, span_id)
    return event_around(attributes, of_root, session.end, sampled=trace.export_spans)


class _Layout:
    """How the records that have the same fields are written: most numbers together, the rest one by one."""

    def __init__(self, to: Attributes, keys: Mapping[str, str]) -> None:
        """`keys`: by field, the attribute's."""
        self.keys = frozenset(keys.values())
        self._steps: list[Callable[[Mapping[str, Any]], bytes]] = []
        for step, run in groupby(keys, _step):
            fields = list(run)
            self._steps.append(step(to, fields, [keys[field] for field in fields]))

    def encode(self, record: Mapping[str, Any]) -> bytes:
        return b"".join([step(record) for step in self._steps])


@lru_cache(maxsize=1024)
def _on_root(fields: tuple[str, ...]) -> _Layout:
    keys = {field: key for field in fields if (key := root_name(field)) is not None}
    return _Layout(SPAN_ATTRIBUTES, keys)


@lru_cache(maxsize=1024)
def _in_event(fields: tuple[str, ...]) -> _Layout:
    return _Layout(LOG_ATTRIBUTES, {field: field for field in fields})


_Step: TypeAlias = Callable[[Mapping[str, Any]], bytes]


def _step(field: str) -> Callable[[Attributes, Sequence[str], Sequence[str]], _Step]:
    """What writes such a field, and those of its kind beside it."""
    if field.endswith(("_s", "_ts")):
        return _doubles
    return {"phases": _phases, "rollout_stats": _dotted, "links": _dotted}.get(field, _others)


def _doubles(to: Attributes, fields: Sequence[str], keys: Sequence[str]) -> _Step:
    fill, values = with_holes(to.encode([(key, HOLE) for key in keys])), _values(fields)
    return lambda record: fill(values(record))


def _others(to: Attributes, fields: Sequence[str], keys: Sequence[str]) -> _Step:
    values = _values(fields)
    return lambda record: to.encode(zip(keys, values(record), strict=True))


def _values(fields: Sequence[str]) -> Callable[[Mapping[str, Any]], tuple[Any, ...]]:
    if len(fields) == 1:
        (field,) = fields
        return lambda record: (record[field],)
    return itemgetter(*fields)


def _dotted(to: Attributes, fields: Sequence[str], keys: Sequence[str]) -> _Step:
    def write(record: Mapping[str, Any]) -> bytes:
        return to.encode(
            (f"{field}.{name}", number) for field in fields for name, number in record[field].items()
        )

    return write


def _phases(to: Attributes, fields: Sequence[str], keys: Sequence[str]) -> _Step:
    def write(record: Mapping[str, Any]) -> bytes:
        phases = record["phases"]
        counts = tuple(map(len, phases.values()))
        if sum(counts) > _MOST_REMEMBERED:
            return to.encode((("phases", phases),))
        stamps = [stamp for intervals in phases.values() for each in intervals for stamp in each.values()]
        return _intervals(tuple(phases), counts)(stamps)

    return write


@lru_cache(maxsize=256)
def _intervals(names: tuple[str, ...], counts: tuple[int, ...]) -> Callable[[Sequence[float]], bytes]:
    interval = {"start_ts": HOLE, "end_ts": HOLE}
    phases = {name: [interval] * count for name, count in zip(names, counts, strict=True)}
    return with_holes(LOG_ATTRIBUTES.encode((("phases", phases),)))

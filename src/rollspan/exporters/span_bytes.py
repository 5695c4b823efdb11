"""One span, or one record's event, as protobuf bytes, from the plain form.

Fields go out in the order of their numbers, as protobuf's own serialiser writes them, so equal input gives
equal bytes. The names of tags are those of opentelemetry-proto 1.x.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any, Final

from rollspan import semconv
from rollspan.finished import FinishedTrace
from rollspan.record import event_attributes
from rollspan.spandata import Link, SpanData

from .keyvalues import (
    LINK_ATTRIBUTES,
    LOG_ATTRIBUTES,
    SPAN_ATTRIBUTES,
    field,
    remember,
    text_of,
    utf8,
    varint,
)

_UINT64: Final = (1 << 64) - 1

_SAMPLED: Final = 1
_SEVERITY_INFO: Final = 9

span_times: Final = struct.Struct("<BQBQ").pack
_fixed64: Final = struct.Struct("<BQ").pack

SPAN_START, SPAN_END = 0x39, 0x41
SPAN_FLAGS: Final = b"\x85\x01" + struct.pack("<I", _SAMPLED)  # field 16, whose tag takes two bytes
_LOG_TIME, _LOG_OBSERVED = 0x09, 0x59
_LOG_FLAGS: Final = b"\x45" + struct.pack("<I", _SAMPLED)
_LOG_SEVERITY: Final = bytes((0x10, _SEVERITY_INFO))


_names: dict[tuple[str, int], bytes] = {}


def name_and_kind(name: str, kind: int) -> bytes:
    """Both fields of a span."""
    known = _names.get((name, kind))
    if known is None:
        # A zero is what a field without a value means, so it is left out.
        encoded = field(b"\x2a", utf8(name)) + (b"\x30" + varint(kind) if kind else b"")
        known = remember(_names, (name, kind), encoded)
    return known


def status_and_message(status: int, message: str) -> bytes:
    """A span's status, for one that has any."""
    said = field(b"\x12", utf8(message)) if message else b""
    return field(b"\x7a", said + b"\x18" + varint(status) if status else said)


def span_bytes(span: SpanData) -> bytes:
    """The span, behind its tag."""
    try:
        return field(b"\x12", span_body(span))
    except (OverflowError, struct.error, IndexError, TypeError):
        return field(b"\x12", span_body(_within_bounds(span)))


def span_body(span: SpanData) -> bytes:
    """The span. Raises for a number that OTLP cannot hold."""
    trace_id, span_id, parent_id, name, kind, start, end, attributes, status, message, links = span
    fields = [
        b"\x0a\x10",
        trace_id.to_bytes(16, "big"),
        b"\x12\x08",
        span_id.to_bytes(8, "big"),
        b"\x22\x08" + parent_id.to_bytes(8, "big") if parent_id else b"",
        name_and_kind(name, kind),
        span_times(SPAN_START, start, SPAN_END, end),
        SPAN_ATTRIBUTES.encode(attributes.items()),
        *map(link_bytes, links),
    ]
    if status or message:
        fields.append(status_and_message(status, message))
    fields.append(SPAN_FLAGS)
    return b"".join(fields)


def link_bytes(link: Link) -> bytes:
    """The link, behind its tag."""
    ids = b"\x0a\x10" + link.trace_id.to_bytes(16, "big") + b"\x12\x08" + link.span_id.to_bytes(8, "big")
    return field(b"\x6a", ids + LINK_ATTRIBUTES.encode(link.attributes.items()))


def _within(number: Any, bits: int) -> int:
    """A number that fits: ids are cut to their bits, anything else than a number is 0."""
    return int(number) & ((1 << bits) - 1) if isinstance(number, int) else 0


def _moment(number: Any) -> int:
    return min(max(int(number), 0), _UINT64) if isinstance(number, int) else 0


def _within_bounds(span: SpanData) -> SpanData:
    """The span with every number that OTLP cannot hold brought within its bounds."""
    return SpanData(
        _within(span.trace_id, 128),
        _within(span.span_id, 64),
        _within(span.parent_id, 64),
        text_of(span.name),
        _within(span.kind, 31),
        _moment(span.start_ns),
        _moment(span.end_ns),
        span.attributes,
        _within(span.status, 31),
        text_of(span.status_message),
        [Link(_within(k.trace_id, 128), _within(k.span_id, 64), k.attributes) for k in span.links],
    )


def event_bytes(trace: FinishedTrace) -> bytes:
    """The event of a trace with a record, behind its tag."""
    record = trace.record
    assert record is not None
    ids, end = b"", 0
    if trace.spans:
        root = trace.spans[0]
        if not (
            0 <= root.trace_id < 1 << 128 and 0 <= root.span_id <= _UINT64 and 0 <= root.end_ns <= _UINT64
        ):
            root = _within_bounds(root)
        ids = log_ids(root.trace_id.to_bytes(16, "big"), root.span_id)
        end = root.end_ns
    end = end or _end_of(record)
    attributes = LOG_ATTRIBUTES.encode(event_attributes(record).items())
    return field(b"\x12", event_body(attributes, ids, end, sampled=trace.export_spans))


def log_ids(trace_id: bytes, span_id: int) -> bytes:
    """What points from an event to its session's root."""
    return b"\x4a\x10" + trace_id + b"\x52\x08" + span_id.to_bytes(8, "big")


def event_body(attributes: bytes, ids: bytes, end: int, *, sampled: bool) -> bytes:
    """The event with these attributes."""
    flags = _LOG_FLAGS if sampled else b""
    # The moment of observation would differ in a repetition, so it is that of the event itself.
    first, last = (_fixed64(_LOG_TIME, end), _fixed64(_LOG_OBSERVED, end)) if end else (b"", b"")
    return b"".join((first, _LOG_SEVERITY, attributes, flags, ids, last, _EVENT_NAME))


_EVENT_NAME: Final = field(b"\x62", semconv.RECORD_EVENT_NAME.encode())


def _end_of(record: Mapping[str, Any]) -> int:
    """End of a record's session in nanoseconds, for one that has come without its spans."""
    try:
        return _moment(round((record["submit_ts"] + record["total_s"]) * 1e9))
    except (KeyError, TypeError, ValueError, OverflowError):
        return 0

"""Batches as OTLP protobuf bytes, written by hand: ten times cheaper than through message objects.

`row_bytes` writes the usual session from the rows of its lines, `span_bytes` anything, and both the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

from rollspan import __version__, semconv
from rollspan.spandata import AttributeValue, FinishedTrace

from .keyvalues import OTHER_ATTRIBUTES, field, varint
from .row_bytes import event_of_rows, spans_of_rows
from .span_bytes import event_bytes, span_bytes


def encode_spans(traces: Sequence[FinishedTrace], resource: Mapping[str, AttributeValue]) -> bytes:
    """An ExportTraceServiceRequest with the spans of the traces that export theirs; empty without any."""
    spans: list[bytes] = []
    for trace in traces:
        if trace.export_spans:
            spans += spans_of_rows(trace) or map(span_bytes, trace.spans)
    return _request(spans, resource) if spans else b""


def encode_records(traces: Sequence[FinishedTrace], resource: Mapping[str, AttributeValue]) -> bytes:
    """An ExportLogsServiceRequest with the event of each trace that has a record; empty without any."""
    events: list[bytes] = []
    for trace in traces:
        if trace.record is not None:
            events.append(event_of_rows(trace) or event_bytes(trace, trace.record))
    return _request(events, resource) if events else b""


def _request(items: list[bytes], resource: Mapping[str, AttributeValue]) -> bytes:
    # Both requests have one frame: (1: (1: resource, 2: (1: scope, 2: items)))
    scope = _scope()
    size = sum(map(len, items))
    before = b"\x12" + varint(len(scope) + size) + scope
    described = field(b"\x0a", OTHER_ATTRIBUTES.encode(resource.items()))
    size += len(described) + len(before)
    return b"".join((b"\x0a", varint(size), described, before, *items))


@cache
def _scope() -> bytes:
    name, version = semconv.SCOPE_NAME.encode(), __version__.encode()
    return field(b"\x0a", field(b"\x0a", name) + field(b"\x12", version))

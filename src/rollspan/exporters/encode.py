"""Batches as OTLP protobuf bytes, written by hand: ten times cheaper than through message objects.

`span_bytes` writes anything, `shape_bytes` the same for sessions of a shape that was met before.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache

from rollspan import __version__, semconv
from rollspan.finished import FinishedTrace
from rollspan.shapes import Shape
from rollspan.spandata import AttributeValue

from .keyvalues import OTHER_ATTRIBUTES, field, varint
from .shape_bytes import Writer, event_writer, spans_writer
from .span_bytes import event_bytes, span_bytes


def encode_spans(traces: Sequence[FinishedTrace], resource: Mapping[str, AttributeValue]) -> bytes:
    """An ExportTraceServiceRequest with the spans of the traces that export theirs; empty without any."""
    exported = (trace for trace in traces if trace.export_spans)
    spans = _written(exported, spans_writer, lambda trace: b"".join(map(span_bytes, trace.spans)))
    return _request(spans, resource) if any(spans) else b""


def encode_records(traces: Sequence[FinishedTrace], resource: Mapping[str, AttributeValue]) -> bytes:
    """An ExportLogsServiceRequest with the event of each trace that has a record; empty without any."""
    events = _written((trace for trace in traces if trace.has_record), event_writer, event_bytes)
    return _request(events, resource) if events else b""


def _written(
    traces: Iterable[FinishedTrace],
    writer_of: Callable[[Shape], Writer | None],
    long_way: Callable[[FinishedTrace], bytes],
) -> list[bytes]:
    written: list[bytes] = []
    shape: Shape | None = None
    write: Writer | None = None
    for trace in traces:
        if trace.shape is not shape:
            shape = trace.shape
            write = None if shape is None else writer_of(shape)
        if write is not None:
            try:
                written.append(write(*trace.values))
                continue
            except struct.error:
                pass
        written.append(long_way(trace))
    return written


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

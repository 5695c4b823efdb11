"""A session's spans as its lines have them, for as long as nobody asks for more.

Most sessions go out as bytes that the OTLP exporters write straight from here, so their spans are never made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, NamedTuple

from . import ids, semconv
from .attributes import MAX_SPAN_ATTRIBUTES
from .record import Record, root_attributes
from .shapes import Shape
from .spandata import KIND_INTERNAL, Link, SpanData

Row = Sequence[Any]
"""[ref, parent ref, name, kind, start, end, attributes, status, message], see `lines`."""


class SessionRows(NamedTuple):
    """The spans of a usual session: the root's fields, and a row for each of the others.

    `parent_names` has for each row the name of the phase around it; `shape` is there where sessions like this one
    were met before. Nothing of it is changed later.
    """

    trace_hex: bytes
    attributes: Mapping[str, Any]
    links: Sequence[Link]
    start: int
    end: int
    status: int
    message: str
    rows: Sequence[Row]
    parent_names: Sequence[str]
    shape: Shape | None

    def spans(self, record: Record) -> list[SpanData]:
        """All of it in the one plain form, root first; the root repeats what stands in `record`."""
        trace_hex, attributes, links, start, end, code, message, rows, parent_names, _ = self
        trace = int(trace_hex, 16)
        root_id = ids.derived_span_id(trace, 0)
        on_root = with_record(attributes, record)
        root = (
            trace,
            root_id,
            0,
            semconv.ROOT_NAME,
            KIND_INTERNAL,
            start,
            end,
            on_root,
            code,
            message,
            links,
        )
        spans = [_span_data(root)]
        session_id = attributes[semconv.SESSION_ID]
        span_ids = {row[0]: ids.derived_span_id(trace, row[0]) for row in rows}
        span_ids[0] = root_id
        for row, parent_name in zip(rows, parent_names, strict=True):
            ref, parent, name, kind, begun, ended, extra, code, message = row
            common = {
                semconv.SESSION_ID: session_id,
                semconv.PHASE: name,
                semconv.PARENT_PHASE: parent_name,
                **extra,
            }
            span = (
                trace,
                span_ids[ref],
                span_ids[parent],
                name,
                kind,
                begun,
                ended,
                common,
                code,
                message,
                (),
            )
            spans.append(_span_data(span))
        return spans


# A named tuple's own constructor is a function in Python.
_span_data: Final[Callable[[tuple[Any, ...]], SpanData]] = partial(tuple.__new__, SpanData)


def with_record(attributes: Mapping[str, Any], record: Record) -> dict[str, Any]:
    """The root's attributes and what the session came to."""
    room = max(MAX_SPAN_ATTRIBUTES, len(attributes))
    whole = {**attributes, **root_attributes(record)}
    while len(whole) > room:  # dozens of phases: their durations stand in the record and on their spans
        whole.popitem()
    return whole

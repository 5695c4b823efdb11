"""The one plain form of a finished span that everything after the journal reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

Scalar: TypeAlias = str | bool | int | float
AttributeValue: TypeAlias = Scalar | Sequence[Scalar]

# OTLP's numbers for kind and status (opentelemetry-proto, trace.proto).
KIND_INTERNAL, KIND_SERVER, KIND_CLIENT, KIND_PRODUCER, KIND_CONSUMER = 1, 2, 3, 4, 5
STATUS_UNSET, STATUS_OK, STATUS_ERROR = 0, 1, 2


class Link(NamedTuple):
    """A span's link to a span of another trace."""

    trace_id: int
    span_id: int
    attributes: Mapping[str, AttributeValue]


class SpanData(NamedTuple):
    """A finished span: ids as integers, times in epoch nanoseconds, OTLP's enum numbers.

    `parent_id` is 0 for a root. Attribute values are already fit for OTLP (see `attributes`).
    """

    trace_id: int
    span_id: int
    parent_id: int
    name: str
    kind: int
    start_ns: int
    end_ns: int
    attributes: Mapping[str, AttributeValue]
    status: int = STATUS_UNSET
    status_message: str = ""
    links: Sequence[Link] = ()

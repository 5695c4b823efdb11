"""The one plain form of a finished span that everything after the journal reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from .rows import SessionRows

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


class FinishedTrace:
    """What the worker hands to the exporters: one session (or one step) that is over.

    `spans` has the root first. `record` is the flat record of a session and None for a step.
    `export_spans` is False where the spans leave another way (a user's own TracerProvider) or the
    sampler left the trace out; the record goes out all the same. `rows` are the spans of a usual session as
    its lines have them, from which `spans` are made for whoever asks.
    """

    __slots__ = ("_spans", "export_spans", "record", "rows")

    def __init__(
        self,
        spans: Sequence[SpanData] | None,
        record: dict[str, Any] | None,
        export_spans: bool = True,
        rows: SessionRows | None = None,
    ) -> None:
        self._spans = spans
        self.record = record
        self.export_spans = export_spans
        self.rows = rows

    @property
    def spans(self) -> Sequence[SpanData]:
        if self._spans is None:  # two exporters' threads may both make them: they are equal
            assert self.rows is not None
            assert self.record is not None
            self._spans = self.rows.spans(self.record)
        return self._spans

    @property
    def span_count(self) -> int:
        """How many spans there are, without making them."""
        return len(self.spans) if self.rows is None else 1 + len(self.rows.starts)

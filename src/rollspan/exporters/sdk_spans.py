"""Finished traces as the SDK's own objects, for exporters that take nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from rollspan import __version__, semconv
from rollspan.finished import FinishedTrace
from rollspan.spandata import (
    KIND_CLIENT,
    KIND_CONSUMER,
    KIND_INTERNAL,
    KIND_PRODUCER,
    KIND_SERVER,
    STATUS_ERROR,
    STATUS_OK,
    STATUS_UNSET,
    AttributeValue,
    SpanData,
)

_KINDS: Final = {
    KIND_INTERNAL: SpanKind.INTERNAL,
    KIND_SERVER: SpanKind.SERVER,
    KIND_CLIENT: SpanKind.CLIENT,
    KIND_PRODUCER: SpanKind.PRODUCER,
    KIND_CONSUMER: SpanKind.CONSUMER,
}
_STATUSES: Final = {STATUS_UNSET: StatusCode.UNSET, STATUS_OK: StatusCode.OK, STATUS_ERROR: StatusCode.ERROR}
SAMPLED: Final = TraceFlags(TraceFlags.SAMPLED)


def scope() -> InstrumentationScope:
    """Who made the spans and records."""
    return InstrumentationScope(semconv.SCOPE_NAME, __version__)


def sdk_spans(traces: Sequence[FinishedTrace], resource: Mapping[str, AttributeValue]) -> list[ReadableSpan]:
    """The spans of the traces that export theirs, with exact times and ids."""
    described, by = Resource(dict(resource)), scope()
    return [_span(span, described, by) for trace in traces if trace.export_spans for span in trace.spans]


def context_of(trace_id: int, span_id: int, flags: TraceFlags = SAMPLED) -> SpanContext:
    """The context of a span of this process."""
    return SpanContext(trace_id, span_id, is_remote=False, trace_flags=flags)


def _span(span: SpanData, resource: Resource, by: InstrumentationScope) -> ReadableSpan:
    code = _STATUSES.get(span.status, StatusCode.UNSET)
    return ReadableSpan(
        name=span.name,
        context=context_of(span.trace_id, span.span_id),
        parent=context_of(span.trace_id, span.parent_id) if span.parent_id else None,
        resource=resource,
        attributes=dict(span.attributes),
        links=[Link(context_of(k.trace_id, k.span_id), dict(k.attributes)) for k in span.links],
        kind=_KINDS.get(span.kind, SpanKind.INTERNAL),
        # A description belongs to an error alone; the SDK warns about any other.
        status=Status(code, span.status_message or None if code is StatusCode.ERROR else None),
        start_time=span.start_ns,
        end_time=span.end_ns,
        instrumentation_scope=by,
    )

"""Records as the SDK's log records: the one module that knows OpenTelemetry's underscored logs API."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk._logs.export import LogRecordExporter, LogRecordExportResult
from opentelemetry.sdk.resources import Resource
from opentelemetry.trace import NonRecordingSpan, TraceFlags, set_span_in_context

from rollspan import semconv
from rollspan.finished import FinishedTrace
from rollspan.record import event_attributes
from rollspan.spandata import AttributeValue

from .sdk_spans import SAMPLED, context_of, scope

__all__ = ["LogRecordExportResult", "LogRecordExporter", "sdk_logs"]


def sdk_logs(
    traces: Sequence[FinishedTrace], resource: Mapping[str, AttributeValue]
) -> list[ReadableLogRecord]:
    """The event of each trace that has a record, the same as `encode_records` writes."""
    described, by = Resource(dict(resource)), scope()
    return [
        ReadableLogRecord(_event(trace, record), described, by)
        for trace in traces
        if (record := trace.record) is not None and trace.spans
    ]


def _event(trace: FinishedTrace, record: dict[str, Any]) -> LogRecord:
    root = trace.spans[0]
    flags = SAMPLED if trace.export_spans else TraceFlags(TraceFlags.DEFAULT)
    context = context_of(root.trace_id, root.span_id, flags)
    return LogRecord(
        timestamp=root.end_ns,
        observed_timestamp=root.end_ns,
        context=set_span_in_context(NonRecordingSpan(context)),
        severity_number=SeverityNumber.INFO,
        event_name=semconv.RECORD_EVENT_NAME,
        attributes=event_attributes(record),
    )

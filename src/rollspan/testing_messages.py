"""OTLP requests, as protobuf parses them, as plain dicts that a test can compare."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

REQUESTS: dict[str, Any] = {
    "traces": ExportTraceServiceRequest,
    "logs": ExportLogsServiceRequest,
    "metrics": ExportMetricsServiceRequest,
}
_RESPONSES: dict[str, tuple[Any, str]] = {
    "traces": (ExportTraceServiceResponse, "rejected_spans"),
    "logs": (ExportLogsServiceResponse, "rejected_log_records"),
    "metrics": (ExportMetricsServiceResponse, "rejected_data_points"),
}


def response(signal: str, rejected: int, message: str) -> bytes:
    """The body of a success; like the Collector's, it always holds a partial_success, even an empty one."""
    made, field = _RESPONSES[signal]
    answer = made()
    answer.partial_success.SetInParent()
    setattr(answer.partial_success, field, rejected)
    answer.partial_success.error_message = message
    return bytes(answer.SerializeToString())


def plain(value: Any) -> Any:
    """The Python value of an AnyValue."""
    kind = value.WhichOneof("value")
    if kind is None:
        return None
    if kind == "array_value":
        return [plain(item) for item in value.array_value.values]
    if kind == "kvlist_value":
        return attributes(value.kvlist_value.values)
    return getattr(value, kind)


def attributes(pairs: Iterable[Any]) -> dict[str, Any]:
    """The dict that a list of KeyValues is."""
    return {pair.key: plain(pair.value) for pair in pairs}


def spans(request: Any) -> Iterator[dict[str, Any]]:
    """Each span of a trace request: ids in hex ("" for none), times in epoch nanoseconds, OTLP's enum numbers."""
    for group in request.resource_spans:
        resource = attributes(group.resource.attributes)
        for scoped in group.scope_spans:
            for span in scoped.spans:
                yield {
                    "trace_id": span.trace_id.hex(),
                    "span_id": span.span_id.hex(),
                    "parent_id": span.parent_span_id.hex(),
                    "name": span.name,
                    "kind": span.kind,
                    "start_ns": span.start_time_unix_nano,
                    "end_ns": span.end_time_unix_nano,
                    "attributes": attributes(span.attributes),
                    "links": [
                        {
                            "trace_id": link.trace_id.hex(),
                            "span_id": link.span_id.hex(),
                            "attributes": attributes(link.attributes),
                        }
                        for link in span.links
                    ],
                    "status": span.status.code,
                    "status_message": span.status.message,
                    "resource": resource,
                    "scope": scoped.scope.name,
                }


def logs(request: Any) -> Iterator[dict[str, Any]]:
    """Each log record of a request: ids in hex, times in epoch nanoseconds."""
    for group in request.resource_logs:
        resource = attributes(group.resource.attributes)
        for scoped in group.scope_logs:
            for log in scoped.log_records:
                yield {
                    "event_name": log.event_name,
                    "time_ns": log.time_unix_nano,
                    "observed_ns": log.observed_time_unix_nano,
                    "severity": log.severity_number,
                    "trace_id": log.trace_id.hex(),
                    "span_id": log.span_id.hex(),
                    "flags": log.flags,
                    "body": plain(log.body),
                    "attributes": attributes(log.attributes),
                    "resource": resource,
                    "scope": scoped.scope.name,
                }


def metrics(request: Any) -> Iterator[dict[str, Any]]:
    """Each data point of a request: `value`, or for histograms `count`, `sum`, `min` and `max`."""
    for group in request.resource_metrics:
        resource = attributes(group.resource.attributes)
        for scoped in group.scope_metrics:
            for metric in scoped.metrics:
                kind = metric.WhichOneof("data")
                for point in getattr(metric, kind).data_points:
                    made = {
                        "name": metric.name,
                        "unit": metric.unit,
                        "kind": kind,
                        "attributes": attributes(point.attributes),
                        "resource": resource,
                        "scope": scoped.scope.name,
                    }
                    if kind in ("sum", "gauge"):
                        made["value"] = getattr(point, point.WhichOneof("value"))
                    else:
                        made.update(count=point.count, sum=point.sum, min=point.min, max=point.max)
                    yield made

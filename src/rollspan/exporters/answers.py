"""What an OTLP endpoint answers, over HTTP or gRPC, in the worker's words."""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Mapping
from datetime import timezone
from email.utils import parsedate_to_datetime
from importlib import import_module
from math import isfinite
from typing import Any, Final, NamedTuple, TypeAlias

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from .base import Delivered, Refused, Result, Retry


class TooLarge(NamedTuple):
    """The request is larger than the other end takes: send it in parts."""

    reason: str


Answer: TypeAlias = Result | TooLarge

_DECODE_ERROR: Final[type[Exception]] = import_module("google.protobuf.message").DecodeError  # untyped

_RESPONSES: Final[Mapping[str, tuple[Any, str]]] = {
    "traces": (ExportTraceServiceResponse, "rejected_spans"),
    "logs": (ExportLogsServiceResponse, "rejected_log_records"),
    "metrics": (ExportMetricsServiceResponse, "rejected_data_points"),
}
_TRANSIENT: Final = frozenset({429, 502, 503, 504})  # by OTLP's specification, which says: and no other
_SIZE: Final = re.compile(r"larger than max|exceeds? (the )?max", re.IGNORECASE)
_LONGEST: Final = 300

RETRYABLE_CODES: Final = frozenset(
    {
        "CANCELLED",
        "DEADLINE_EXCEEDED",
        "RESOURCE_EXHAUSTED",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNAVAILABLE",
        "DATA_LOSS",
    }
)


def of_http(signal: str, status: int, reason: str, headers: Mapping[str, str], body: bytes) -> Answer:
    """The meaning of an HTTP answer."""
    if 200 <= status < 300:
        return of_success(signal, body)
    said = f"HTTP {status} {reason}".strip()
    if text := _text(body):
        said = f"{said}: {text}"
    if status in _TRANSIENT:
        return Retry(said, retry_after(headers.get("retry-after") or headers.get("Retry-After")))
    if status == 413:
        return TooLarge(said)
    if 300 <= status < 400:
        where = headers.get("location") or headers.get("Location") or "elsewhere"
        return Refused(f"{said}: redirected to {where}, which OTLP exporters do not follow")
    return Refused(said, unsupported=status == 404)


def of_grpc(
    code: str, details: str, trailers: Mapping[str, Any], retryable: Collection[str] = RETRYABLE_CODES
) -> Answer:
    """The meaning of a gRPC status other than OK; `code` is its name."""
    said = f"gRPC {code}: {details[:_LONGEST]}" if details else f"gRPC {code}"
    if code == "RESOURCE_EXHAUSTED" and _SIZE.search(details):
        return TooLarge(said)
    if code in retryable:
        return Retry(said, _retry_delay(trailers))
    return Refused(said, unsupported=code == "UNIMPLEMENTED")


def of_success(signal: str, body: bytes) -> Delivered:
    """Delivered, with what a partial success says was rejected."""
    made, field = _RESPONSES[signal]
    try:
        partial = made.FromString(body).partial_success
    except (
        _DECODE_ERROR
    ):  # a success all the same, from something that is no OTLP receiver through and through
        return Delivered()
    return Delivered(max(getattr(partial, field), 0), partial.error_message[:_LONGEST])


def retry_after(value: str | None) -> float | None:
    """Seconds that a Retry-After header asks for, be it a number or a date."""
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            moment = parsedate_to_datetime(value)
        except (TypeError, ValueError):
            return None
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=timezone.utc)
        seconds = moment.timestamp() - time.time()
    return max(seconds, 0.0) if isfinite(seconds) else None


def _retry_delay(trailers: Mapping[str, Any]) -> float | None:
    """Seconds of a RetryInfo, in the standard status details or under the name that the stock exporter reads."""
    info = import_module("google.rpc.error_details_pb2").RetryInfo()
    try:
        if raw := trailers.get("google.rpc.retryinfo-bin"):
            info.ParseFromString(raw)
        elif raw := trailers.get("grpc-status-details-bin"):
            details = import_module("google.rpc.status_pb2").Status.FromString(raw).details
            if not any(detail.Unpack(info) for detail in details):
                return None
        else:
            return None
    except (_DECODE_ERROR, TypeError):
        return None
    delay: float = info.retry_delay.ToNanoseconds() / 1e9
    return max(delay, 0.0)


def _text(body: bytes) -> str:
    """What an error's body says, where that is text: a protobuf Status is the usual other thing."""
    try:
        text = body[: 4 * _LONGEST].decode()
    except UnicodeDecodeError:
        return ""
    line = " ".join(text.split())
    return line[:_LONGEST] if line.isprintable() else ""

"""Spans and records in OTLP/JSON lines, as the Collector's file exporter writes them.

One export request a line. Ids are hex, 64-bit integers stand as strings, a double such as 5.0 as `5`,
an empty list as `{}`. Repeated spans are left in: `fold` takes each once.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import orjson

from . import semconv
from .record import Record, event_attributes, from_event_attributes
from .spandata import AttributeValue, Link, SpanData

OnBad = Callable[[int, str], object]
"""Is told the number of a damaged line, from 1, and what is wrong with it."""

_TRACES, _LOGS = "resourceSpans", "resourceLogs"
_REQUESTS: Final = frozenset({_TRACES, _LOGS, "resourceMetrics", "resourceProfiles"})
_NAMED: Final = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_ERRORS = (ValueError, TypeError, KeyError, AttributeError, OverflowError)


def read_spans(lines: Iterable[str | bytes], on_bad: OnBad | None = None) -> Iterator[SpanData]:
    """All spans of all trace requests among `lines`; requests of other signals are passed over.

    What is damaged is reported to `on_bad` and skipped: a span, or a line. Where a torn line and a whole
    one were glued together (a Collector that was killed does that), the whole one is read.
    """
    for number, group in _groups(lines, _TRACES, "scopeSpans", "spans", on_bad):
        for raw in group:
            try:
                span = _span(raw)
            except _ERRORS as error:
                _report(on_bad, number, f"not a span: {_say(error)}")
            else:
                yield span


def read_records(lines: Iterable[str | bytes], on_bad: OnBad | None = None) -> Iterator[Record]:
    """The records among the log events of `lines`, each trace's once: deliveries may repeat."""
    seen: set[str] = set()
    for number, group in _groups(lines, _LOGS, "scopeLogs", "logRecords", on_bad):
        for raw in group:
            try:
                if raw.get("eventName") != semconv.RECORD_EVENT_NAME:
                    continue
                record = from_event_attributes(_attributes(raw))
                trace_id: str = record["trace_id"]
                repeated = trace_id in seen
            except _ERRORS as error:
                _report(on_bad, number, f"not a record's event: {_say(error)}")
                continue
            if not repeated:
                seen.add(trace_id)
                yield record


def write_spans(spans: Iterable[SpanData], resource: Mapping[str, AttributeValue]) -> bytes:
    """One trace request with all of `spans` as a line of OTLP/JSON, newline included.

    Raises `orjson.JSONEncodeError` for a string with a lone surrogate, which OTLP cannot carry.
    """
    scope_spans = {"scope": {"name": semconv.SCOPE_NAME}, "spans": [_plain_span(span) for span in spans]}
    request = {
        _TRACES: [{"resource": {"attributes": _plain_attributes(resource)}, "scopeSpans": [scope_spans]}]
    }
    return orjson.dumps(request, option=orjson.OPT_APPEND_NEWLINE)


def write_records(records: Iterable[Record], resource: Mapping[str, AttributeValue]) -> bytes:
    """One logs request with the records' events as a line of OTLP/JSON, newline included."""
    events = [
        {
            "timeUnixNano": str(round((record["submit_ts"] + record["total_s"]) * 1e9)),
            "traceId": record["trace_id"],
            "eventName": semconv.RECORD_EVENT_NAME,
            "body": {},
            "attributes": _plain_attributes(event_attributes(record)),
        }
        for record in records
    ]
    scope_logs = {"scope": {"name": semconv.SCOPE_NAME}, "logRecords": events}
    request = {_LOGS: [{"resource": {"attributes": _plain_attributes(resource)}, "scopeLogs": [scope_logs]}]}
    return orjson.dumps(request, option=orjson.OPT_APPEND_NEWLINE)


# Reading


def _groups(
    lines: Iterable[str | bytes], signal: str, scopes: str, items: str, on_bad: OnBad | None
) -> Iterator[tuple[int, Sequence[Any]]]:
    """Number of the line and one scope's items of `signal`."""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        request = _request(line, number, on_bad)
        if request is None:
            continue
        try:
            groups = [
                _list(scope, items)
                for resource in _list(request, signal)
                for scope in _list(resource, scopes)
            ]
        except _ERRORS as error:
            _report(on_bad, number, f"not an OTLP request: {_say(error)}")
            continue
        for group in groups:
            yield number, group


def _request(line: str | bytes, number: int, on_bad: OnBad | None) -> Mapping[str, Any] | None:
    try:
        request = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        _report(on_bad, number, f"not JSON: {error}")
        return _glued(line.encode("utf-8", "replace") if isinstance(line, str) else line)
    if not isinstance(request, dict):
        _report(on_bad, number, f"expected an OTLP request, got a JSON {type(request).__name__}")
        return None
    if request and _REQUESTS.isdisjoint(request):
        keys = ", ".join(list(request)[:4])
        _report(on_bad, number, f"expected an OTLP request with {_TRACES} or {_LOGS}, got one with {keys}")
        return None
    return request


def _glued(line: bytes) -> Mapping[str, Any] | None:
    """The last request on a line whose beginning is torn."""
    at = max(line.rfind(b'{"%b":' % signal.encode()) for signal in _REQUESTS)
    if at <= 0:
        return None
    try:
        request = orjson.loads(line[at:])
    except orjson.JSONDecodeError:
        return None
    return request if isinstance(request, dict) else None


def _span(raw: Mapping[str, Any]) -> SpanData:
    status = raw.get("status") or {}
    parent = raw.get("parentSpanId")
    return SpanData(
        _id(raw["traceId"], 32),
        _id(raw["spanId"], 16),
        _id(parent, 16) if parent and parent.strip("0") else 0,
        _text(raw.get("name", "")),
        _int(raw.get("kind", 0)),
        _nanoseconds(raw.get("startTimeUnixNano", 0)),
        _nanoseconds(raw.get("endTimeUnixNano", 0)),
        _attributes(raw),
        _int(status.get("code", 0)),
        _text(status.get("message", "")),
        tuple(
            Link(_id(link["traceId"], 32), _id(link["spanId"], 16), _attributes(link))
            for link in _list(raw, "links")
        ),
    )


def _list(holder: Mapping[str, Any], key: str) -> list[Any]:
    value = holder.get(key)
    if value is None:
        return []
    if not isinstance(value, list):
        raise ValueError(f"{key} is a {type(value).__name__}, expected a list")
    return value


def _id(value: Any, digits: int) -> int:
    if not isinstance(value, str) or len(value) != digits or not value.isalnum():
        raise ValueError(f"id {value!r:.80}, expected {digits} hex digits")
    number = int(value, 16)
    if not number:
        raise ValueError("an id of zeros only")
    return number


def _int(value: Any) -> int:
    if type(value) is int or (type(value) is str and value.isascii()):
        return int(value)
    if type(value) is float and value.is_integer():
        return int(value)
    raise ValueError(f"{value!r:.80} is not an integer")


def _nanoseconds(value: Any) -> int:
    number = _int(value)
    if not 0 <= number < 1 << 64:
        raise ValueError(f"{number} is not a time in nanoseconds of 64 bits")
    return number


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r:.80} is not a string")
    return value


def _attributes(holder: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes by name; one without a value is left out."""
    return {
        _text(item["key"]): value
        for item in _list(holder, "attributes")
        if (value := _value(item.get("value") or {})) is not None
    }


def _value(raw: Mapping[str, Any]) -> Any:
    """An OTLP value by the key that tells its type; None where it has none."""
    for kind, value in raw.items():
        if kind == "stringValue":
            return _text(value)
        if kind == "intValue":
            return _int(value)
        if kind == "doubleValue":
            return _double(value)
        if kind == "boolValue":
            if not isinstance(value, bool):
                raise ValueError(f"{value!r:.80} is not a boolean")
            return value
        if kind == "arrayValue":
            return [_value(item) for item in _list(value, "values")]
        if kind == "kvlistValue":
            return {_text(item["key"]): _value(item.get("value") or {}) for item in _list(value, "values")}
        if kind == "bytesValue":
            return base64.b64decode(value, validate=True)
    return None


def _double(value: Any) -> float:
    if isinstance(value, str):
        return _NAMED[value] if value in _NAMED else float(value)
    if isinstance(value, bool):
        raise ValueError("a boolean is not a number")
    return float(value)


def _report(on_bad: OnBad | None, number: int, reason: str) -> None:
    if on_bad is not None:
        on_bad(number, reason)


def _say(error: Exception) -> str:
    return f"{error} is missing" if isinstance(error, KeyError) else str(error)


# Writing


def _plain_span(span: SpanData) -> dict[str, Any]:
    plain: dict[str, Any] = {"traceId": f"{span.trace_id:032x}", "spanId": f"{span.span_id:016x}"}
    if span.parent_id:
        plain["parentSpanId"] = f"{span.parent_id:016x}"
    plain["name"] = span.name
    plain["kind"] = span.kind
    plain["startTimeUnixNano"] = str(span.start_ns)
    plain["endTimeUnixNano"] = str(span.end_ns)
    plain["attributes"] = _plain_attributes(span.attributes)
    if span.links:
        plain["links"] = [
            {
                "traceId": f"{link.trace_id:032x}",
                "spanId": f"{link.span_id:016x}",
                "attributes": _plain_attributes(link.attributes),
            }
            for link in span.links
        ]
    status: dict[str, Any] = {}
    if span.status_message:
        status["message"] = span.status_message
    if span.status:
        status["code"] = span.status
    plain["status"] = status
    return plain


def _plain_attributes(attributes: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"key": name, "value": _plain_value(value)} for name, value in attributes.items()]


def _plain_value(value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        return {"stringValue": value}
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}
    if isinstance(value, float):
        if math.isfinite(value):
            return {"doubleValue": value}
        return {"doubleValue": "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"}
    if isinstance(value, bytes):
        return {"bytesValue": base64.b64encode(value).decode()}
    if isinstance(value, Mapping):
        return {"kvlistValue": {"values": _plain_attributes(value)} if value else {}}
    if isinstance(value, Sequence):
        return {"arrayValue": {"values": [_plain_value(item) for item in value]} if value else {}}
    return {}

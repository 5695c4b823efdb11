"""OTLP: traces as spans, records as log events. Loads no network library before the first batch."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from rollspan import health
from rollspan.finished import FinishedTrace
from rollspan.spandata import AttributeValue

from .base import Delivered, Refused, Result, Retry
from .encode import encode_records, encode_spans

if TYPE_CHECKING:
    from .transport import Transport

DEFAULT_PROTOCOL: Final = "http/protobuf"
PROTOCOLS: Final = (DEFAULT_PROTOCOL, "grpc")
MAX_REQUEST_BYTES: Final = 4_000_000
"""Uncompressed; a larger batch is sent in parts. gRPC servers take 4 MiB unless told otherwise."""


def protocol_of(signal: str) -> str:
    """The protocol that the environment asks for; a wrong word is reported once and the default used."""
    for variable in (f"OTEL_EXPORTER_OTLP_{signal.upper()}_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        word = os.environ.get(variable, "").strip()
        if word in PROTOCOLS:
            return word
        if word:
            health.warn_once(
                f"setting.{variable}",
                "rollspan: %s=%r: expected one of %s; using %s",
                variable,
                word,
                ", ".join(PROTOCOLS),
                DEFAULT_PROTOCOL,
            )
            return DEFAULT_PROTOCOL
    return DEFAULT_PROTOCOL


def open_transport(signal: str, protocol: str, endpoint: str | None) -> Transport:
    """The way of `protocol` to the endpoint of `signal`; connects to nothing yet."""
    from .transport import WAYS  # noqa: PLC0415 - loads OpenTelemetry's protobuf classes

    return WAYS[protocol](signal, endpoint)


def timeout_of(signal: str) -> float:
    """Seconds that the environment gives a request of `signal`; 0 where it says nothing of use."""
    for name in (f"OTEL_EXPORTER_OTLP_{signal.upper()}_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT"):
        if text := os.environ.get(name, "").strip():
            try:
                return float(text)
            except ValueError:  # the official exporter says what is wrong with it
                return 0.0
    return 0.0


class _OtlpExporter:
    """One attempt a call, in as many requests as the size asks for, all within one deadline."""

    name = "otlp"
    _signal = ""

    def __init__(self, *, protocol: str | None = None, endpoint: str | None = None) -> None:
        """`protocol`: one of PROTOCOLS, by default what the environment says.

        `endpoint` goes before the environment: for HTTP a base address, to which /v1/<signal> is added.
        """
        if protocol is not None and protocol not in PROTOCOLS:
            raise ValueError(f"protocol is {protocol!r}, expected one of {', '.join(PROTOCOLS)}")
        self._protocol = protocol
        self._endpoint = endpoint
        self.timeout = timeout_of(self._signal)
        self._transport: Transport | None = None

    def export(
        self, traces: Sequence[FinishedTrace], resource: Mapping[str, AttributeValue], timeout: float
    ) -> Result:
        """See Exporter. `rejected` counts spans, or records."""
        deadline = time.monotonic() + timeout
        parts = [self._relevant(traces)]
        delivered, rejected = False, 0
        refusal = Refused("")
        while parts:
            part = parts.pop()
            if not part:
                continue
            data = self._encode(part, resource)
            if len(data) > MAX_REQUEST_BYTES and (halves := self._halves(part)):
                parts += halves
                continue
            left = deadline - time.monotonic()
            if left <= 0:
                return Retry(f"not all of it was sent within {timeout:.3g} s")
            answer = self._send(data, part, resource, left)
            if isinstance(answer, Retry):
                return answer
            if isinstance(answer, Delivered):
                delivered = True
                if answer.rejected:
                    rejected, refusal = rejected + answer.rejected, Refused(answer.reason)
                continue
            if isinstance(answer, Refused):
                if answer.unsupported:
                    return answer
            elif halves := self._halves(part):
                parts += halves
                continue
            rejected, refusal = rejected + self._count(part), Refused(answer.reason)
        if delivered or not rejected:
            return Delivered(rejected, refusal.reason)
        return refusal

    def close(self, timeout: float = 10.0) -> None:
        """Let go of connections; a later export makes new ones."""
        if self._transport is not None:
            self._transport.close()
            self._transport = None

    def abandon(self) -> None:
        """See Exporter. Connections stay as they are: to close the parent's may hang."""

    def _send(
        self, data: bytes, part: list[FinishedTrace], resource: Mapping[str, AttributeValue], timeout: float
    ) -> Any:
        if self._transport is None:
            protocol = self._protocol or protocol_of(self._signal)
            self._transport = open_transport(self._signal, protocol, self._endpoint)
        return self._transport.send(data, lambda: self._objects(part, resource), timeout)

    def _relevant(self, traces: Sequence[FinishedTrace]) -> list[FinishedTrace]:
        raise NotImplementedError

    def _encode(self, traces: list[FinishedTrace], resource: Mapping[str, AttributeValue]) -> bytes:
        raise NotImplementedError

    def _objects(self, traces: list[FinishedTrace], resource: Mapping[str, AttributeValue]) -> Any:
        raise NotImplementedError

    def _count(self, traces: list[FinishedTrace]) -> int:
        raise NotImplementedError

    def _halves(self, traces: list[FinishedTrace]) -> list[list[FinishedTrace]]:
        """The second half and the first, in the order in which a stack wants them; empty for what is indivisible."""
        middle = len(traces) // 2
        return [traces[middle:], traces[:middle]] if middle else []


class TraceExporter(_OtlpExporter):
    """Sends the spans of the traces that export theirs."""

    name = "otlp.traces"
    _signal = "traces"

    def _relevant(self, traces: Sequence[FinishedTrace]) -> list[FinishedTrace]:
        return [trace for trace in traces if trace.export_spans and trace.span_count]

    def _encode(self, traces: list[FinishedTrace], resource: Mapping[str, AttributeValue]) -> bytes:
        return encode_spans(traces, resource)

    def _objects(self, traces: list[FinishedTrace], resource: Mapping[str, AttributeValue]) -> Any:
        from .sdk_spans import sdk_spans  # noqa: PLC0415 - loads the SDK

        return sdk_spans(traces, resource)

    def _count(self, traces: list[FinishedTrace]) -> int:
        return sum(trace.span_count for trace in traces)

    def _halves(self, traces: list[FinishedTrace]) -> list[list[FinishedTrace]]:
        if len(traces) == 1 and traces[0].span_count > 1:
            (trace,) = traces
            middle = len(trace.spans) // 2
            halves = (trace.spans[middle:], trace.spans[:middle])
            return [[FinishedTrace(half, trace.record)] for half in halves]
        return super()._halves(traces)


class RecordExporter(_OtlpExporter):
    """Sends each record as a log event."""

    name = "otlp.records"
    _signal = "logs"

    def _relevant(self, traces: Sequence[FinishedTrace]) -> list[FinishedTrace]:
        return [trace for trace in traces if trace.has_record]

    def _encode(self, traces: list[FinishedTrace], resource: Mapping[str, AttributeValue]) -> bytes:
        return encode_records(traces, resource)

    def _objects(self, traces: list[FinishedTrace], resource: Mapping[str, AttributeValue]) -> Any:
        from .sdk_logs import sdk_logs  # noqa: PLC0415 - loads the SDK

        return sdk_logs(traces, resource)

    def _count(self, traces: list[FinishedTrace]) -> int:
        return len(traces)

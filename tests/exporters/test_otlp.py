"""OTLP over HTTP and gRPC to a real receiver: what arrives, and in how many requests."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from rollspan.exporters import otlp
from rollspan.exporters.base import Delivered, Refused, Retry
from rollspan.exporters.encode import encode_records, encode_spans
from rollspan.exporters.otlp import RecordExporter, TraceExporter
from rollspan.finished import FinishedTrace
from rollspan.testing_receiver import Answer, OtlpReceiver

from .samples import KINDS, RESOURCE, changed, endpoint, send, session


def test_spans_and_records_arrive(receiver: OtlpReceiver, protocol: str) -> None:
    """What goes in comes out at the receiver, over both protocols."""
    traces = [session(n) for n in range(3)]
    for kind in KINDS.values():
        made = kind(protocol=protocol, endpoint=endpoint(receiver, protocol))
        assert send(made, traces) == Delivered()
    assert receiver.records() == [trace.record for trace in traces]
    assert [span["span_id"] for span in receiver.spans()] == [
        f"{span.span_id:016x}" for trace in traces for span in trace.spans
    ]
    assert receiver.spans()[0]["resource"] == RESOURCE
    assert receiver.logs()[0]["trace_id"] == receiver.spans()[0]["trace_id"]


def test_a_repetition_is_the_same_to_the_byte(receiver: OtlpReceiver, exporter: Any, signal: str) -> None:
    """After a refusal for the moment, exactly the same bytes are sent, also by another exporter object."""
    receiver.answer(Answer(status=503, code="UNAVAILABLE"), times=1)
    traces = [session(1), session(2)]
    assert isinstance(exporter.export(traces, RESOURCE, 5.0), Retry)
    assert send(exporter, traces) == Delivered()
    first, second = receiver.bodies(signal)
    assert first == second == (encode_spans if signal == "traces" else encode_records)(traces, RESOURCE)


def test_nothing_to_send_makes_no_request(receiver: OtlpReceiver, exporter: Any, signal: str) -> None:
    """A batch without anything for this signal is delivered without a connection."""
    trace = changed(session(), export_spans=False)
    assert send(exporter, [trace if signal == "traces" else changed(trace, record=None)]) == Delivered()
    assert receiver.requests == []


def test_a_large_batch_goes_in_parts(
    receiver: OtlpReceiver, exporter: Any, signal: str, monkeypatch: Any
) -> None:
    """No request exceeds the bound, and everything arrives once."""
    monkeypatch.setattr(otlp, "MAX_REQUEST_BYTES", 5000)
    traces = [session(n) for n in range(40)]
    assert send(exporter, traces) == Delivered()
    assert len(receiver.requests) > 4
    assert max(map(len, receiver.bodies(signal))) <= 5000
    items = receiver.spans() if signal == "traces" else receiver.logs()
    assert len(items) == (160 if signal == "traces" else 40)
    trace_ids = [item["trace_id"] for item in items]
    assert trace_ids == sorted(trace_ids)


def test_one_huge_trace_goes_in_parts_of_its_spans(receiver: OtlpReceiver) -> None:
    """A session larger than gRPC's 4 MiB is sent by its spans."""
    root = session().spans[0]
    spans = [root._replace(span_id=n + 1, attributes={"text": "x" * 100_000}) for n in range(60)]
    exporter = TraceExporter(protocol="grpc", endpoint=receiver.grpc_endpoint)
    assert send(exporter, [FinishedTrace(spans, None)]) == Delivered()
    assert len(receiver.spans()) == 60
    assert len(receiver.requests) == 2


def test_what_the_server_finds_too_large_is_halved(receiver: OtlpReceiver, monkeypatch: Any) -> None:
    """gRPC's own refusal of a large message, and HTTP's 413, make smaller requests."""
    monkeypatch.setattr(otlp, "MAX_REQUEST_BYTES", 100_000_000)
    big = changed(
        session(),
        spans=[
            session().spans[0]._replace(span_id=n + 1, attributes={"text": "x" * 100_000}) for n in range(60)
        ],
    )
    assert send(TraceExporter(protocol="grpc", endpoint=receiver.grpc_endpoint), [big]) == Delivered()
    assert len(receiver.spans()) == 60
    receiver.answer(Answer(status=413), times=1)
    assert send(RecordExporter(endpoint=receiver.endpoint), [session(1), session(2)]) == Delivered()
    assert len(receiver.records()) == 2


def test_what_cannot_be_made_smaller_is_lost_alone(receiver: OtlpReceiver) -> None:
    """An item that is too large by itself is refused, the others of its batch arrive."""
    receiver.answer(Answer(status=413), times=2)
    answer = send(RecordExporter(endpoint=receiver.endpoint), [session(1), session(2)])
    assert answer == Delivered(1, "HTTP 413 Request Entity Too Large")
    receiver.answer(Answer(status=413))
    assert isinstance(send(RecordExporter(endpoint=receiver.endpoint), [session(1)]), Refused)


def test_building_an_exporter_loads_no_network_library() -> None:
    """Neither requests nor gRPC nor OpenTelemetry is imported before the first batch."""
    source = (
        "import sys\n"
        "from rollspan.exporters.otlp import RecordExporter, TraceExporter\n"
        "TraceExporter(); RecordExporter(protocol='grpc')\n"
        "print([m for m in sys.modules if m.split('.')[0] in ('requests', 'grpc', 'google', 'opentelemetry')])"
    )
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


LOADED_BY_SENDING = """
import sys
import rollspan
from rollspan import exporters

real, before = exporters.load, set()
def load(settings):
    real(settings)
    before.update(sys.modules)

exporters.load = load
with rollspan.session(), rollspan.phase("generate"):
    pass
assert rollspan.flush()
print(*sorted(set(sys.modules) - before), file=sys.stderr)
"""


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"OTEL_EXPORTER_OTLP_COMPRESSION": "gzip"},
        {"OTEL_TRACES_EXPORTER": "console", "OTEL_LOGS_EXPORTER": "console"},
    ],
    ids=["http", "gzip", "console"],
)
def test_sending_loads_nothing_more(
    run_program: Callable[..., subprocess.CompletedProcess[str]], environment: dict[str, str]
) -> None:
    """A child that is forked while a module is being loaded could never load it: all is loaded before, under our lock.

    But for gRPC, which does not mix with forks anyway.
    """
    with OtlpReceiver() as receiver:
        endpoint = receiver.endpoint.replace("127.0.0.1", "localhost")
        env = {"PYTHONWARNINGS": "ignore", "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, **environment}
        done = run_program(LOADED_BY_SENDING, env=env)
    assert done.stderr.split() == []

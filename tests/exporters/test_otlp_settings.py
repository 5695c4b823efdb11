"""What the environment says, and the official exporters by whose parts it is obeyed."""

from __future__ import annotations

import logging
import shutil
import ssl
import subprocess
from pathlib import Path
from typing import Any

import certifi
import pytest
from opentelemetry import context

from rollspan import health
from rollspan.exporters import official
from rollspan.exporters.base import Delivered, Refused, Retry
from rollspan.exporters.otlp import TraceExporter
from rollspan.testing_receiver import Answer, OtlpReceiver

from .samples import KINDS, RESOURCE, endpoint, send, session


def test_every_otel_variable_counts(receiver: OtlpReceiver, signal: str, monkeypatch: Any) -> None:
    """Endpoint, headers and compression come from the environment, the signal's own before the common one."""
    name = "TRACES" if signal == "traces" else "LOGS"
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv(f"OTEL_EXPORTER_OTLP_{name}_ENDPOINT", f"{receiver.endpoint}/v1/{signal}")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20abc,x-team=rl")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
    assert send(KINDS[signal](), [session()]) == Delivered()
    (request,) = receiver.requests
    assert request.headers["authorization"] == "Bearer abc"
    assert request.headers["x-team"] == "rl"
    assert request.headers["content-encoding"] == "gzip"
    assert int(request.headers["content-length"]) < len(request.body)


@pytest.mark.parametrize("compression", ["deflate", "none"])
def test_other_compressions(receiver: OtlpReceiver, compression: str, monkeypatch: Any) -> None:
    """deflate and none are understood as well."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", compression)
    assert send(TraceExporter(endpoint=receiver.endpoint), [session()]) == Delivered()
    assert receiver.requests[0].headers.get("content-encoding", "none") == compression


def test_grpc_obeys_the_environment(receiver: OtlpReceiver, monkeypatch: Any) -> None:
    """Protocol, endpoint, headers and compression of gRPC come from the environment too."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.grpc_endpoint)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-team=rl")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
    assert send(TraceExporter(), [session()]) == Delivered()
    (request,) = receiver.requests
    assert request.protocol == "grpc"
    assert request.headers["x-team"] == "rl"


def test_http_is_the_default_and_a_wrong_protocol_is_said_once(
    receiver: OtlpReceiver, monkeypatch: Any
) -> None:
    """Without a word, and with one that nobody knows, http/protobuf is used."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
    assert send(TraceExporter(), [session()]) == Delivered()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json")
    assert send(TraceExporter(), [session()]) == Delivered()
    assert health.counters() == {"setting.OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": 1}
    assert {request.protocol for request in receiver.requests} == {"http"}
    with pytest.raises(ValueError, match="protocol is 'thrift', expected one of http/protobuf, grpc"):
        TraceExporter(protocol="thrift")


def test_the_time_out_of_the_environment_counts_where_it_is_shorter(
    receiver: OtlpReceiver, protocol: str, monkeypatch: Any
) -> None:
    """A caller that would wait long does not wait longer than OTEL_EXPORTER_OTLP_TIMEOUT."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.3")
    receiver.answer(Answer(hang=True))
    exporter = TraceExporter(protocol=protocol, endpoint=endpoint(receiver, protocol))
    assert isinstance(send(exporter, [session()], 3000.0), Retry)


def test_an_address_without_a_scheme_is_said_with_what_it_lacks(monkeypatch: Any) -> None:
    """`localhost:4318` is none for HTTP: the reason names it and the right one, without the password in it."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "user:secret@localhost:4318")
    answer = send(TraceExporter(), [session()])
    assert isinstance(answer, Retry)
    assert "expected http:// or https:// in front, such as http://localhost:4318" in answer.reason
    assert "secret" not in answer.reason


def test_a_setting_that_the_official_exporter_refuses_is_a_reason(
    receiver: OtlpReceiver, monkeypatch: Any
) -> None:
    """A wrong value is no exception, and nothing is lost."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "brotli")
    answer = send(TraceExporter(protocol="grpc", endpoint=receiver.grpc_endpoint), [session()])
    assert isinstance(answer, Retry) and "brotli" in answer.reason


def test_exporting_is_not_traced_itself(receiver: OtlpReceiver, monkeypatch: Any) -> None:
    """While a request is made, instrumentations are told to keep quiet; afterwards they are not."""
    import requests
    from opentelemetry.instrumentation.utils import is_instrumentation_enabled

    seen = []
    stock = requests.Session.request

    def spying(self: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(is_instrumentation_enabled())
        return stock(self, *args, **kwargs)

    monkeypatch.setattr(requests.Session, "request", spying)
    assert send(TraceExporter(endpoint=receiver.endpoint), [session()]) == Delivered()
    assert seen == [False]
    assert is_instrumentation_enabled()
    assert context.get_current() == {}


@pytest.mark.parametrize("parts", ["http_parts", "grpc_parts"])
def test_another_version_of_the_official_exporter_is_used_by_its_public_way(
    receiver: OtlpReceiver, signal: str, parts: str, monkeypatch: Any, caplog: Any
) -> None:
    """Without the private parts, the same spans and records arrive through the stock encoder."""
    protocol = "grpc" if parts == "grpc_parts" else "http/protobuf"
    monkeypatch.setattr(official, parts, lambda exporter: None)
    made = KINDS[signal](protocol=protocol, endpoint=endpoint(receiver, protocol))
    traces = [session(1), session(2, **{"error.type": "ValueError"})]
    assert made.export(traces, RESOURCE, 5.0) == Delivered()
    by_stock = receiver.spans() if signal == "traces" else receiver.logs()
    receiver.answer(Answer(status=404, code="UNIMPLEMENTED"), times=1)
    refused = made.export(traces, RESOURCE, 5.0)
    assert isinstance(refused, Refused) and refused.unsupported
    receiver.answer(Answer(hang=True), times=1)
    assert isinstance(made.export(traces, RESOURCE, 0.3), Retry)
    made.close()
    monkeypatch.undo()
    receiver.clear()
    ours = KINDS[signal](protocol=protocol, endpoint=endpoint(receiver, protocol))
    assert send(ours, traces) == Delivered()
    assert by_stock == (receiver.spans() if signal == "traces" else receiver.logs())
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []


def test_missing_private_parts_are_noticed(receiver: OtlpReceiver) -> None:
    """An exporter whose parts are gone, or are something else, is not taken for one we know."""
    http = official.make("http", "traces", receiver.endpoint)
    grpc = official.make("grpc", "traces", receiver.grpc_endpoint)
    assert official.http_parts(http) is not None and official.grpc_parts(grpc) is not None
    assert official.http_parts(grpc) is None and official.grpc_parts(http) is None
    http._client._timeout = "long"
    grpc._headers = None
    assert official.http_parts(http) is None and official.grpc_parts(grpc) is None
    del http._client
    assert official.http_parts(http) is None


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate for 127.0.0.1 that nobody else trusts, with its key beside it."""
    if shutil.which("openssl") is None:
        pytest.skip("makes its certificate with openssl")
    key, made = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=localhost",
    ]
    names = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(made)]
    subprocess.run([*command, *names], capture_output=True, check=True)
    return made


def test_the_certificate_of_the_environment_is_trusted(certificate: Path, monkeypatch: Any) -> None:
    """TLS works with OTEL_EXPORTER_OTLP_CERTIFICATE, also beside a REQUESTS_CA_BUNDLE, and not without it."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate, certificate.with_name("key.pem"))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", certifi.where())
    with OtlpReceiver(tls=server) as receiver:
        untrusted = send(TraceExporter(endpoint=receiver.endpoint), [session()])
        assert isinstance(untrusted, Retry) and "CERTIFICATE_VERIFY_FAILED" in untrusted.reason
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", str(certificate))
        assert send(TraceExporter(endpoint=receiver.endpoint), [session()]) == Delivered()
        assert len(receiver.spans()) == 4

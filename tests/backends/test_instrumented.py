"""A program under `opentelemetry-instrument`: its HTTP client's own spans hang below our phases."""

from __future__ import annotations

import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from rollspan.spandata import KIND_CLIENT
from tests.backends.comparing import by_id
from tests.backends.services import Collector, Jaeger, wait_until
from tests.faults.jobs import in_file

PROGRAM = """
import sys, httpx, rollspan
with rollspan.step(3):
    for i in range(20):
        with rollspan.session(task_id=i), rollspan.phase("generate", model="m"):
            httpx.get(sys.argv[1])
"""


@pytest.fixture
def heard() -> Iterator[tuple[str, list[str]]]:
    """A server's address, and the traceparent of each request to it."""
    traceparents: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            traceparents.append(self.headers.get("traceparent", ""))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/", traceparents
    server.shutdown()
    server.server_close()


def test_an_instrumented_httpx_call_is_found_below_generate(
    run_program: Callable[..., object],
    heard: tuple[str, list[str]],
    collector: Collector,
    jaeger: Jaeger,
    tmp_path: Path,
) -> None:
    """Started by opentelemetry-instrument with ROLLSPAN_ENABLED=1 and an endpoint: one trace, each span once."""
    address, traceparents = heard
    service = f"instrumented-{uuid.uuid4().hex[:8]}"
    run_program(
        PROGRAM,
        address,
        env={
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint,
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "OTEL_SERVICE_NAME": service,
        },
        launcher=(str(Path(sys.executable).with_name("opentelemetry-instrument")), sys.executable),
    )
    records = by_id(in_file(tmp_path / "data"))
    assert len(records) == 20
    wait_until(lambda: sum(map(len, jaeger.traces(service).values())) >= 61, "all spans to reach Jaeger")
    shown = jaeger.traces(service)
    assert len(shown) == 21  # the sessions and the step
    for trace_id in records:
        spans = shown[trace_id]
        assert len({span.span_id for span in spans}) == len(spans) == 3
        by_name = {span.name: span for span in spans}
        root, generate, client = by_name["rollout"], by_name["generate"], by_name["GET"]
        assert (root.parent_id, generate.parent_id, client.parent_id) == (0, root.span_id, generate.span_id)
        assert client.kind == KIND_CLIENT
        assert generate.start_ns <= client.start_ns <= client.end_ns <= generate.end_ns
        sent = f"00-{trace_id}-{client.span_id:016x}-"
        assert any(header.startswith(sent) for header in traceparents)

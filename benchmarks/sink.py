"""The OTLP endpoint, a process of its own: takes anything, answers at once, and counts only when it is asked.

Its CPU time is nobody's. It prints its port, serves until its standard input ends, and answers `GET /` with what
came since the last time.
"""

from __future__ import annotations

import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

_bodies: list[tuple[str, bytes]] = []


def taken() -> dict[str, int]:
    """Requests, bytes, spans and records since the last call."""
    came, _bodies[:] = _bodies[:], []
    spans = records = 0
    for path, body in came:
        if path == "/v1/traces":
            traces = ExportTraceServiceRequest.FromString(body)
            spans += sum(len(s.spans) for r in traces.resource_spans for s in r.scope_spans)
        elif path == "/v1/logs":
            logs = ExportLogsServiceRequest.FromString(body)
            records += sum(len(s.log_records) for r in logs.resource_logs for s in r.scope_logs)
    size = sum(len(body) for _, body in came)
    return {"requests": len(came), "bytes": size, "spans": spans, "records": records}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        _bodies.append((self.path, self.rfile.read(int(self.headers.get("Content-Length", "0")))))
        self._answer(b"", "application/x-protobuf")

    def do_GET(self) -> None:
        self._answer(json.dumps(taken()).encode(), "application/json")

    def _answer(self, body: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Keep quiet."""


def main() -> None:
    """Serve."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdout.write(f"{server.server_address[1]}\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    main()

"""A real OTLP receiver in memory: what a program sends over HTTP or gRPC, for tests to look at.

with OtlpReceiver() as receiver:
    os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = receiver.endpoint
    ...
    assert receiver.wait_for(lambda: len(receiver.records()) == 3)
"""

from __future__ import annotations

import gzip
import ssl
import threading
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from types import TracebackType
from typing import Any

from . import semconv, testing_messages
from .record import Record, from_event_attributes

_SIGNALS = ("traces", "logs", "metrics")
_SERVICES = {
    f"opentelemetry.proto.collector.{package}.v1.{service}": signal
    for signal, package, service in (
        ("traces", "trace", "TraceService"),
        ("logs", "logs", "LogsService"),
        ("metrics", "metrics", "MetricsService"),
    )
}
_UNPACKERS: dict[str, Callable[[bytes], bytes]] = {
    "identity": bytes,
    "gzip": gzip.decompress,
    "deflate": zlib.decompress,
}
_OPEN_END = 3600.0


@dataclass(frozen=True)
class Answer:
    """How a request is answered. Over gRPC, `code` (the name of a status code) counts instead of `status`."""

    status: int = 200
    code: str = "OK"
    message: str = ""
    retry_after: float | str | None = None
    """Seconds, or an HTTP date. Over gRPC it is a RetryInfo, in seconds."""
    rejected: int = 0
    """Items refused in a partial success."""
    hang: bool = False
    """Take the request, and say nothing (or with `half`, nothing more) until the receiver closes."""
    half: bool = False
    """Break off in the middle of the answer (HTTP alone)."""
    pause: float = 0.0
    """Seconds that it takes."""

    @property
    def accepts(self) -> bool:
        """Whether the request's items count as received."""
        return self.status == 200 and self.code == "OK" and not self.hang and not self.half


@dataclass
class Request:
    """One request as it came, whatever the answer was."""

    signal: str
    protocol: str
    """`http` or `grpc`"""
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes
    """Uncompressed."""
    answer: Answer
    message: Any = field(repr=False)
    """The parsed protobuf request."""


class OtlpReceiver:
    """Listens on free ports of the loopback while it is used as a context manager."""

    def __init__(self, *, tls: ssl.SSLContext | None = None) -> None:
        """`tls`: a server's context with a certificate, to listen by https instead of http."""
        self._tls = tls
        self.requests: list[Request] = []
        """All requests in the order of their arrival, refused ones too."""
        self._changed = threading.Condition()
        self._answers: list[tuple[str | None, Answer, float]] = []
        self._closing = threading.Event()
        self._http: ThreadingHTTPServer | None = None
        self._grpc: Any = None
        self._grpc_port = 0

    def __enter__(self) -> OtlpReceiver:
        receiver = self

        class Handler(_Handler):
            owner = receiver

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if self._tls is not None:
            self._http.socket = self._tls.wrap_socket(self._http.socket, server_side=True)
        self._http.daemon_threads = True
        self._http.block_on_close = False  # a connection that hangs must not hold up the test
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening; requests that were left hanging are broken off."""
        self._closing.set()
        if self._http is not None:
            self._http.shutdown()
            self._http.server_close()
            self._http = None
        if self._grpc is not None:
            self._grpc.stop(None).wait(5.0)
            self._grpc = None

    @property
    def endpoint(self) -> str:
        """Base address for OTLP over HTTP, such as `http://127.0.0.1:4318`."""
        if self._http is None:
            raise RuntimeError("the receiver is not listening: use it as `with OtlpReceiver() as receiver:`")
        scheme = "http" if self._tls is None else "https"
        return f"{scheme}://127.0.0.1:{self._http.server_address[1]}"

    @property
    def grpc_endpoint(self) -> str:
        """Address for OTLP over gRPC. The first use starts the server: gRPC and fork do not mix."""
        if self._grpc is None:
            self.serve_grpc()
        return f"http://127.0.0.1:{self._grpc_port}"

    def serve_grpc(self, port: int = 0) -> None:
        """Listen for gRPC on that port, 0 for a free one."""
        self._grpc, self._grpc_port = _serve_grpc(self, port)

    # What came.

    def accepted(self, signal: str) -> list[Request]:
        """The requests of `signal` (traces, logs or metrics) that were answered with success."""
        with self._changed:
            return [r for r in self.requests if r.signal == signal and r.answer.accepts]

    def bodies(self, signal: str) -> list[bytes]:
        """Uncompressed bodies of all requests of `signal`, refused ones too."""
        with self._changed:
            return [r.body for r in self.requests if r.signal == signal]

    def spans(self) -> list[dict[str, Any]]:
        """All spans received, see `testing_messages.spans`; one that was sent twice stands here twice."""
        return [span for r in self.accepted("traces") for span in testing_messages.spans(r.message)]

    def logs(self) -> list[dict[str, Any]]:
        """All log records received, see `testing_messages.logs`."""
        return [log for r in self.accepted("logs") for log in testing_messages.logs(r.message)]

    def records(self) -> list[Record]:
        """The flat records among the log records."""
        return [
            from_event_attributes(log["attributes"])
            for log in self.logs()
            if log["event_name"] == semconv.RECORD_EVENT_NAME
        ]

    def metrics(self) -> list[dict[str, Any]]:
        """All data points received, see `testing_messages.metrics`."""
        return [point for r in self.accepted("metrics") for point in testing_messages.metrics(r.message)]

    def clear(self) -> None:
        """Forget what came."""
        with self._changed:
            self.requests.clear()

    def wait_for(self, predicate: Callable[[], object], timeout: float = 10.0) -> bool:
        """Whether `predicate()` came true within `timeout` seconds; it is asked again with each request."""
        deadline = time.monotonic() + timeout
        while True:
            with self._changed:
                if predicate():
                    return True
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                self._changed.wait(left)

    # What is answered.

    def answer(self, answer: Answer, *, signal: str | None = None, times: float = _OPEN_END) -> None:
        """Give `answer` to the next `times` requests of `signal` (of all signals if None).

        Of several that fit, the one given first is used up first. Afterwards success is answered again.
        """
        if signal is not None and signal not in _SIGNALS:
            raise ValueError(f"signal is {signal!r}, expected one of {', '.join(_SIGNALS)}")
        with self._changed:
            self._answers.append((signal, answer, times))

    def recover(self) -> None:
        """Answer everything with success from now on."""
        with self._changed:
            self._answers.clear()

    def take(self, signal: str, protocol: str, headers: dict[str, str], body: bytes) -> Answer:
        """Keep a request and say how to answer it (for the servers below)."""
        try:
            message = testing_messages.REQUESTS[signal].FromString(body)
        except Exception as error:  # noqa: BLE001 - protobuf's own class depends on its implementation
            return Answer(status=400, code="INVALID_ARGUMENT", message=f"not a request for {signal}: {error}")
        with self._changed:
            answer = self._next_answer(signal)
            self.requests.append(Request(signal, protocol, headers, body, answer, message))
            self._changed.notify_all()
        self._closing.wait(answer.pause)
        return answer

    def _next_answer(self, signal: str) -> Answer:
        for at, (wanted, answer, times) in enumerate(self._answers):
            if wanted in (None, signal):
                if times <= 1:
                    del self._answers[at]
                else:
                    self._answers[at] = (wanted, answer, times - 1)
                return answer
        return Answer()

    def hang(self) -> None:
        """Wait until the receiver closes."""
        self._closing.wait(_OPEN_END)


class _Handler(BaseHTTPRequestHandler):
    owner: OtlpReceiver
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each answer waits 40 ms for an acknowledgement

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        headers = {name.lower(): value for name, value in self.headers.items()}
        signal = self.path.removeprefix("/v1/")
        encoding = headers.get("content-encoding", "identity")
        unpack = _UNPACKERS.get(encoding)
        if signal not in _SIGNALS:
            self._say(404, b"no such path")
        elif unpack is None or headers.get("content-type") != "application/x-protobuf":
            self._say(415, b"expected application/x-protobuf, in gzip, deflate or neither")
        else:
            self._answer(self.owner.take(signal, "http", headers, unpack(body)), signal)

    def _answer(self, answer: Answer, signal: str) -> None:
        body = answer.message.encode()
        if answer.status == 200:
            body = testing_messages.response(signal, answer.rejected, answer.message)
        if answer.half:
            self.wfile.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length: 100\r\n\r\n\x0a"
            )
            self.wfile.flush()
        if answer.hang:
            self.owner.hang()
        if answer.half or answer.hang:
            self.close_connection = True
        else:
            self._say(answer.status, body, answer.retry_after)

    def _say(self, status: int, body: bytes, retry_after: float | str | None = None) -> None:
        self.send_response(status)
        if retry_after is not None:
            self.send_header("Retry-After", str(retry_after))
        self.send_header("Content-Type", "application/x-protobuf" if status == 200 else "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""

    def handle(self) -> None:
        try:
            super().handle()
        except OSError:
            self.close_connection = True  # the client went away, which many a test wants


def _serve_grpc(receiver: OtlpReceiver, port: int) -> tuple[Any, int]:
    grpc: Any = import_module("grpc")  # heavy, and most tests need HTTP alone

    def method(signal: str) -> Any:
        def export(body: bytes, context: Any) -> bytes:
            headers = {key: value for key, value in context.invocation_metadata() if isinstance(value, str)}
            answer = receiver.take(signal, "grpc", headers, body)
            if answer.hang:
                receiver.hang()
            if answer.code != "OK":
                if answer.retry_after is not None:
                    context.set_trailing_metadata((_retry_info(answer),))
                context.abort(grpc.StatusCode[answer.code], answer.message)
            return testing_messages.response(signal, answer.rejected, answer.message)

        return grpc.unary_unary_rpc_method_handler(export)  # no serialisers: bytes in, bytes out

    server = grpc.server(ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
    for service, signal in _SERVICES.items():
        handler = grpc.method_handlers_generic_handler(service, {"Export": method(signal)})
        server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    return server, port


def _retry_info(answer: Answer) -> tuple[str, bytes]:
    """The trailer that carries a RetryInfo, as gRPC's richer error model has it."""
    # These have no types, and are needed by few.
    status_code = import_module("grpc").StatusCode[answer.code]
    info = import_module("google.rpc.error_details_pb2").RetryInfo()
    info.retry_delay.FromNanoseconds(round(float(answer.retry_after or 0) * 1e9))
    detail = import_module("google.protobuf.any_pb2").Any()
    detail.Pack(info)
    made = import_module("google.rpc.status_pb2").Status
    status = made(code=status_code.value[0], message=answer.message, details=[detail])
    return "grpc-status-details-bin", status.SerializeToString()

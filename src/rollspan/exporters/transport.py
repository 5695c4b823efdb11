"""One attempt to send encoded bytes, by what the official exporters are made of."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any, ClassVar, Protocol

from rollspan import health
from rollspan.values import without_user

from . import official
from .answers import Answer, of_grpc, of_http
from .base import Delivered, Retry
from .helper import Helper
from .quiet import caught_logs, untraced

_HTTP_CODE = re.compile(r"\bcode: (\d{3})\b")
_GRPC_CODE = re.compile(r"\bStatusCode\.([A-Z_]+)")


class Transport(Protocol):
    """A way to one endpoint for one signal. Makes connections when it first sends, and not before."""

    def send(self, data: bytes, objects: Callable[[], Any], timeout: float) -> Answer:
        """Send `data`, or, where only that is possible, the SDK's `objects()`, within `timeout` seconds."""

    def exporter(self) -> Any:
        """The official exporter behind it; raises what that raises for a wrong setting."""

    def close(self) -> None:
        """Let go of connections."""


class _Way:
    """What both protocols share: making the official exporter late, a deadline, and the public way out."""

    protocol = ""

    def __init__(self, signal: str, endpoint: str | None) -> None:
        self.signal = signal
        self._endpoint = endpoint
        self._exporter: Any = None
        self._helper = Helper(f"rollspan-otlp-{signal}")

    @classmethod
    def load(cls, signal: str) -> None:
        """Load what sending that signal needs; raises what loading raises."""
        official.load(cls.protocol, signal)

    def send(self, data: bytes, objects: Callable[[], Any], timeout: float) -> Answer:
        """See Transport; never raises."""
        deadline = time.monotonic() + timeout
        try:
            with untraced():
                self.exporter()
                answer = self._attempt(data, max(deadline - time.monotonic(), 0.001))
            if answer is None:
                health.count("exporters.public_way")
                left = max(deadline - time.monotonic(), 0.001)
                exporter = self._exporter
                answer = self._helper.call(lambda: self._publicly(exporter, objects()), left)
        except TimeoutError as error:
            self._reset()
            return Retry(str(error))
        except Exception as error:  # noqa: BLE001 - a wrong setting, or a part that is not what it was
            self._reset()
            return Retry(f"cannot send over {self.protocol}: {type(error).__name__}: {error}")
        return answer

    def close(self) -> None:
        """See Transport."""
        self._reset()
        self._helper.close()

    def exporter(self) -> Any:
        """The official exporter, made now if there is none; raises what it raises for a wrong setting."""
        if self._exporter is None:
            with caught_logs() as said:
                self._exporter = official.make(self.protocol, self.signal, self._endpoint)
            for text in said:
                health.warn_once(f"setting.otlp.{text}", "rollspan: OTLP over %s: %s", self.protocol, text)
        return self._exporter

    def _attempt(self, data: bytes, timeout: float) -> Answer | None:
        """One request with our bytes; None where the exporter's parts are not what we know."""
        raise NotImplementedError

    def _publicly(self, exporter: Any, objects: Any) -> Answer:
        """The stock exporter's own `export`, which retries by itself until its time is over."""
        with untraced(), caught_logs() as said:
            result = exporter.export(objects)
        if getattr(result, "name", "") == "SUCCESS":
            return Delivered()
        reason = said[-1] if said else "the official exporter failed"
        if match := _HTTP_CODE.search(reason):
            return of_http(self.signal, int(match[1]), reason, {}, b"")
        if match := _GRPC_CODE.search(reason):
            return of_grpc(match[1], reason, {})
        return Retry(reason)

    def _reset(self) -> None:
        """Begin with a new exporter next time: gRPC would go on waiting for its own reconnection."""
        exporter, self._exporter = self._exporter, None
        if exporter is not None:
            try:
                with caught_logs():
                    exporter.shutdown()
            except Exception:  # noqa: BLE001 - of an exporter that we give up anyway
                health.count("exporters.shutdown_failed")


class HttpWay(_Way):
    """OTLP over http/protobuf."""

    protocol = "http"

    @classmethod
    def load(cls, signal: str) -> None:
        """See above. The official exporter loads the rest when it is made, which opens no connection."""
        import netrc  # noqa: F401, PLC0415 - requests loads it with the first request

        with caught_logs():
            official.make(cls.protocol, signal, None).shutdown()

    def _attempt(self, data: bytes, timeout: float) -> Answer | None:
        parts = official.http_parts(self._exporter)
        if parts is None:
            return None
        allowed = min(timeout, parts.timeout)
        limit: Any = (
            _total(allowed * 0.95) if parts.total_timeout else allowed
        )  # a socket's own answer says more

        def post() -> Answer:
            with untraced():
                body = parts.compress(data)
                got = parts.request("POST", parts.url, headers=parts.headers, data=body, timeout=limit)
                if got.error is not None or got.status_code is None:
                    return Retry(_said(got.error, parts.url))
                return of_http(self.signal, got.status_code, got.reason or "", got.headers(), got.content())

        answer: Answer = self._helper.call(post, allowed)
        return answer


class GrpcWay(_Way):
    """OTLP over gRPC, which keeps to a deadline by itself."""

    protocol = "grpc"
    _SERVICES: ClassVar = {
        "traces": "trace.v1.TraceService",
        "logs": "logs.v1.LogsService",
        "metrics": "metrics.v1.MetricsService",
    }

    def _attempt(self, data: bytes, timeout: float) -> Answer | None:
        parts = official.grpc_parts(self._exporter)
        if parts is None:
            return None
        import grpc  # type: ignore[import-untyped, unused-ignore]  # noqa: PLC0415 - for those who use it

        from .answers import of_success  # noqa: PLC0415

        # Without serialisers a call takes bytes and gives bytes.
        call = parts.unary_unary(f"/opentelemetry.proto.collector.{self._SERVICES[self.signal]}/Export")
        try:
            body = call(data, timeout=min(timeout, parts.timeout), metadata=parts.metadata)
        except grpc.RpcError as error:
            trailers = dict(error.trailing_metadata() or ())
            code = error.code().name
            answer = of_grpc(code, error.details() or "", trailers, parts.retryable)
            if code in ("UNAVAILABLE", "DEADLINE_EXCEEDED"):
                self._reset()
            return answer
        return of_success(self.signal, body)


def _total(timeout: float) -> Any:
    from urllib3 import Timeout  # noqa: PLC0415 - comes with requests, which is loaded by now

    return Timeout(total=timeout)


def _said(error: Exception | None, address: str) -> str:
    """A connection's failure in a line, with what most often causes it, and without a password."""
    url = without_user(address)
    if "://" not in url:
        host = url.partition("/")[0]
        return f"{url}: expected http:// or https:// in front, such as http://{host}; only gRPC takes an address without"
    reason = (
        f"{url}: {type(error).__name__}: {str(error).replace(address, url)}"[:400]
        if error
        else f"{url}: no answer"
    )
    if ":4317" in url:
        reason += (
            "; port 4317 is usually gRPC's: set OTEL_EXPORTER_OTLP_PROTOCOL=grpc, or use port 4318 for HTTP"
        )
    return reason


WAYS: dict[str, type[_Way]] = {"http/protobuf": HttpWay, "grpc": GrpcWay}

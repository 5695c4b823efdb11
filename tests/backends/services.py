"""The real Collector and the real Jaeger, as processes on free ports of the loopback."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import orjson

from rollspan.otlp_json import read_records, read_spans
from rollspan.record import Record
from rollspan.spandata import SpanData

ROOT = Path(__file__).parents[2]
CONFIGURATIONS = ROOT / "otel-collector"
_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
BINARIES = Path(os.environ.get("BACKENDS_DIR") or _CACHE / "rollspan" / "backends")


_held: list[socket.socket] = []


def free_port() -> int:
    """A port that nobody listens on, and that on Linux no one else is given until these tests have ended.

    A program that is killed finds it free when it starts again. Servers set SO_REUSEADDR: so they may listen beside a
    socket that has the port, has set that too, and does not listen.
    """
    holder = socket.socket()
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind(("127.0.0.1", 0))
    port: int = holder.getsockname()[1]
    if sys.platform == "linux":
        _held.append(holder)
    else:
        holder.close()  # there it would be in the server's way
    return port


def wait_until(holds: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
    """Wait for something that is sure to come; fail where it does not."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds:.0f} s in vain for: {what}")
        time.sleep(0.05)


class Service:
    """A program with a configuration of ours; may be killed and started again on the same ports."""

    program = ""
    configuration = ""

    def __init__(self, folder: Path, settings: Mapping[str, object]) -> None:
        """`settings` are the variables of its configuration; its log is in `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / f"{self.program}.log"
        self._settings = {name: str(value) for name, value in settings.items()}
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def healthy(self) -> bool:
        """Whether it says that it is up."""
        try:
            return httpx.get(self.health, timeout=2, trust_env=False).status_code == 200
        except httpx.HTTPError:
            return False

    @property
    def health(self) -> str:
        """Where it says so."""
        raise NotImplementedError

    def start(self) -> None:
        """Start, and wait until it is up."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [BINARIES / self.program, "--config", CONFIGURATIONS / self.configuration],
                cwd=self._folder,
                env={**os.environ, **self._settings},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        process = self._process

        def up() -> bool:
            assert process.poll() is None, f"{self.program} ended:\n{self.log.read_text()[-3000:]}"
            return self.healthy()

        wait_until(up, f"{self.program} to start")

    def kill(self) -> None:
        """SIGKILL."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """SIGTERM, and wait."""
        self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(30)
            self._process = None


class Jaeger(Service):
    """Jaeger with its traces in memory."""

    program = "jaeger"
    configuration = "jaeger.yaml"

    def __init__(self, folder: Path) -> None:
        self.grpc_port, self.http_port, self.ui_port, self._health = (free_port() for _ in range(4))
        super().__init__(
            folder,
            {
                "JAEGER_GRPC_PORT": self.grpc_port,
                "JAEGER_HTTP_PORT": self.http_port,
                "JAEGER_UI_PORT": self.ui_port,
                "JAEGER_HEALTH_PORT": self._health,
                "JAEGER_QUERY_GRPC_PORT": free_port(),
            },
        )
        self._http = httpx.Client(base_url=f"http://127.0.0.1:{self.ui_port}", timeout=60, trust_env=False)

    @property
    def health(self) -> str:
        return f"http://127.0.0.1:{self._health}/status"

    @property
    def endpoint(self) -> str:
        """Where it takes OTLP over HTTP."""
        return f"http://127.0.0.1:{self.http_port}"

    def services(self) -> list[str]:
        """Names of the services that it has traces of."""
        names: list[str] = self._http.get("/api/v3/services").json()["services"]
        return names

    def answers(self, service: str) -> list[dict[str, Any]]:
        """All that its query API says of a service's traces, as OTLP requests."""
        answer = self._http.get(
            "/api/v3/traces",
            params={
                "query.service_name": service,
                "query.start_time_min": "2000-01-01T00:00:00Z",
                "query.start_time_max": "2100-01-01T00:00:00Z",
                "query.num_traces": 100_000,
            },
        )
        if answer.status_code == 404:
            return []
        answer.raise_for_status()
        return [orjson.loads(line)["result"] for line in answer.content.splitlines() if line.strip()]

    def traces(self, service: str) -> dict[str, list[SpanData]]:
        """Every span of a service as stored, repeated ones too, by trace id."""
        problems: list[str] = []
        found: dict[str, list[SpanData]] = {}
        lines = map(orjson.dumps, self.answers(service))
        for span in read_spans(lines, lambda _, why: problems.append(why)):
            found.setdefault(f"{span.trace_id:032x}", []).append(span)
        assert not problems, problems
        return found


class Collector(Service):
    """The Collector with the configuration that the project ships."""

    program = "otelcol"
    configuration = "collector.yaml"

    def __init__(self, folder: Path, jaeger: Jaeger, **settings: object) -> None:
        self.grpc_port, self.http_port, self.metrics_port, self._health = (free_port() for _ in range(4))
        self.data = folder / "collector-data"
        super().__init__(
            folder,
            {
                "COLLECTOR_GRPC_PORT": self.grpc_port,
                "COLLECTOR_HTTP_PORT": self.http_port,
                "COLLECTOR_METRICS_PORT": self.metrics_port,
                "COLLECTOR_HEALTH_PORT": self._health,
                "COLLECTOR_DATA": self.data,
                "JAEGER_OTLP": f"127.0.0.1:{jaeger.grpc_port}",
                **settings,
            },
        )

    @property
    def health(self) -> str:
        return f"http://127.0.0.1:{self._health}/"

    @property
    def endpoint(self) -> str:
        """Where it takes OTLP over HTTP."""
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def grpc_endpoint(self) -> str:
        """Where it takes OTLP over gRPC."""
        return f"http://127.0.0.1:{self.grpc_port}"

    @property
    def traces_file(self) -> Path:
        """OTLP/JSON lines of every trace request."""
        return self.data / "traces.jsonl"

    def spans(self) -> list[SpanData]:
        """Spans in its file, repeated ones too."""
        return list(_read(self.traces_file, read_spans))

    def records(self) -> list[Record]:
        """Records in its file, each once."""
        return list(_read(self.data / "records.jsonl", read_records))

    def metrics(self) -> str:
        """What Prometheus would scrape."""
        url = f"http://127.0.0.1:{self.metrics_port}/metrics"
        return httpx.get(url, timeout=10, trust_env=False).text


def _read(path: Path, read: Callable[..., Iterator[Any]]) -> Iterator[Any]:
    if path.exists():
        with path.open("rb") as lines:
            yield from read(lines)

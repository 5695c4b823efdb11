"""The AReaL program run once, traced into a real Collector and a real Jaeger; its server's spans are there too."""

from __future__ import annotations

import importlib.util
import json
import math
import subprocess
import sys
import uuid
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.backends.conftest import built, collector, jaeger  # noqa: F401 - fixtures
from tests.backends.services import Collector, Jaeger
from tests.conftest import CLEAN
from tests.faults.jobs import in_file
from tests.needs import need

PROGRAM = Path(__file__).with_name("program.py")


class Run(NamedTuple):
    """What a run of the program left, and what it saw itself."""

    directory: Path
    service: str
    facts: dict[str, dict[str, list[Any]]]
    said: str

    def records(self) -> dict[str, list[dict[str, Any]]]:
        """Records by the item's name."""
        found: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for record in in_file(self.directory):
            found[record["task_id"]].append(record)
        return found

    def areals_own(self, query: str) -> list[dict[str, Any]]:
        """What AReaL's own session tracer wrote of a task: under its id, until shortly after it had come back."""
        (path,) = self.directory.with_name("areal").rglob("sessions-r0.jsonl")
        (task_id,) = self.facts[query]["task id"]
        (begin,), (end, *_) = (
            self.facts[query]["before submit"],
            self.facts[query].get("after wait", [math.inf]),
        )
        found = map(json.loads, path.read_text().splitlines())
        return [r for r in found if r["task_id"] == task_id and begin <= r["submit_ts"] <= end + 1]

    def record(self, query: str) -> dict[str, Any]:
        """The one record of an item."""
        (only,) = self.records()[query]
        return only


@pytest.fixture(scope="session")
def installed() -> None:
    """Skips where AReaL is not there."""
    need(importlib.util.find_spec("areal"), "areal is not installed: make test-areal")


@pytest.fixture(scope="module")
def server(installed: None, collector: Collector) -> Iterator[tuple[str, str]]:  # noqa: F811
    """The demo's inference server under `opentelemetry-instrument`: its address and its service's name."""
    service = f"server-{uuid.uuid4().hex[:8]}"
    process = subprocess.Popen(
        [
            str(Path(sys.executable).with_name("opentelemetry-instrument")),
            *(sys.executable, "-m", "rollspan.demo.server"),
        ],
        env={
            **CLEAN,
            "ROLLSPAN_ENABLED": "0",
            "OTEL_SERVICE_NAME": service,
            "OTEL_TRACES_EXPORTER": "otlp",
            "OTEL_METRICS_EXPORTER": "none",
            "OTEL_LOGS_EXPORTER": "none",
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint,
            "OTEL_BSP_SCHEDULE_DELAY": "200",
        },
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    yield f"127.0.0.1:{json.loads(process.stdout.readline())['port']}", service
    process.stdin.close()
    process.wait(30)
    process.stdout.close()


def run_program(folder: Path, address: str, *arguments: str, **environ: str) -> Run:
    """Run the program, which must end well."""
    service = f"areal-{uuid.uuid4().hex[:8]}"
    done = subprocess.run(
        [sys.executable, str(PROGRAM), address, str(folder / "facts.json"), *arguments],
        env={
            **CLEAN,
            "OMP_NUM_THREADS": "1",
            "ROLLSPAN_DIR": str(folder / "data"),
            "OTEL_SERVICE_NAME": service,
            **environ,
        },
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    facts = json.loads((folder / "facts.json").read_text())
    return Run(folder / "data", service, facts, done.stdout + done.stderr)


@pytest.fixture(scope="module")
def traced(
    server: tuple[str, str],
    collector: Collector,  # noqa: F811
    jaeger: Jaeger,  # noqa: F811
    tmp_path_factory: pytest.TempPathFactory,
) -> Run:
    """The program with ROLLSPAN_ENABLED=1 and an endpoint, and nothing else; its own tracer is on too."""
    folder = tmp_path_factory.mktemp("traced")
    return run_program(
        folder,
        server[0],
        str(folder / "areal"),
        ROLLSPAN_ENABLED="1",
        ROLLSPAN_JOURNAL_KEEP="1",
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint,
    )


@pytest.fixture(scope="module")
def traced_alone(server: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The same without AReaL's own tracer, and without an endpoint."""
    return run_program(tmp_path_factory.mktemp("alone"), server[0], ROLLSPAN_ENABLED="1")


@pytest.fixture(scope="module")
def plain(server: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The program without rollspan."""
    return run_program(tmp_path_factory.mktemp("plain"), server[0])


def environment(**variables: str) -> dict[str, str]:
    """For a program that looks at AReaL's classes."""
    return {**CLEAN, "OMP_NUM_THREADS": "1", **variables}

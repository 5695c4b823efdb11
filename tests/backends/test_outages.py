"""Backends that go away, come late, or are Jaeger alone: nothing missing, and nothing twice in Jaeger."""

from __future__ import annotations

import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import pytest

from tests.backends.comparing import assert_jaeger_has, by_id, kept
from tests.backends.services import Collector, Jaeger, wait_until
from tests.conftest import CLEAN
from tests.faults.jobs import in_file

ROLLSPAN = [sys.executable, "-m", "rollspan.cli.main"]
PROGRAM = """
import sys, rollspan
n = 0
for line in sys.stdin:
    sessions, seconds = map(int, line.split())
    for _ in range(sessions):
        s = rollspan.start_session(task_id=n, group_id=str(n // 4))
        s.mark_enqueued()
        with s.execution(), rollspan.phase("generate", model="m", input_tokens=3, output_tokens=5):
            pass
        s.mark_accepted(reward=0.5)
        s.mark_consumed()
        n += 1
    if seconds:
        rollspan.flush(seconds)
    print(n, flush=True)
"""


class Job:
    """A job that runs as many sessions as it is told to, when it is told to."""

    def __init__(self, folder: Path, endpoint: str, **variables: str) -> None:
        self.data = folder / "data"
        self.service = f"job-{uuid.uuid4().hex[:8]}"
        self.log = folder / "stderr"
        self.env = {
            **CLEAN,
            "ROLLSPAN_ENABLED": "1",
            "ROLLSPAN_DIR": str(self.data),
            "ROLLSPAN_JOURNAL_KEEP": "1",
            "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
            "OTEL_SERVICE_NAME": self.service,
            **variables,
        }

    def __enter__(self) -> Job:
        with self.log.open("w") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM],
                env=self.env,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        return self

    def run(self, sessions: int, flush: int = 0) -> None:
        """Run so many more sessions, and try for so many seconds to send all of them."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{sessions} {flush}\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline()

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.communicate(timeout=60)
        assert self._process.returncode == 0, self.log.read_text()

    def recover(self) -> None:
        """Deliver what the job could not."""
        done = subprocess.run(
            [*ROLLSPAN, "recover", str(self.data)], env=self.env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def own_collector(jaeger: Jaeger, tmp_path: Path) -> Iterator[Collector]:
    """A Collector that a test may kill; not started yet."""
    service = Collector(tmp_path / "collector", jaeger)
    yield service
    service.stop()


def assert_complete(job: Job, jaeger: Jaeger, collector: Collector | None, sessions: int) -> None:
    """All sessions, once each: in the file, in Jaeger, and among the Collector's records."""
    expected = by_id(in_file(job.data))
    assert len(expected) == sessions
    traces = kept(job.data)
    assert len(traces) == sessions
    assert_jaeger_has(jaeger, traces, job.service)
    if collector is not None:
        wait_until(lambda: len(collector.records()) >= sessions, "the records to reach the Collector")
        assert by_id(collector.records()) == expected


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_a_collector_killed_and_restarted_in_the_middle(
    own_collector: Collector, jaeger: Jaeger, tmp_path: Path, protocol: str
) -> None:
    """SIGKILL of the Collector while sessions stream in loses none of them, and doubles none in Jaeger."""
    own_collector.start()
    endpoint = own_collector.grpc_endpoint if protocol == "grpc" else own_collector.endpoint
    with Job(tmp_path, endpoint, OTEL_EXPORTER_OTLP_PROTOCOL=protocol, ROLLSPAN_EXIT_TIMEOUT="30") as job:
        for _ in range(3):
            job.run(400)
            wait_until(lambda: bool(own_collector.spans()), "the Collector to be in the middle of it")
            job.run(400)
            own_collector.kill()
            job.run(200, flush=1)  # some are tried while it is away
            own_collector.start()
    job.recover()
    assert_complete(job, jaeger, own_collector, 3000)


def test_a_collector_that_starts_when_the_job_has_ended(
    own_collector: Collector, jaeger: Jaeger, tmp_path: Path
) -> None:
    """What the job could not send lies in its journal, and `rollspan recover` brings it all later."""
    with Job(tmp_path, own_collector.endpoint) as job:
        job.run(1000)
    assert len(in_file(job.data)) == 1000
    assert "rollspan recover" in job.log.read_text()
    own_collector.start()
    job.recover()
    assert_complete(job, jaeger, own_collector, 1000)


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_jaeger_alone_is_endpoint_enough(jaeger: Jaeger, tmp_path: Path, protocol: str) -> None:
    """Jaeger takes no logs and no metrics: that is said once each, and every trace is there."""
    endpoint = f"http://127.0.0.1:{jaeger.grpc_port}" if protocol == "grpc" else jaeger.endpoint
    with Job(tmp_path, endpoint, OTEL_EXPORTER_OTLP_PROTOCOL=protocol, ROLLSPAN_EXIT_TIMEOUT="30") as job:
        job.run(500)
        job.run(500)
    said = job.log.read_text()
    assert said.count("otlp.records is switched off") == 1, said
    assert_complete(job, jaeger, None, 1000)


def test_jaeger_that_is_down_for_a_while_behind_the_collector(built: None, tmp_path: Path) -> None:
    """The Collector's queue on disk holds the traces while Jaeger is down, and through a kill of its own."""
    late = Jaeger(tmp_path / "late")
    collector = Collector(tmp_path / "collector-before-late", late)
    collector.start()
    try:
        with Job(tmp_path, collector.endpoint, ROLLSPAN_EXIT_TIMEOUT="30") as job:
            job.run(1000)
        collector.kill()
        collector.start()
        late.start()
        assert_complete(job, late, collector, 1000)
    finally:
        collector.stop()
        late.stop()

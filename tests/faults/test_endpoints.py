"""Endpoints that are of no use for the whole run: the file is complete, and the program ends as ever."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rollspan.testing import OtlpReceiver
from rollspan.testing_receiver import Answer
from tests.backends.services import free_port
from tests.conftest import CLEAN
from tests.faults.jobs import JOB, assert_all, in_file, recover

Run = Callable[..., "subprocess.CompletedProcess[str]"]

USELESS = {
    "hangs": Answer(hang=True),
    "400": Answer(status=400),
    "429": Answer(status=429, retry_after=30),
    "503": Answer(status=503),
    "half": Answer(half=True),
}


def endpoint_of(receiver: OtlpReceiver, fault: str) -> str:
    """An endpoint with that fault."""
    if fault == "refuses":
        return f"http://127.0.0.1:{free_port()}"
    receiver.answer(USELESS[fault])
    return receiver.endpoint


@pytest.mark.parametrize("fault", ["refuses", *USELESS])
def test_the_file_is_complete_and_the_program_ends(
    run_program: Run, tmp_path: Path, receiver: OtlpReceiver, fault: str
) -> None:
    """All records are in the file when the program has ended, which no endpoint keeps from ending."""
    endpoint = endpoint_of(receiver, fault)
    run_program(JOB, "sys.exit", "parent", env={"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint}, check=False)
    assert_all(in_file(tmp_path / "data"), reason="cancelled")
    if fault != "half":  # the body came whole, but its answer did not: it counts as not delivered
        assert not receiver.spans()


@pytest.mark.parametrize("fault", ["hangs", "429", "503", "half"])
def test_what_the_endpoint_did_not_take_is_delivered_later(
    run_program: Run, tmp_path: Path, receiver: OtlpReceiver, fault: str
) -> None:
    """Once the endpoint is well, `recover` brings it every span and record, and the file stays as it is."""
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint_of(receiver, fault)}
    run_program(JOB, "sys.exit", "parent", env=environment, check=False)
    receiver.recover()
    receiver.clear()
    done = recover(tmp_path / "data", env=environment)
    assert done.returncode == 0, done.stderr
    assert_all(receiver.records(), reason="cancelled")
    roots = [span for span in receiver.spans() if span["name"] == "rollout"]
    assert len({span["trace_id"] for span in roots}) == len(roots) == 1070
    assert_all(in_file(tmp_path / "data"), reason="cancelled")


def test_what_is_refused_for_good_is_said_and_not_kept(
    run_program: Run, tmp_path: Path, receiver: OtlpReceiver
) -> None:
    """400 cannot be mended by repeating: the loss is said once a signal, with its number, and nothing stays."""
    endpoint = endpoint_of(receiver, "400")
    done = run_program(JOB, "sys.exit", "parent", env={"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint}, check=False)
    assert done.stderr.count("otlp.traces lost") == 1
    assert done.stderr.count("otlp.records lost") == 1
    assert list((tmp_path / "data" / "journal").iterdir()) == []


TWICE = """
import rollspan
for sessions in (2, 3):
    rollspan.configure()
    with rollspan.step(sessions):
        for _ in range(sessions):
            with rollspan.session():
                pass
            rollspan.flush()
    rollspan.shutdown()
"""


def test_what_was_lost_is_summed_up_at_the_end(run_program: Run, receiver: OtlpReceiver) -> None:
    """Each shutdown says in one line what was lost since the one before: how much of what, and why.

    A step is a trace without a record.
    """
    receiver.answer(Answer(status=401, message="who are you?"), signal="traces")
    receiver.answer(Answer(status=404), signal="logs")
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint, "OTEL_METRICS_EXPORTER": "none"}
    done = run_program(TWICE, env=environment)
    sums = [line for line in done.stderr.splitlines() if "lost in all" in line]
    assert len(sums) == 2
    for sessions, line in zip((2, 3), sums, strict=True):
        assert f" {sessions + 1} traces by otlp.traces (refused: HTTP 401 Unauthorized: who are you?)" in line
        assert f" {sessions} records by otlp.records (unsupported: HTTP 404 Not Found" in line


def test_the_setting_bounds_the_wait_at_the_end(tmp_path: Path, receiver: OtlpReceiver) -> None:
    """Of two programs at an endpoint that hangs, the one with the longer ROLLSPAN_EXIT_TIMEOUT ends later."""
    endpoint = endpoint_of(receiver, "hangs")
    program = "import rollspan, sys\nwith rollspan.session(): pass\nrollspan.flush(0.1)\nsys.stdin.read()\n"
    waits = {"longer": "8", "shorter": "0.5"}
    running = {
        name: subprocess.Popen(
            [sys.executable, "-c", program],
            env={
                **CLEAN,
                "ROLLSPAN_ENABLED": "1",
                "ROLLSPAN_DIR": str(tmp_path / name),
                "ROLLSPAN_EXIT_TIMEOUT": seconds,
                "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
            },
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        for name, seconds in waits.items()
    }
    assert receiver.wait_for(lambda: len(receiver.bodies("traces")) >= 2, 60)
    for process in running.values():
        assert process.stdin is not None
        process.stdin.close()
    ended: list[str] = []
    while len(ended) < 2:
        ended += [name for name, p in running.items() if name not in ended and p.poll() is not None]
        time.sleep(0.05)
    assert ended == ["shorter", "longer"]
    assert all(process.returncode == 0 for process in running.values())

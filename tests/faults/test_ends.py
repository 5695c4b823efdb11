"""Ends of a process are bounded by its settings, whatever exporters, providers and the interpreter do."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider

import rollspan
from rollspan import exporters
from rollspan.delivery import ThreadedDelivery
from rollspan.exporters import metrics as metrics_module
from rollspan.exporters.metrics import RolloutMetrics
from rollspan.journal import Journal
from rollspan.runtime import Runtime
from tests.faults.jobs import in_file, recover

Run = Callable[..., "subprocess.CompletedProcess[str]"]

NO_THREADS = """
import threading
import rollspan
session = rollspan.start_session()  # with it the worker is made, which is a thread
def no(self):
    raise RuntimeError("can't create new thread at interpreter shutdown")
threading.Thread.start = no
session.mark_rejected()
"""


def test_an_interpreter_that_starts_no_more_threads(run_program: Run, tmp_path: Path) -> None:
    """Where the first batch comes when Python is ending already, it is delivered without a thread."""
    done = run_program(NO_THREADS, env={"OTEL_METRICS_EXPORTER": "none", "PYTHONWARNINGS": "ignore"})
    assert done.stderr == ""
    assert [record["status"] for record in in_file(tmp_path / "data")] == ["rejected"]
    assert not list((tmp_path / "data" / "journal").glob("*"))


LATE = """
import atexit, sys, threading
import rollspan

def late():
    if sys.argv[1] == "thread":
        threading.main_thread().join()
    with rollspan.session(task_id="late"), rollspan.phase("generate"):
        rollspan.TracedExecutor(None)

threading.Thread(target=late).start() if sys.argv[1] == "thread" else atexit.register(late)
"""


@pytest.mark.parametrize("how", ["thread", "atexit"])
def test_a_first_session_when_the_interpreter_is_ending_already(
    run_program: Run, tmp_path: Path, how: str
) -> None:
    """All that rollspan loads, it then loads in a process that takes no more hooks: nothing raises, nothing is lost."""
    environment = {"OTEL_SERVICE_NAME": "late", "OTEL_METRICS_EXPORTER": "none"}
    done = run_program(LATE, how, env=environment)
    assert done.stderr == ""
    if how == "atexit":  # our own hook came too late to be called
        recover(tmp_path / "data")
    (record,) = in_file(tmp_path / "data")
    assert (record["status"], list(record["phases"])) == ("accepted", ["generate"])
    assert not list((tmp_path / "data" / "journal").glob("*"))


def test_a_provider_that_ends_flushes_no_longer_than_an_exit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The processor's shutdown has the time that ROLLSPAN_EXIT_TIMEOUT gives, not a flush's half minute."""
    asked: list[float | None] = []
    rollspan.configure(dir=tmp_path, exit_timeout=1.5)
    monkeypatch.setattr(Runtime, "flush", lambda self, timeout: asked.append(timeout))
    provider = TracerProvider()
    provider.add_span_processor(rollspan.RolloutSpanProcessor())
    provider.shutdown()
    assert asked == [1.5]


def test_the_exporters_own_longer_timeout_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """An endpoint that needs 30 s is given them, where OTEL_EXPORTER_OTLP_TIMEOUT says so; 10 s are the least."""
    for said, expected in (("30", 30.0), ("2", 10.0), ("soon", 10.0)):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", said)
        exporter = exporters.make("otlp", "records")
        delivery = ThreadedDelivery(exporter, {}, Journal(threading.RLock(), list))
        assert delivery._left() == expected
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_LOGS_TIMEOUT", "40")
    assert exporters.make("otlp", "records").timeout == 40.0
    monkeypatch.setenv("OTEL_METRIC_EXPORT_TIMEOUT", "50000")
    assert metrics_module.timeout_from_environment() == 50.0


def test_metrics_that_do_not_shut_down_are_left_behind() -> None:
    """The end waits for somebody's metric exporter for as long as it said."""
    over = threading.Event()

    class Hanging:
        def export(self, timeout: float) -> bool:
            return True

        def close(self) -> None:
            over.wait()

    metrics = RolloutMetrics((), {}, open_sessions=int)
    hanging: Any = Hanging()
    metrics._pipeline = hanging
    closing = threading.Thread(target=metrics.close, args=(0.2,), daemon=True)
    closing.start()
    closing.join(8)
    waits = closing.is_alive()
    over.set()
    assert not waits

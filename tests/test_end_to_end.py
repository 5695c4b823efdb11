"""From the API to an OTLP receiver: traces, records and metrics, through outages, hangs and dead ends."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rollspan.fold import fold
from rollspan.spandata import Link, SpanData
from rollspan.testing import OtlpReceiver, Recording
from rollspan.testing_receiver import Answer
from tests.conftest import CLEAN

Run = Callable[..., "subprocess.CompletedProcess[str]"]

LIFE = """
import os, sys, time, rollspan
def life(i):
    s = rollspan.start_session(task_id=i, group_id=str(i // 4), workflow="w")
    s.mark_enqueued()
    with s.execution():
        with rollspan.phase("generate", model="m"):
            rollspan.record_generation(input_tokens=3, output_tokens=4, weight_version=1, finish_reasons="stop")
        with rollspan.phase("reward", score=float(i)):
            pass
    s.mark_accepted(stats=rollspan.RolloutStats(1, 2, 3, 4))
    s.mark_consumed()
n = int(sys.argv[1])
with rollspan.step(1):
    for i in range(n):
        life(i)
"""


def records(directory: Path) -> list[dict[str, Any]]:
    return [
        json.loads(line)
        for path in directory.glob("sessions*.jsonl")
        for line in path.read_text().splitlines()
    ]


def by_id(found: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    assert len({r["session_id"] for r in found}) == len(found)
    return {r["session_id"]: r for r in found}


def sessions_of(receiver: OtlpReceiver) -> set[str]:
    return {s["attributes"]["session.id"] for s in receiver.spans() if s["name"] == "rollout"}


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_everything_arrives(run_program: Run, tmp_path: Path, receiver: OtlpReceiver, protocol: str) -> None:
    """With an endpoint set: every span, every record, the metrics, once; records equal those of the file."""
    endpoint = receiver.endpoint if protocol != "grpc" else receiver.grpc_endpoint
    run_program(
        LIFE,
        "40",
        env={
            "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
            "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
            "OTEL_SERVICE_NAME": "trainer",
            "OTEL_RESOURCE_ATTRIBUTES": "team=rl",
            "ROLLSPAN_JOURNAL_KEEP": "1",
        },
    )
    in_file = records(tmp_path / "data")
    assert len(in_file) == 40
    assert by_id(receiver.records()) == by_id(in_file)
    spans = receiver.spans()
    assert len({(s["trace_id"], s["span_id"]) for s in spans}) == len(spans) == 40 * 7 + 1
    kept = [s for t in Recording(tmp_path / "data").traces() for s in t.spans]
    assert {(f"{s.trace_id:032x}", f"{s.span_id:016x}", s.name, s.start_ns, s.end_ns) for s in kept} == {
        (s["trace_id"], s["span_id"], s["name"], s["start_ns"], s["end_ns"]) for s in spans
    }
    as_data = [
        SpanData(
            int(s["trace_id"], 16),
            int(s["span_id"], 16),
            int(s["parent_id"] or "0", 16),
            s["name"],
            s["kind"],
            s["start_ns"],
            s["end_ns"],
            s["attributes"],
            links=[Link(0, 0, link["attributes"]) for link in s["links"]],
        )
        for s in spans
    ]
    assert by_id(fold(as_data)) == by_id(in_file)
    resource = spans[0]["resource"]
    assert resource["service.name"] == "trainer"
    assert resource["team"] == "rl"
    assert resource["rl.run.id"]
    assert {r["links"]["dispatch_step"] for r in in_file} == {1}
    names = {m["name"] for m in receiver.metrics()}
    assert "rollout.phase.duration" in names


@pytest.mark.parametrize(
    ("variable", "traces", "logs", "metrics"),
    [("TRACES_", True, False, False), ("LOGS_", False, True, False), ("METRICS_", False, False, True)],
)
def test_an_endpoint_for_one_signal_turns_on_that_signal(
    run_program: Run, receiver: OtlpReceiver, variable: str, traces: bool, logs: bool, metrics: bool
) -> None:
    """OTEL_EXPORTER_OTLP_<SIGNAL>_ENDPOINT sends that signal, and no connection is made for the others."""
    path = {"TRACES_": "traces", "LOGS_": "logs", "METRICS_": "metrics"}[variable]
    run_program(LIFE, "3", env={f"OTEL_EXPORTER_OTLP_{variable}ENDPOINT": f"{receiver.endpoint}/v1/{path}"})
    got = (bool(receiver.spans()), bool(receiver.records()), bool(receiver.metrics()))
    assert got == (traces, logs, metrics)


def test_no_endpoint_means_the_file_alone(run_program: Run, tmp_path: Path) -> None:
    """Without endpoint and exporter nothing of the network is even loaded; the file is written."""
    run_program(
        LIFE
        + "rollspan.flush()\nloaded = [m for m in sys.modules if m.split('.')[0] in ('grpc', 'requests', 'urllib3')]\n"
        + "assert not loaded, loaded\n",
        "3",
    )
    assert len(records(tmp_path / "data")) == 3


def test_console_exporters(run_program: Run) -> None:
    """OTEL_TRACES_EXPORTER=console prints real spans by the SDK's own exporter; `none` prints nothing."""
    done = run_program(LIFE, "1", env={"OTEL_TRACES_EXPORTER": "console", "OTEL_LOGS_EXPORTER": "none"})
    assert '"rollout.phase": "generate"' in done.stdout
    assert "rollout.session" not in done.stdout


def test_an_outage_is_waited_for(run_program: Run, tmp_path: Path, receiver: OtlpReceiver) -> None:
    """While the endpoint answers 503 the file goes on; when it is back, everything arrives, once."""
    receiver.answer(Answer(status=503), times=6)
    run_program(
        LIFE + "time.sleep(0.6)\nfor i in range(n, 2 * n): life(i)\nassert rollspan.flush(30)\n",
        "600",
        env={"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint, "OTEL_METRICS_EXPORTER": "none"},
    )
    assert len(records(tmp_path / "data")) == 1200
    assert len(sessions_of(receiver)) == 1200
    assert len(by_id(receiver.records())) == 1200
    spans = receiver.spans()
    assert len({(s["trace_id"], s["span_id"]) for s in spans}) == len(spans)


def test_a_long_outage_is_caught_up_from_the_journal(
    run_program: Run, tmp_path: Path, receiver: OtlpReceiver
) -> None:
    """When more has been made than waits in memory, the exporter goes back to the journal and loses nothing."""
    receiver.answer(Answer(status=503), signal="traces")
    well = tmp_path / "well"
    made = 9300  # memory holds eight batches of 1024

    def get_well() -> None:
        receiver.wait_for(lambda: len(receiver.logs()) == made, 60)
        receiver.recover()
        well.touch()

    doctor = threading.Thread(target=get_well)
    doctor.start()
    run_program(
        LIFE
        + "for k in range(30):\n    for i in range(n): life(i)\n    rollspan.flush(0.05)\n"
        + "while not os.path.exists(sys.argv[2]): time.sleep(0.05)\nassert rollspan.flush(60)\n",
        "300",
        str(well),
        env={"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint, "OTEL_METRICS_EXPORTER": "none"},
    )
    doctor.join()
    assert len(records(tmp_path / "data")) == made
    spans = [s for s in receiver.spans() if s["name"] == "rollout"]
    assert len(spans) == len(sessions_of(receiver)) == made


@pytest.mark.parametrize(
    "answer", [Answer(status=503), Answer(hang=True), Answer(status=429, retry_after=60)]
)
def test_a_dead_endpoint_keeps_nobody(
    run_program: Run, tmp_path: Path, receiver: OtlpReceiver, answer: Answer
) -> None:
    """An endpoint that refuses or hangs neither delays the file nor the exit; the next run delivers what was left."""
    receiver.answer(answer)
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint, "OTEL_METRICS_EXPORTER": "none"}
    done = run_program(LIFE, "200", env=environment)  # comes back, though the endpoint never does
    assert "not everything was delivered" in done.stderr
    assert len(records(tmp_path / "data")) == 200
    assert not receiver.spans()
    receiver.recover()
    receiver.clear()
    run_program(
        "import rollspan\nwith rollspan.session(task_id='next'): pass\nrollspan.flush()\n", env=environment
    )
    assert len(sessions_of(receiver)) == 201
    assert len(by_id(receiver.records())) == 201
    assert len(by_id(records(tmp_path / "data"))) == 201
    assert list((tmp_path / "data" / "journal").iterdir()) == []


def test_what_is_refused_for_good_is_counted_and_said(
    run_program: Run, tmp_path: Path, receiver: OtlpReceiver
) -> None:
    """400 is no reason to try again: the loss is counted and said once, the rest goes on."""
    receiver.answer(Answer(status=400), signal="traces", times=1)
    done = run_program(
        LIFE
        + "rollspan.flush()\nlife(99)\nrollspan.flush()\n"
        + "from rollspan import health\nprint({k: v for k, v in health.counters().items() if 'lost' in k})\n",
        "10",
        env={"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint, "OTEL_METRICS_EXPORTER": "none"},
    )
    assert "'lost.otlp.traces.refused': 1" in done.stdout
    assert done.stderr.count("otlp.traces lost") == 1
    assert len(by_id(receiver.records())) == 11


def test_an_endpoint_without_logs_switches_records_off_with_one_message(
    run_program: Run, tmp_path: Path, receiver: OtlpReceiver
) -> None:
    """Jaeger alone takes traces and answers 404 to logs: one message, no retries, nothing left behind."""
    receiver.answer(Answer(status=404), signal="logs")
    done = run_program(
        LIFE + "rollspan.flush()\nlife(99)\n",
        "10",
        env={"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint, "OTEL_METRICS_EXPORTER": "none"},
    )
    assert done.stderr.count("switched off") == 1
    assert len(sessions_of(receiver)) == 11
    assert len(receiver.bodies("logs")) == 1
    assert list((tmp_path / "data" / "journal").iterdir()) == []


def test_replay_sends_a_kept_journal_identically(
    run_program: Run, tmp_path: Path, receiver: OtlpReceiver
) -> None:
    """A run without a backend can be sent later, as often as one likes, the same to the byte each time."""
    run_program(LIFE, "20", env={"ROLLSPAN_JOURNAL_KEEP": "1"})
    seen = []
    for _ in range(2):
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "rollspan.cli.main",
                "replay",
                str(tmp_path / "data"),
                "--endpoint",
                receiver.endpoint,
            ],
            env=CLEAN,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        seen.append((receiver.bodies("traces"), receiver.bodies("logs")))
        assert by_id(receiver.records()) == by_id(records(tmp_path / "data"))
        receiver.clear()
    assert seen[0] == seen[1]


def test_killed_with_an_endpoint_and_recovered(
    run_program: Run, tmp_path: Path, receiver: OtlpReceiver
) -> None:
    """`recover` sends what a killed process left to where it would have sent it, without being told."""
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint, "OTEL_METRICS_EXPORTER": "none"}
    run_program(
        LIFE + "import signal\nos.kill(os.getpid(), signal.SIGKILL)\n", "300", env=environment, check=False
    )
    done = subprocess.run(
        [sys.executable, "-m", "rollspan.cli.main", "recover", str(tmp_path / "data")],
        env=CLEAN,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(sessions_of(receiver)) == 300
    assert len({r["session_id"] for r in receiver.records()}) == 300
    spans = {(s["trace_id"], s["span_id"]): s for s in receiver.spans()}
    for span in receiver.spans():
        assert spans[span["trace_id"], span["span_id"]] == span  # a resend is the same span
    assert len(by_id(records(tmp_path / "data"))) == 300


def test_opentelemetry_instrument_turns_it_on(
    run_program: Run, tmp_path: Path, receiver: OtlpReceiver
) -> None:
    """Under opentelemetry-instrument spans leave by its provider, once, httpx's own below generate; records by ours."""
    program = """
import httpx, rollspan, threading
from http.server import BaseHTTPRequestHandler, HTTPServer
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
        self.wfile.write(self.headers.get("traceparent", "").encode())
    def log_message(self, *a): pass
server = HTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
with rollspan.session(task_id=1), rollspan.phase("generate") as span:
    got = httpx.get(f"http://127.0.0.1:{server.server_port}/").text
    assert got.split("-")[1] == f"{span.get_span_context().trace_id:032x}", got
"""
    launcher = str(Path(sys.executable).parent / "opentelemetry-instrument")
    run_program(
        program,
        env={
            "ROLLSPAN_ENABLED": "",
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint,
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "OTEL_TRACES_EXPORTER": "otlp_proto_http",
            "OTEL_LOGS_EXPORTER": "otlp_proto_http",
            "OTEL_METRICS_EXPORTER": "none",
        },
        launcher=(sys.executable, launcher, sys.executable),
    )
    spans = receiver.spans()
    assert sorted(s["name"] for s in spans) == ["GET", "generate", "rollout"]
    named = {s["name"]: s for s in spans}
    assert named["GET"]["parent_id"] == named["generate"]["span_id"]
    (record,) = receiver.records()
    assert record["trace_id"] == named["rollout"]["trace_id"]
    assert len(records(tmp_path / "data")) == 1


def test_the_shortest_program_delivers(run_program: Run, tmp_path: Path, receiver: OtlpReceiver) -> None:
    """A program that ends right after its session, before anything is loaded for its delivery, loses nothing."""
    for n in range(5):
        done = run_program(
            "import rollspan\nwith rollspan.session(): pass\n",
            env={"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint, "ROLLSPAN_DIR": str(tmp_path / str(n))},
        )
        assert done.stderr == ""
        assert len(records(tmp_path / str(n))) == 1
    assert len(receiver.records()) == len(receiver.spans()) == 5

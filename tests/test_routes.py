"""Light spans, the spans of a user's own SDK provider, and spans made with the plain API: one record."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., "subprocess.CompletedProcess[str]"]

SETUP = """
import json, sys
import rollspan
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, TraceIdRatioBased
from rollspan.testing import fixed

exported = InMemorySpanExporter()

def use_provider(**arguments):
    provider = TracerProvider(**arguments)
    provider.add_span_processor(SimpleSpanProcessor(exported))
    trace.set_tracer_provider(provider)
    return provider

def life(i):
    s = rollspan.start_session(task_id=i, group_id="g", session_id=f"s{i}")
    s.mark_enqueued()
    with rollspan.step(3):
        with s.execution():
            for turn in range(2):
                with rollspan.phase("generate", model="m"):
                    rollspan.record_generation(input_tokens=3, output_tokens=4, weight_version=turn)
                with rollspan.phase("toolcall", tool="calc"):
                    with rollspan.phase("odd name"):
                        pass
            late = rollspan.phase("late").__enter__()
        s.count("retries", 2)
        s.mark_accepted(stats=rollspan.RolloutStats(1, 2, 3, 4), reward=float("nan"))
        with s.phase("reward", score=1.0):
            pass
        s.mark_consumed()
    late.end()
    try:
        with rollspan.session(task_id=i):
            with rollspan.phase("generate"):
                raise ValueError("secret")
    except ValueError:
        pass

def show():
    rollspan.flush()
    spans = [
        {
            "name": s.name, "trace": s.context.trace_id, "id": s.context.span_id,
            "parent": s.parent.span_id if s.parent else 0, "start": s.start_time, "end": s.end_time,
            "kind": s.kind.name, "status": s.status.status_code.name, "attributes": dict(s.attributes),
            "links": [[l.context.trace_id, dict(l.attributes)] for l in s.links],
        }
        for s in exported.get_finished_spans()
    ]
    print(json.dumps(spans))
"""


def records(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "sessions-r0.jsonl").read_text().splitlines()]


def comparable(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in r.items() if k not in ("trace_id", "session_id", "run_id")} for r in found]


def test_both_routes_give_equal_records(run_program: Run, tmp_path: Path) -> None:
    """The same life, with light spans and with a real provider's, folds into the same record to the last digit."""
    body = SETUP + "\nif sys.argv[1] == 'sdk': use_provider()\nwith fixed():\n    life(0)\nshow()\n"
    found = {}
    for route in ("light", "sdk"):
        directory = tmp_path / route
        done = run_program(body, route, env={"ROLLSPAN_DIR": str(directory)})
        found[route] = records(directory)
        spans = json.loads(done.stdout)
        assert bool(spans) is (route == "sdk")
    assert comparable(found["light"]) == comparable(found["sdk"])
    assert found["sdk"][0]["late_spans"] == 1
    assert found["sdk"][0]["reward"] == "NaN"


def test_real_spans_carry_what_light_ones_do(run_program: Run, tmp_path: Path) -> None:
    """A provider's own exporters get every span once, with the attributes, links and sums of the specification."""
    from rollspan.fold import fold
    from rollspan.spandata import Link, SpanData

    done = run_program(SETUP + "\nuse_provider()\nlife(0)\nshow()\n")
    raw = json.loads(done.stdout)
    assert len({s["id"] for s in raw}) == len(raw)
    assert "secret" not in done.stdout
    spans = [
        SpanData(
            s["trace"],
            s["id"],
            s["parent"],
            s["name"],
            {"INTERNAL": 1, "CLIENT": 3}[s["kind"]],
            s["start"],
            s["end"],
            s["attributes"],
            {"UNSET": 0, "OK": 1, "ERROR": 2}[s["status"]],
            "",
            [Link(trace, 1, attributes) for trace, attributes in s["links"]],
        )
        for s in raw
    ]
    assert fold(spans) == sorted(records(tmp_path / "data"), key=lambda r: r["submit_ts"])
    root = next(s for s in raw if s["name"] == "rollout")
    assert root["attributes"]["rollout.total_s"] == records(tmp_path / "data")[0]["total_s"]
    assert root["attributes"]["rollout.turns"] == 2
    assert [attributes["rollout.link"] for _, attributes in root["links"]] == ["consume"]


def test_a_provider_that_comes_late_is_found(run_program: Run, tmp_path: Path) -> None:
    """Sessions before the provider are light, sessions after it are its; the provider itself is not replaced."""
    body = (
        SETUP
        + "\nlife(0)\nmine = use_provider()\nlife(1)\nassert trace.get_tracer_provider() is mine\nshow()\n"
    )
    spans = json.loads(run_program(body).stdout)
    assert {s["attributes"].get("rl.sample.task.id") for s in spans if s["name"] == "rollout"} == {1}
    assert len(records(tmp_path / "data")) == 4


@pytest.mark.parametrize(("route", "exported"), [("light", 0), ("sdk", 1)])
def test_the_route_can_be_chosen(run_program: Run, tmp_path: Path, route: str, exported: int) -> None:
    """ROLLSPAN_SPANS decides whatever provider there is."""
    body = SETUP + "\nuse_provider()\nlife(0)\nshow()\n"
    spans = json.loads(run_program(body, env={"ROLLSPAN_SPANS": route}).stdout)
    assert bool(spans) == exported
    assert len(records(tmp_path / "data")) == 2


def test_records_are_complete_where_a_provider_samples(run_program: Run, tmp_path: Path) -> None:
    """A provider that drops most traces gets few spans; every session's record is there with all of its phases."""
    body = SETUP + "\nuse_provider(sampler=TraceIdRatioBased(0.3))\nfor i in range(60): life(i)\nshow()\n"
    spans = json.loads(run_program(body).stdout)
    kept = sum(s["name"] == "rollout" for s in spans)
    assert 0 < kept < 100
    found = records(tmp_path / "data")
    assert len(found) == 120
    assert all("generate" in r["phases"] for r in found)
    assert all(
        len(r["phases"]["toolcall"]) == 2 for r in found if r["task_id"] is not None and "execution_s" in r
    )


def test_httpx_like_spans_hang_below_the_phase(run_program: Run) -> None:
    """A span that another library makes inside a phase is a child of that phase, in the session's trace."""
    body = (
        SETUP
        + "\nuse_provider()\n"
        + "with rollspan.session() as s, rollspan.phase('generate'):\n"
        + "    with trace.get_tracer('http').start_as_current_span('POST'):\n        pass\nshow()\n"
    )
    spans = {s["name"]: s for s in json.loads(run_program(body).stdout)}
    assert spans["POST"]["trace"] == spans["generate"]["trace"]
    assert spans["POST"]["parent"] == spans["generate"]["id"]


PLAIN = (
    SETUP
    + """
def plain(tracer, fail=False):
    root = tracer.start_span("rollout", attributes={
        "rollout.phase": "session", "session.id": "plain", "rl.sample.task.id": 9, "rollout.status": "accepted",
        "rollout.consumed": True}, start_time=10**18)
    below = trace.set_span_in_context(root)
    g = tracer.start_span("my generate", context=below, attributes={
        "rollout.phase": "generate", "gen_ai.usage.output_tokens": 5}, start_time=10**18 + 10**6)
    open_one = tracer.start_span("x", context=below, attributes={"rollout.phase": "x"}, start_time=10**18 + 10**6)
    other = tracer.start_span("not ours", context=below)
    other.end()
    g.end(10**18 + 3 * 10**6)
    root.end(10**18 + 10**7)
    open_one.end()
"""
)


def test_plain_api_spans_make_the_same_record(run_program: Run, tmp_path: Path) -> None:
    """Spans made by hand with the OpenTelemetry API fold by the processor that the user added."""
    run_program(
        PLAIN
        + "\nprovider = use_provider()\nprovider.add_span_processor(rollspan.RolloutSpanProcessor())\n"
        + "plain(trace.get_tracer('mine'))\nshow()\n"
    )
    (record,) = records(tmp_path / "data")
    assert record["session_id"] == "plain"
    assert (record["status"], record["task_id"], record["output_tokens"]) == ("accepted", 9, 5)
    assert record["total_s"] == 0.01
    assert record["generate_s"] == 0.002
    assert set(record["phases"]) == {"generate", "x"}
    assert record["late_spans"] == 1


def test_a_plain_span_inside_our_session_is_a_phase_of_it(run_program: Run, tmp_path: Path) -> None:
    """A span of another tracer that says rollout.phase counts in the session that is current."""
    run_program(
        SETUP
        + "\nuse_provider()\nwith rollspan.session():\n"
        + "    with trace.get_tracer('t').start_as_current_span('s', attributes={'rollout.phase': 'sandbox'}): pass\n"
    )
    (record,) = records(tmp_path / "data")
    assert set(record["phases"]) == {"sandbox"}


@pytest.mark.parametrize("sampler", ["always_off", "parentbased_traceidratio"])
def test_own_route_samples_traces_and_keeps_records(run_program: Run, tmp_path: Path, sampler: str) -> None:
    """OTEL_TRACES_SAMPLER decides which spans we export and what traceparent says, never which records."""
    body = """
import rollspan
sampled = 0
for i in range(100):
    with rollspan.session(task_id=i) as s, rollspan.phase("generate") as span:
        sampled += span.get_span_context().trace_flags.sampled
        assert rollspan.carrier()["traceparent"].endswith("01") == span.get_span_context().trace_flags.sampled
print(sampled)
"""
    done = run_program(
        body,
        env={"OTEL_TRACES_SAMPLER": sampler, "OTEL_TRACES_SAMPLER_ARG": "0.5", "ROLLSPAN_JOURNAL_KEEP": "1"},
    )
    from rollspan.testing import Recording

    exported = sum(t.export_spans for t in Recording(tmp_path / "data").traces())
    assert int(done.stdout) == exported
    assert exported == 0 if sampler == "always_off" else 20 < exported < 80
    assert len(records(tmp_path / "data")) == 100


PLAIN_THREADS = """
import sys, threading
import rollspan
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from rollspan import switch

sys.setswitchinterval(1e-5)
provider = TracerProvider()
provider.add_span_processor(rollspan.RolloutSpanProcessor())
tracer = provider.get_tracer("user")
for i in range(150):
    root = tracer.start_span("rollout", attributes={"rollout.phase": "session"})
    inside = trace.set_span_in_context(root)
    def phases():
        for _ in range(30):
            tracer.start_span("tool", context=inside, attributes={"rollout.phase": "toolcall"})
    threads = [threading.Thread(target=phases) for _ in range(2)]
    phases()
    for thread in threads:
        thread.start()
    root.end()
    for thread in threads:
        thread.join()
print(len(switch.runtime().live))
rejected = tracer.start_span("rollout", attributes={"rollout.phase": "session"})
rejected.set_attributes({"rollout.status": "rejected", "rollout.reason": "mine"})
"""


def test_plain_roots_end_while_phases_begin(run_program: Run, tmp_path: Path) -> None:
    """Phases that begin in other threads do not keep a root open, and one still open at the exit has its verdict."""
    done = run_program(PLAIN_THREADS, env={"OTEL_METRICS_EXPORTER": "none"})
    assert done.stdout.split() == ["0"], done.stderr
    assert done.stderr == ""
    text = [
        line for p in (tmp_path / "data").glob("sessions-r0*.jsonl") for line in p.read_text().splitlines()
    ]
    last = json.loads(text[-1])
    assert len(text) == 151
    assert (last["status"], last["rejection_reason"]) == ("rejected", "mine")


SLOW_PROCESSOR = """
import threading
import rollspan
from opentelemetry import trace
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider

arrived, go_on = threading.Semaphore(0), threading.Semaphore(0)
waited = []

class Slow(SpanProcessor):
    def wait(self, span):
        if threading.current_thread() is not threading.main_thread():
            arrived.release()
            waited.append(go_on.acquire(timeout=10))
    def on_start(self, span, parent_context=None):
        self.wait(span)
    def on_end(self, span):
        self.wait(span)

provider = TracerProvider()
provider.add_span_processor(Slow())
trace.set_tracer_provider(provider)

def life():
    session = rollspan.start_session()
    session.mark_enqueued()
    with session.execution(), rollspan.phase("generate"):
        pass
    session.mark_accepted()
    session.mark_consumed()

slow = threading.Thread(target=life)
slow.start()
while slow.is_alive():
    if arrived.acquire(timeout=0.1):
        life()
        go_on.release()
print(len(waited), all(waited))
"""


def test_a_slow_processor_of_the_user_s_holds_up_its_own_session_alone(
    run_program: Run, tmp_path: Path
) -> None:
    """Other sessions go on while a processor takes its time over one: it is called under no lock of theirs."""
    done = run_program(SLOW_PROCESSOR, env={"PYTHONWARNINGS": "ignore"})
    number, waited = done.stdout.split()
    assert int(number) >= 8
    assert waited == "True"
    assert len(records(tmp_path / "data")) == int(number) + 1

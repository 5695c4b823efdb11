"""Values, sizes, numbers and clocks that nobody expects: the record stays right, and the job does not notice."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from rollspan.testing import OtlpReceiver
from rollspan.testing_receiver import Answer
from tests.faults.jobs import in_file

Run = Callable[..., "subprocess.CompletedProcess[str]"]


HOSTILE = """
import math, sys, threading
import rollspan

class Unprintable:
    def __str__(self): raise RuntimeError("no")
    __repr__ = __str__
class Lying(int):
    def __int__(self): raise RuntimeError("no")
    __index__ = __int__
class Hostile(dict):
    def items(self): raise RuntimeError("no")
    def __iter__(self): raise RuntimeError("no")
loop = []
loop.append(loop)
deep = {}
for _ in range(5000):
    deep = {"deeper": deep}
values = [
    math.nan, math.inf, -math.inf, 2**64, -2**80, b"bytes", b"\\xff\\xfe", {1, 2}, {3: 4, None: 5},
    "\\ud800 alone", "nul \\0 inside", "x" * 1_000_000, Unprintable(), Lying(3), Hostile(a=1), loop, deep,
    [1, "a", None, 2.5], [math.nan], [[1], [2]], (), {}, None, object(), threading.Lock(), len, lambda: 1,
    "\\U0001f600", "\\u202e backwards", 10**5000,
]
names = ["", " ", "a" * 5000, "\\ud800", "gen_ai.system", "rollout.status", 7, None, "with\\nnewline"]
for i, value in enumerate(values):
    session = rollspan.start_session(task_id=value, group_id=value, workflow=value, extra=value)
    with session.execution(note=value) as span:
        with rollspan.phase("generate", model=value, input_tokens=value, finish_reasons=value, weight_version=value):
            rollspan.record_generation(output_tokens=value, conversation_id=value)
        with rollspan.phase("toolcall"):
            rollspan.record_tool_call(value, call_id=value, arguments=value, result=value)
        with rollspan.phase("reward"):
            rollspan.record_reward(value, name=value)
        span.set_attribute("value", value)
    session.mark_accepted(reward=value)
    session.mark_consumed()
for name in names:
    with rollspan.session():
        with rollspan.phase(name) as span:
            span.set_attributes({name: 1})
        rollspan.count(name)
with rollspan.session(**{f"given-{i}": i for i in range(200)}) as session:
    with rollspan.phase("many") as span:
        span.set_attributes({f"key-{i}": i for i in range(10_000)})
    for i in range(300):
        session.set_attribute(f"key-{i}", i)
        rollspan.count(f"counter-{i}")
    session.set_attribute("given-0", "changed")
with rollspan.step(1) as step, rollspan.session():
    for i in range(300):
        step.set_attribute(f"key-{i}", i)
rollspan.flush()
assert rollspan.health.counters()["attributes.dropped"] > 10_000
print(len(values) + len(names) + 2)
"""

PROVIDER = """
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
provider = TracerProvider()
provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
trace.set_tracer_provider(provider)
"""


@pytest.mark.parametrize("route", ["light", "sdk"])
def test_hostile_values_and_names(
    run_program: Run, tmp_path: Path, receiver: OtlpReceiver, route: str
) -> None:
    """Whatever is given as an attribute, an id, a score or a name: a record each, and OTLP that is taken whole."""
    program = HOSTILE if route == "light" else PROVIDER + HOSTILE
    done = run_program(program, env={"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint})
    assert "internal error" not in done.stderr, done.stderr
    n = int(done.stdout)
    text = "".join(path.read_text() for path in (tmp_path / "data").glob("*.jsonl"))
    records = [json.loads(line, parse_constant=pytest.fail) for line in text.splitlines()]
    assert len(records) == n
    assert {record["status"] for record in records} == {"accepted"}
    assert len(receiver.records()) == n
    assert {r["trace_id"]: r for r in receiver.records()} == {r["trace_id"]: r for r in records}
    spans = receiver.spans()
    assert len({span["trace_id"] for span in spans}) == n + 1  # and the step
    values = [value for span in spans for value in span["attributes"].values() if isinstance(value, str)]
    assert {"NaN", "Infinity", "-Infinity"} <= set(values)
    for span in spans:
        assert len(span["attributes"]) <= 128
        assert all(len(str(value).encode()) < 20_000 for value in span["attributes"].values())
    (crowded,) = (span for span in spans if span["attributes"].get("given-0") == "changed")
    assert {"session.id", "rollout.status", "rollout.consumed", "rollout.total_s"} <= crowded[
        "attributes"
    ].keys()


CROWD = """
import sys, rollspan
n = int(sys.argv[1])
sessions = [rollspan.start_session(task_id=i) for i in range(n)]
scopes = [session.execution() for session in sessions]
for session, scope in zip(sessions, scopes):
    session.mark_enqueued()
for scope in scopes:
    scope.__enter__()
for scope in reversed(scopes):
    scope.__exit__(None, None, None)
for session in sessions:
    session.mark_accepted()
for session in sessions:
    session.mark_consumed()
"""


def test_ten_thousand_sessions_at_once(run_program: Run, tmp_path: Path, receiver: OtlpReceiver) -> None:
    """Ten thousand sessions open together end together, at an endpoint that is busy: none is lost."""
    receiver.answer(Answer(status=503), signal="traces", times=2)
    environment = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint,
        "OTEL_METRICS_EXPORTER": "none",
        "ROLLSPAN_EXIT_TIMEOUT": "60",
    }
    run_program(CROWD, "10000", env=environment)
    records = in_file(tmp_path / "data")
    assert sorted(record["task_id"] for record in records) == list(range(10_000))
    assert all({"queue_wait_s", "runner_wait_s", "post_wait_s"} <= record.keys() for record in records)
    assert len({record["session_id"] for record in receiver.records()}) == 10_000
    assert len({span["trace_id"] for span in receiver.spans()}) == 10_000


LONG = """
import rollspan
with rollspan.session(task_id="long"):
    for turn in range(20_000):
        with rollspan.phase("generate", input_tokens=1, output_tokens=1):
            pass
        with rollspan.phase("toolcall", tool="t"):
            pass
"""


def test_a_session_with_forty_thousand_phases(
    run_program: Run, tmp_path: Path, receiver: OtlpReceiver
) -> None:
    """One session's 40,000 phases are all in its record, and all of its spans arrive, in as many requests as need be."""
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint, "ROLLSPAN_EXIT_TIMEOUT": "60"}
    run_program(LONG, env=environment)
    (record,) = in_file(tmp_path / "data")
    assert len(record["phases"]["generate"]) == len(record["phases"]["toolcall"]) == 20_000
    assert record["turns"] == record["output_tokens"] == 20_000
    spans = receiver.spans()
    assert len({span["span_id"] for span in spans}) == len(spans) == 40_001
    assert max(map(len, receiver.bodies("traces"))) <= 4 << 20  # what receivers take at once


CLOCK = """
import time
real_ns, real = time.time_ns, time.time
back = [0]
time.time_ns = lambda: real_ns() - back[0] * 1_000_000_000  # as if somebody set the clock
time.time = lambda: real() - back[0]
import rollspan
before = real()
session = rollspan.start_session(task_id="steps")
session.mark_enqueued()
back[0] = 3600
with session.execution():
    with rollspan.phase("generate"):
        back[0] = -3600
        with rollspan.phase("toolcall"):
            time.sleep(0.01)
        back[0] = 7200
session.mark_accepted()
session.mark_consumed()
print(before, real())
"""


def test_a_wall_clock_that_steps(run_program: Run, tmp_path: Path) -> None:
    """Steps of the wall clock, back and forth in the middle of a session, change no duration and no order."""
    before, after = map(float, run_program(CLOCK).stdout.split())
    (record,) = in_file(tmp_path / "data")
    stamps = [record["submit_ts"], record["enqueue_ts"], record["wait_return_ts"]]
    stamps += [ts for intervals in record["phases"].values() for i in intervals for ts in i.values()]
    assert all(before <= stamp <= after for stamp in stamps)
    durations = {name: value for name, value in record.items() if name.endswith("_s")}
    assert all(0 <= value <= after - before for value in durations.values()), durations
    (outer,), (inner,) = record["phases"]["generate"], record["phases"]["toolcall"]
    assert outer["start_ts"] <= inner["start_ts"] < inner["end_ts"] <= outer["end_ts"]


SEEDED = """
import random, sys
import numpy
random.seed(0)
numpy.random.seed(0)
expected = random.Random(0).random(), numpy.random.RandomState(0).rand()
import rollspan
names = []
for i in range(300):
    with rollspan.session() as session, rollspan.phase("generate") as span:
        names.append(f"{session.trace_id} {span.get_span_context().span_id:016x}")
rollspan.flush()
assert (random.random(), numpy.random.rand()) == expected, "the job's own random streams were advanced"
print("\\n".join(names))
"""


def test_ranks_that_are_seeded_alike(run_program: Run) -> None:
    """`random.seed(0)` in every rank: ids differ all the same, and no random stream of the job is touched."""
    ranks = [run_program(SEEDED, env={"RANK": str(rank)}).stdout.split() for rank in range(4)]
    ids = [name for rank in ranks for name in rank]
    assert len(set(ids)) == len(ids) == 4 * 300 * 2

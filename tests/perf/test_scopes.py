"""Where a timed scope belongs, and what it says."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from opentelemetry import context as otel_context
from opentelemetry import trace as otel_trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import rollspan
from rollspan import perf, switch
from rollspan.cli.main import main
from rollspan.finished import FinishedTrace
from rollspan.testing import OtlpReceiver, Recording, recording, tree

from . import reading


def works(rec: Recording) -> dict[str, FinishedTrace]:
    """The traces that are no session's, by what their roots are called."""
    perf.save()
    switch.shutdown(10.0)
    found = {}
    for trace in rec.traces():
        if not trace.has_record:
            root = trace.spans[0]
            found[f"{root.name} {root.attributes.get('rollout.step', '')}".strip()] = trace
    return found


def test_scopes_of_a_step(rec: Recording) -> None:
    """Scopes below one another, sync and async, in a step's trace and in the rank's file."""

    async def weights() -> None:
        async with perf.atrace_scope("update_weights", category="comm"):
            await asyncio.sleep(0)

    with perf.step(3), perf.trace_scope("train", category=perf.Category.COMPUTE, args={"tokens": 7}):
        with perf.trace_scope("forward"):
            pass
        asyncio.run(weights())
        perf.instant("saved", category="io", args={"path": "x"})
    trace = works(rec)["step 3"]
    assert tree(trace.spans) == {"step": {"train": {"forward": {}, "update_weights": {}, "saved": {}}}}
    found = reading.scopes(rec.directory / "perf-r0.json")
    assert {name: (event["cat"], event["ph"]) for name, event in found.items()} == {
        "step 3": ("step", "X"),
        "train": ("compute", "X"),
        "forward": ("misc", "X"),
        "update_weights": ("comm", "X"),
        "saved": ("io", "i"),
    }
    train, forward, step = found["train"], found["forward"], found["step 3"]
    assert train["args"]["tokens"] == 7
    assert forward["args"]["parent_id"] == train["args"]["span_id"]
    assert {event["tid"] for event in found.values()} == {threading.get_native_id()}
    assert {event["pid"] for event in found.values()} == {os.getpid()}
    for event in (train, forward, step):
        ids = event["args"]["trace_id"], event["args"]["span_id"]
        (span,) = [s for s in trace.spans if (f"{s.trace_id:032x}", f"{s.span_id:016x}") == ids]
        assert event["ts"] == pytest.approx(span.start_ns / 1000, abs=1)
        assert event["dur"] == pytest.approx((span.end_ns - span.start_ns) / 1000)


def test_a_scope_in_a_session_is_its_phase(rec: Recording) -> None:
    """Whatever step it runs in; it has a duration in the record and is not in the file of scopes."""
    with perf.step(1), rollspan.session(), perf.trace_scope("score", category="compute"):
        pass
    (record,) = rec.records()
    assert record["phases"].keys() == {"score"}
    assert "score" not in reading.scopes(rec.directory / "perf-r0.json")


def test_a_step_inside_of_a_session_leaves_the_session_current(rec: Recording) -> None:
    """Phases go on to be the session's."""
    with rollspan.session(), perf.step(1), rollspan.phase("generate"), perf.trace_scope("inner"):
        assert rollspan.current_session()
    (record,) = rec.records()
    assert record["phases"].keys() == {"generate", "inner"}


def test_outside_of_everything_a_scope_is_the_process_own(rec: Recording) -> None:
    """It needs neither step nor session, in any thread; nothing is said of its trace's root in the file."""

    @perf.trace_perf("load", category="io")
    def load() -> None:
        with perf.trace_scope("read"):
            pass

    load()
    other = threading.Thread(target=load, name="loader")
    other.start()
    other.join()
    found = works(rec)
    assert found.keys() == {"process"}
    assert [tree([s]) for s in found["process"].spans[:1]] == [{"process": {}}]
    events = reading.events(rec.directory / "perf-r0.json")
    assert [e["name"] for e in events if e["ph"] == "X"] == ["load", "read"] * 2
    assert "loader" in {e["args"]["name"] for e in events if e["name"] == "thread_name"}


def test_a_stretch_ends_by_itself_and_another_begins(rec: Recording, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scopes are in the file while the process goes on, but not before what is open in the stretch has ended."""
    monkeypatch.setattr("rollspan.stretches._LONGEST_NS", 0)
    path = rec.directory / "perf-r0.json"
    with perf.trace_scope("outer"):
        with perf.trace_scope("inner"):
            pass
        assert rollspan.flush()
        assert not path.exists()
    for name in ("second", "third"):
        rollspan.flush()  # the worker looks, the stretch ends
        rollspan.flush()
        with perf.trace_scope(name):
            pass
    rollspan.flush()
    rollspan.flush()
    found = reading.scopes(path)
    assert found.keys() == {"outer", "inner", "second", "third"}
    traces = {name: event["args"]["trace_id"] for name, event in found.items()}
    assert traces["outer"] == traces["inner"]
    assert len(set(traces.values())) == 3


def test_a_trainer_that_says_its_step_with_its_scopes(rec: Recording) -> None:
    """`global_step` begins the step; the next number, or `save`, ends it. Sessions link to it."""
    for number in (5, 6):
        with perf.trace_scope("rollout", args={"global_step": number}):
            s = rollspan.start_session()
            s.mark_accepted()
            s.mark_consumed()
        with perf.trace_scope("update", args={"global_step": number}), perf.trace_scope("backward"):
            pass
    assert rollspan.current_span().name == "step"
    assert otel_trace.get_current_span() is otel_trace.INVALID_SPAN
    perf.save(step=7)
    assert rec.records()[1]["links"] == {"dispatch_step": 6, "consume_step": 6}
    perf.save(step=6)
    assert otel_context.get_current() == {}
    with perf.trace_scope("evaluate"):
        pass
    found = works(rec)
    assert [tree(found[name].spans) for name in ("step 5", "step 6")] == [
        {"step": {"rollout": {}, "update": {"backward": {}}}}
    ] * 2
    assert tree(found["process"].spans) == {"process": {"evaluate": {}}}


def test_saved_by_force_it_is_in_the_file(rec: Recording) -> None:
    """`save(force=True)` comes back when the step can be read."""
    with perf.trace_scope("rollout", args={"global_step": 1}):
        pass
    perf.save(step=1, force=True)
    assert "rollout" in reading.scopes(rec.directory / "perf-r0.json")
    with perf.trace_scope("between steps"):
        pass
    perf.save(force=True)
    assert "between steps" in reading.scopes(rec.directory / "perf-r0.json")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (None, "misc"),
        ("", "misc"),
        ("IO ", "io"),
        ("Communication", "comm"),
        ("my own", "my own"),
        (perf.Category.SYNC, "sync"),
        (7, "misc"),
        ([], "misc"),
    ],
)
def test_categories(rec: Recording, given: Any, said: str) -> None:
    """AReaL's names and aliases, whatever their case; a text of one's own stays."""
    with perf.step(1), perf.trace_scope("x", category=given):
        pass
    rollspan.flush()
    assert reading.scopes(rec.directory / "perf-r0.json")["x"]["cat"] == said


def test_arguments_may_be_anything(rec: Recording) -> None:
    """Keys that are no texts, values that JSON has not got, content, and a scope's own names."""
    hostile = {1: 2, "nan": float("nan"), "prompt": "secret", "thread.id": "mine", "bytes": b"\xff"}
    with perf.step(1):
        with perf.trace_scope("x", args=hostile):  # type: ignore[arg-type]
            pass
        with perf.trace_scope("y", args=[("a", 1)]):  # type: ignore[arg-type]
            pass
        perf.instant("z", args=7)  # type: ignore[arg-type]
    rollspan.flush()
    found = reading.scopes(rec.directory / "perf-r0.json")
    assert (found["x"]["args"]["1"], found["x"]["args"]["nan"]) == (2, "NaN")
    assert "secret" not in (rec.directory / "perf-r0.json").read_text()
    assert found["x"]["tid"] == threading.get_native_id()
    assert found["y"]["args"]["a"] == 1
    assert found["z"]["ph"] == "i"


def test_an_exception_goes_on_and_is_seen(rec: Recording) -> None:
    """The scope's span has the error."""
    with pytest.raises(ZeroDivisionError), perf.step(1), perf.trace_scope("x"):
        raise ZeroDivisionError
    rollspan.flush()
    assert reading.scopes(rec.directory / "perf-r0.json")["x"]["args"]["error.type"] == "ZeroDivisionError"


def test_off_it_does_nothing() -> None:
    """Scopes can be entered and decorate while rollspan is off."""

    @perf.trace_perf("f")
    def f() -> int:
        return 1

    with perf.trace_scope("x"), perf.step(1):
        perf.instant("y")
        perf.save(force=True)
    assert f() == 1


def test_off_it_loads_nothing(run_program: Any) -> None:
    """Neither OpenTelemetry nor torch, and no file comes to be."""
    source = """
import sys
from rollspan import perf
with perf.trace_scope("x", enable_profiler=True, args={"global_step": 1}), perf.step(1):
    perf.instant("y")
perf.save(force=True)
print([name for name in sys.modules if name.split(".")[0] in ("opentelemetry", "torch", "mmap")])
"""
    assert run_program(source, env={"ROLLSPAN_ENABLED": ""}).stdout == "[]\n"


def test_with_a_provider_of_the_users_its_exporters_get_them(
    tmp_path: Path, provider: InMemorySpanExporter
) -> None:
    """Steps and stretches too; the file has them as well."""
    with recording(tmp_path / "data") as rec:
        with perf.step(1), perf.trace_scope("in step", category="io"):
            pass
        with perf.trace_scope("outside"):
            pass
        assert works(rec).keys() == {"step 1", "process"}
    spans = {span.name: span for span in provider.get_finished_spans()}
    assert spans.keys() == {"step", "in step", "process", "outside"}
    assert spans["in step"].parent.span_id == spans["step"].context.span_id  # type: ignore[union-attr]
    assert spans["in step"].attributes["rollout.category"] == "io"  # type: ignore[index]
    assert reading.scopes(tmp_path / "data/perf-r0.json").keys() == {"step 1", "in step", "outside"}


@pytest.fixture
def provider() -> Iterator[InMemorySpanExporter]:
    """An SDK provider of the user's, as the global one."""
    exporter = InMemorySpanExporter()
    made = TracerProvider()
    made.add_span_processor(SimpleSpanProcessor(exporter))
    before = otel_trace._TRACER_PROVIDER
    otel_trace._TRACER_PROVIDER = made
    yield exporter
    otel_trace._TRACER_PROVIDER = before


def test_they_leave_over_otlp(tmp_path: Path, receiver: OtlpReceiver) -> None:
    """Steps, scopes in them, and the process's own: spans of traces like any."""
    with recording(tmp_path / "data", endpoint=receiver.endpoint, traces_exporters=("otlp",)):
        with perf.step(1), perf.trace_scope("train", category="compute", args={"tokens": 3}):
            pass
        with perf.trace_scope("load"):
            pass
    spans = {span["name"]: span for span in receiver.spans()}
    assert spans.keys() == {"step", "train", "process", "load"}
    assert spans["train"]["parent_id"] == spans["step"]["span_id"]
    assert spans["load"]["parent_id"] == spans["process"]["span_id"]
    said = spans["train"]["attributes"]
    assert (said["rollout.category"], said["tokens"]) == ("compute", 3)


def test_threads_that_time_at_once_lose_nothing(rec: Recording) -> None:
    """In a step and outside of one, while the worker writes what is new and stretches end."""

    def work(number: int) -> None:
        for i in range(300):
            with perf.trace_scope(f"outer {number} {i}"), perf.trace_scope(f"inner {number} {i}"):
                if i % 100 == 0:
                    time.sleep(0.1)

    def all_at_once(context: Callable[[], Any]) -> None:
        with context():
            threads = [threading.Thread(target=rollspan.wrap(work), args=(n,)) for n in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

    all_at_once(lambda: perf.step(1))
    in_step = works(rec)["step 1"].spans
    assert len({span.name for span in in_step}) == 1 + 4 * 600
    assert len(in_step) == 1 + 4 * 600


def test_scopes_survive_a_kill(run_program: Any, tmp_path: Path) -> None:
    """What was over a moment before, and what was open, of a step and of the process itself, once."""
    source = """
import os, signal, time
from rollspan import perf
with perf.trace_scope("warm-up"): pass
perf.step(7).__enter__()
with perf.trace_scope("forward"): pass
perf.trace_scope("backward").__enter__()
time.sleep(1)
os.kill(os.getpid(), signal.SIGKILL)
"""
    run_program(source, check=False)
    path = tmp_path / "data/perf-r0.json"
    assert not path.exists()
    recovered = CliRunner().invoke(main, ["recover", str(tmp_path / "data")])
    assert "2 steps and other traces of scopes to file" in recovered.output
    run_program("import rollspan\nwith rollspan.session(): pass\n")
    names = [event["name"] for event in reading.events(path) if event["ph"] == "X"]
    assert sorted(names) == ["backward", "forward", "step 7", "warm-up"]
    assert reading.scopes(path)["backward"]["args"]["rollout.late"] is True


def test_forked_children_time_for_themselves(run_program: Any, tmp_path: Path) -> None:
    """A child in a step of its parent's has its own scopes, in a file of its own, under its own thread."""
    source = """
import os, threading
from rollspan import perf
import rollspan
with perf.step(1), perf.trace_scope("parent"):
    pid = os.fork()
    if not pid:
        with perf.trace_scope("child"): pass
        print("child", os.getpid(), threading.get_native_id(), flush=True)
        rollspan.shutdown()
        os._exit(0)
    os.waitpid(pid, 0)
"""
    done = run_program(source)
    _, pid, thread = next(line for line in done.stdout.splitlines() if line.startswith("child")).split()
    files = sorted((tmp_path / "data").glob("perf-r0*.json"))
    found = {name: event for path in files for name, event in reading.scopes(path).items()}
    assert found.keys() == {"step 1", "parent", "child"}
    assert (found["child"]["pid"], found["child"]["tid"]) == (int(pid), int(thread))

"""The drop-in for AReaL's tracer: turning on and off, scopes and their file."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

import rollspan
from rollspan import exporters, health, switch
from rollspan.compat.areal import perf_tracer, perf_tracer_539
from tests.compat.configured import config, lines, scopes, sessions, trial
from tests.conftest import CLEAN


def test_a_configured_tracer_turns_rollspan_on(tmp_path: Path) -> None:
    """Beside AReaL's files there are rollspan's, under the rank and role that the program says."""
    perf_tracer.configure(config(tmp_path), rank=2, role="actor")
    assert rollspan.is_enabled()
    with rollspan.session():
        pass
    perf_tracer.save(force=True)
    assert rollspan.flush(10)
    (record,) = map(json.loads, (trial(tmp_path) / "rollspan/sessions-r2.jsonl").read_text().splitlines())
    assert record["role"] == "actor"


def test_a_decision_that_was_made_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has said where rollspan's data goes, or that it is off, is not overruled."""
    rollspan.configure(dir=tmp_path / "mine")
    before = switch.runtime()
    perf_tracer.configure(config(tmp_path), rank=0)
    assert switch.runtime() is before
    perf_tracer.reset()
    rollspan.shutdown()
    perf_tracer.configure(config(tmp_path), rank=0)
    assert not rollspan.is_enabled()
    perf_tracer.reset()
    switch.undecide()
    monkeypatch.setenv("ROLLSPAN_ENABLED", "0")
    perf_tracer.configure(config(tmp_path), rank=0)
    assert not rollspan.is_enabled()


def test_a_call_of_the_api_before_decides_nothing(tmp_path: Path) -> None:
    """Where the environment is silent, asking whether rollspan is on is no word against it."""
    assert not rollspan.is_enabled()
    perf_tracer.configure(config(tmp_path), rank=0)
    assert rollspan.is_enabled()


def use_all_of_it() -> None:
    """Each function once, as a program does."""
    with perf_tracer.trace_scope("scope", args={"global_step": 1}):
        perf_tracer.instant("moment")
    perf_tracer.register_task(5)
    number = perf_tracer.register_session(5)
    perf_tracer.set_session_id(number)
    with perf_tracer.trace_session_phase("generate"):
        pass
    perf_tracer.trace_session_event("mark_reward_start", session_id=number)
    perf_tracer.trace_session_event("mark_finalized", task_id=5, status="accepted")
    assert perf_tracer.trace_perf("called")(lambda: 3)() == 3
    assert perf_tracer.trace_session("toolcall")(lambda: 4)() == 4
    perf_tracer.save(step=1)
    perf_tracer.save(force=True)


@pytest.mark.parametrize("why", ["not configured", "not enabled", "rollspan is off"])
def test_off_is_nothing(why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No file, no thread, no error: as AReaL's."""
    if why == "rollspan is off":
        monkeypatch.setenv("ROLLSPAN_ENABLED", "false")
    if why != "not configured":
        perf_tracer.configure(
            config(tmp_path, enabled=why != "not enabled", sessions=why != "not enabled"), rank=0
        )
    threads = threading.active_count()
    use_all_of_it()
    assert list(tmp_path.iterdir()) == []
    assert threading.active_count() == threads
    assert not rollspan.is_enabled()


def test_numbers_are_given_where_nothing_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program may count on them."""
    monkeypatch.setenv("ROLLSPAN_ENABLED", "0")
    tracer = perf_tracer.configure(config(tmp_path), rank=0)
    numbers = [perf_tracer.register_session(7), perf_tracer.register_session(7)]
    assert len(set(numbers)) == 2
    assert tracer.session_tracer is not None
    assert tracer.session_tracer.get_session_ids(7) == numbers


def test_a_second_tracer_is_refused_until_the_first_is_reset(tmp_path: Path) -> None:
    """AReaL's own errors are those that its callers know."""
    with pytest.raises(RuntimeError):
        perf_tracer.get_tracer()
    assert perf_tracer.GLOBAL_TRACER is None
    tracer = perf_tracer.configure(config(tmp_path), rank=0)
    assert perf_tracer.get_tracer() is perf_tracer.GLOBAL_TRACER is tracer
    with pytest.raises(RuntimeError):
        perf_tracer.configure(config(tmp_path), rank=0)
    perf_tracer.reset()
    assert not perf_tracer.is_configured()
    with pytest.raises(ValueError, match="rank"):
        perf_tracer.configure(config(tmp_path), rank=-1)
    assert not perf_tracer.is_configured()


def test_scopes_are_chrome_events(tmp_path: Path) -> None:
    """With AReaL's fields, times from the tracer's begin, and names of process and thread before them."""
    began = time.time()
    tracer = perf_tracer.configure(config(tmp_path), rank=1, role="actor")

    @perf_tracer.trace_perf("io", category="communication")
    def transfer() -> None:
        time.sleep(0.02)

    with pytest.raises(KeyError), perf_tracer.trace_scope("train", category="compute", args={"n": 3}):
        transfer()
        raise KeyError
    perf_tracer.instant("moment", args={"k": "v"})
    perf_tracer.save(force=True)
    elapsed_us = (time.time() - began) * 1e6
    found = lines(tmp_path, "perf_tracer/actor/traces-r1.jsonl")
    assert [event["name"] for event in found[:3]] == ["process_name", "process_sort_index", "thread_name"]
    by_name = {event["name"]: event for event in found[3:]}
    outer, inner, moment = by_name["train"], by_name["io"], by_name["moment"]
    assert (outer["cat"], inner["cat"], moment["cat"]) == ("compute", "comm", "misc")
    assert 20_000 <= inner["dur"] <= outer["dur"] <= elapsed_us
    assert outer["ts"] <= inner["ts"] <= inner["ts"] + inner["dur"] <= moment["ts"] <= elapsed_us
    assert {event["pid"] for event in found} == {os.getpid()} == {tracer._pid}
    assert {event["tid"] for event in by_name.values()} == {threading.get_native_id()}
    said = {key: value for key, value in outer["args"].items() if not key.endswith("_id")}
    assert said == {"n": 3, "exception": "KeyError", "rank": 1, "role": "actor"}
    assert (moment["ph"], moment["s"], moment["args"]["k"]) == ("i", "t", "v")


def test_a_scope_in_a_session_is_in_the_file_too(tmp_path: Path) -> None:
    """In the trace it belongs to the session."""
    perf_tracer.configure(config(tmp_path), rank=0)
    with rollspan.session(), perf_tracer.trace_scope("look up", category="io"):
        pass
    perf_tracer.save(force=True)
    assert [event["name"] for event in scopes(tmp_path)] == ["look up"]


def test_steps_are_in_the_file_when_they_are_saved(tmp_path: Path) -> None:
    """Every `save_interval` steps all of them are, whatever was timed outside of them too."""
    perf_tracer.configure(config(tmp_path, save_interval=2), rank=0)
    seen = []
    for step in range(4):
        with perf_tracer.trace_scope("train", args={"global_step": step}):
            pass
        perf_tracer.save(step=step)
        with perf_tracer.trace_scope("between"):
            pass
        if step % 2:
            seen.append(sum(event["name"] == "train" for event in scopes(tmp_path)))
    assert seen == [2, 4]
    perf_tracer.save()
    assert sum(event["name"] == "between" for event in scopes(tmp_path)) == 4


def test_set_enabled_turns_scopes_off_and_on(tmp_path: Path) -> None:
    """Functions that were decorated before follow, and a tracer may be turned on late."""

    @perf_tracer.trace_perf("call")
    def call() -> None:
        pass

    tracer = perf_tracer.configure(config(tmp_path, enabled=False, sessions=False), rank=0)
    for flag in (False, True, False, True):
        tracer.set_enabled(flag)
        assert tracer.enabled is flag
        call()
    perf_tracer.save(force=True)
    assert [event["name"] for event in scopes(tmp_path)] == ["call", "call"]


def test_a_profile_is_put_on_the_tracers_clock(tmp_path: Path) -> None:
    """Its events are in the process, on lanes of their own, the first of them at the time that was given."""
    tracer = perf_tracer.configure(config(tmp_path), rank=0)
    base = time.perf_counter_ns()
    began = (time.time_ns() - tracer._events.origin_ns) / 1000
    events = [
        {"ph": "M", "name": "thread_name", "pid": 7, "tid": 20, "args": {"name": "stream 20"}},
        {"ph": "X", "name": "kernel", "pid": 7, "tid": 20, "ts": 1000.5, "dur": 3},
        {"ph": "X", "name": "launch", "pid": 99, "tid": 98, "ts": 1010.5, "dur": 1, "args": {"x": 1}},
        {"ph": "X", "name": "whole", "pid": "Spans", "tid": "x", "ts": 1000.5, "dur": 90},
    ]
    for _ in range(2):
        tracer.merge_profiler_trace({"traceEvents": events}, base)
    found = lines(tmp_path, "perf_tracer/traces-r0.jsonl")
    names = [event["args"]["name"] for event in found if event["ph"] == "M"]
    assert names == ["[Profiler] stream 20", "[Profiler] 98"]
    kernel, launch = [event for event in found if event["ph"] == "X"][:2]
    assert abs(kernel["ts"] - began) < 20_000
    assert launch["ts"] - kernel["ts"] == pytest.approx(10)
    assert kernel["tid"] != launch["tid"]
    assert kernel["tid"] < 0
    assert launch["args"] == {"x": 1, "rank": 0}
    tracer.merge_profiler_trace({}, base)
    with pytest.raises(RuntimeError):
        tracer.merge_profiler_trace({"traceEvents": [{"ph": "M", "name": "x"}]}, base)


def test_a_folder_that_takes_no_files_stops_nobody(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The program goes on, after one wait, and it is said once."""
    (tmp_path / "logs").write_text("no folder")
    rollspan.configure(dir=tmp_path / "data", exit_timeout=0.3)
    perf_tracer.configure(config(tmp_path), rank=0)
    began = time.monotonic()
    for step in range(5):
        with perf_tracer.trace_scope("train", args={"global_step": step}):
            pass
        perf_tracer.save(step=step)
    assert time.monotonic() - began < 2.0
    assert sum("areal cannot deliver" in message for message in caplog.messages) == 1
    (tmp_path / "logs").unlink()
    perf_tracer.save(force=True)
    found = lines(tmp_path, "perf_tracer/traces-r0.jsonl")
    assert [event["name"] for event in found[:3]] == ["process_name", "process_sort_index", "thread_name"]
    assert [event["args"]["global_step"] for event in found[3:]] == [0, 1, 2, 3, 4]


PROGRAM = """
import os, sys, time
from pathlib import Path
from rollspan.compat.areal import perf_tracer
from tests.compat.configured import config

perf_tracer.configure(config(Path(sys.argv[1])), rank=0)
for n in range(int(sys.argv[2])):
    number = perf_tracer.register_session(n)
    perf_tracer.trace_session_event("mark_finalized", session_id=number, status="accepted")
    with perf_tracer.trace_scope("train", args={"global_step": n}):
        pass
    perf_tracer.save(step=n)
"""


def start(source: str, *arguments: object) -> subprocess.Popen[str]:
    """A process of its own, in which nothing is said of rollspan."""
    root = Path(__file__).parents[2]
    return subprocess.Popen(
        [sys.executable, "-c", source, *map(str, arguments)],
        env={**CLEAN, "PYTHONPATH": f"{root}{os.pathsep}{root / 'src'}"},
        stdout=subprocess.PIPE,
        text=True,
    )


def finish(*processes: subprocess.Popen[str]) -> None:
    """They must end well."""
    for process in processes:
        process.communicate(timeout=60)
        assert process.returncode == 0


def test_an_exit_writes_what_there_is(tmp_path: Path) -> None:
    """Without any `save`, and what is open is dropped."""
    source = PROGRAM.replace("perf_tracer.save(step=n)", "perf_tracer.register_session(100)")
    finish(start(source, tmp_path, 3))
    assert [event["name"] for event in scopes(tmp_path)] == ["train"] * 3
    statuses = [(session["status"], session.get("reason")) for session in sessions(tmp_path).values()]
    assert statuses == [("accepted", None)] * 3 + [("dropped", "cancelled")] * 3


def test_a_kill_loses_no_step_that_was_saved(tmp_path: Path) -> None:
    """AReaL's own loses up to 255 finished sessions."""
    process = start(PROGRAM + "\nprint('ready', flush=True); time.sleep(60)", tmp_path, 20)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    process.stdout.close()
    assert len(sessions(tmp_path)) == 20
    assert [event["args"]["global_step"] for event in scopes(tmp_path)] == list(range(20))


KILLED = """
import os, signal
number = perf_tracer.register_session(1)
for n in range(3):
    with perf_tracer.trace_scope("unsaved", args={"global_step": 7}):
        pass
for n in range(200):
    perf_tracer.trace_session_event(
        "mark_finalized", session_id=perf_tracer.register_session(2), status="accepted"
    )
import rollspan.switch
rollspan.switch.runtime().flush(10, only="areal")  # before the worker notes how far that is
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("by", ["rollspan recover", "the next start"])
def test_what_a_kill_leaves_comes_into_the_files(by: str, tmp_path: Path) -> None:
    """Scopes of a step that was not saved, and open sessions too; nothing twice."""
    process = start(PROGRAM + KILLED, tmp_path, 20)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    if by == "rollspan recover":
        finish(start("from rollspan.cli.main import main; main()", "recover", trial(tmp_path) / "rollspan"))
    else:
        finish(start(PROGRAM + "time.sleep(2)", tmp_path, 0))
    found = sessions(tmp_path)
    assert len(found) == 20 + 1 + 200
    assert [
        (line["status"], line["reason"])
        for line in found.values()
        if line["task_id"] == 1 and "reason" in line
    ] == [("dropped", "process_died")]
    assert Counter(event["name"] for event in scopes(tmp_path)) == {"train": 20, "unsaved": 3}


def test_a_trial_that_was_moved_is_not_made_again(tmp_path: Path) -> None:
    """What a kill left of it goes into rollspan's own files, where they are now."""
    process = start(PROGRAM + KILLED, tmp_path / "before", 20)
    process.communicate(timeout=60)
    there = trial(tmp_path / "before")
    (tmp_path / "before").rename(tmp_path / "after")
    here = trial(tmp_path / "after")
    finish(start("from rollspan.cli.main import main; main()", "recover", here / "rollspan"))
    assert not there.exists()
    found = (here / "rollspan/sessions-r0.jsonl").read_text().splitlines()
    assert len(found) == 20 + 1 + 200


def test_a_journal_of_another_version_is_recovered_all_the_same(tmp_path: Path) -> None:
    """What nobody knows here is left out."""
    assert exporters.further_of({}) == []
    health.raise_internal_errors = False
    assert exporters.further_of({"unheard of": [], "areal": [{"path": "x", "kind": "new"}]}) == []
    assert [e.name for e in exporters.further_of({"areal": []})] == ["areal"]


def test_processes_may_share_a_file(tmp_path: Path) -> None:
    """Two of one rank and role, at the same time: every line is whole, and all are there."""
    both = [start(PROGRAM, tmp_path, 40) for _ in range(2)]
    finish(*both)
    assert len(lines(tmp_path, "session_tracer/sessions-r0.jsonl")) == 80
    found = scopes(tmp_path)
    assert {event["pid"] for event in found} == {process.pid for process in both}
    assert len(found) == 80


def test_a_torn_line_costs_itself_alone(tmp_path: Path) -> None:
    """What a killed writer left is cut off, for AReaL's tools stop at it."""
    path = trial(tmp_path) / "session_tracer/sessions-r0.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text('{"session_id": 77}\n{"session_id": 7')
    finish(start(PROGRAM, tmp_path, 1))
    assert sorted(sessions(tmp_path)) == [0, 77]


def test_it_may_come_when_rollspan_works_already(tmp_path: Path) -> None:
    """Its files begin with what is over from then on, and go on when rollspan is turned on anew."""
    rollspan.configure(dir=tmp_path / "one")
    with perf_tracer.trace_scope("before", args={"global_step": 1}):
        pass
    perf_tracer.save()
    assert rollspan.flush(10)
    perf_tracer.configure(config(tmp_path), rank=0)
    with perf_tracer.trace_scope("after", args={"global_step": 2}):
        pass
    perf_tracer.save(force=True)
    assert [event["name"] for event in scopes(tmp_path)] == ["after"]
    rollspan.configure(dir=tmp_path / "two")
    with perf_tracer.trace_scope("anew", args={"global_step": 3}):
        pass
    perf_tracer.save(force=True)
    assert [event["name"] for event in scopes(tmp_path)] == ["after", "anew"]
    perf_tracer.reset()
    with perf_tracer.trace_scope("without a tracer", args={"global_step": 4}):
        pass
    perf_tracer.save()
    assert rollspan.flush(10)
    assert len(scopes(tmp_path)) == 2
    assert "without a tracer" in (tmp_path / "two/perf-r0.json").read_text()


@pytest.mark.parametrize("mode", [None, 0o640])
def test_files_are_their_owners_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int | None
) -> None:
    """As the records, whatever the umask, unless ROLLSPAN_FILE_MODE says otherwise."""
    if mode is not None:
        monkeypatch.setenv("ROLLSPAN_FILE_MODE", f"{mode:o}")
    perf_tracer.configure(config(tmp_path), rank=0)
    with perf_tracer.trace_scope("x"):
        perf_tracer.trace_session_event("mark_finalized", session_id=perf_tracer.register_session(1))
    perf_tracer.save(force=True)
    for name in ("perf_tracer/traces-r0.jsonl", "session_tracer/sessions-r0.jsonl"):
        path = trial(tmp_path) / name
        assert path.stat().st_mode & 0o777 == (mode or 0o600)
        assert list(path.parent.iterdir()) == [path]


def test_a_forked_child_writes_under_its_own_number(
    tmp_path: Path, run_program: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    """And nothing of its parent's twice."""
    root = Path(__file__).parents[2]
    run_program(
        f"""
import multiprocessing, sys
sys.path.insert(0, {str(root)!r})
from pathlib import Path
from rollspan.compat.areal import perf_tracer
from tests.compat.configured import config

def child():
    with perf_tracer.trace_scope("child"):
        pass

if __name__ == "__main__":
    perf_tracer.configure(config(Path({str(tmp_path)!r})), rank=0)
    with perf_tracer.trace_scope("parent"):
        pass
    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join()
    assert process.exitcode == 0
""",
        env={"ROLLSPAN_ENABLED": "", "PYTHONWARNINGS": "ignore"},
    )
    found = scopes(tmp_path)
    assert sorted(event["name"] for event in found) == ["child", "parent"]
    assert len({event["pid"] for event in found}) == 2


def test_importing_it_loads_neither_torch_nor_areal() -> None:
    """A controller may have neither."""
    source = (
        "import sys; import rollspan.compat.areal.perf_tracer, rollspan.compat.areal.perf_tracer_539\n"
        "assert not {'torch', 'areal', 'grpc', 'requests', 'opentelemetry.sdk'} & set(sys.modules)"
    )
    finish(start(source))


def test_the_module_of_the_profiler_is_loaded_when_it_is_asked_for() -> None:
    """`perf_tracer.profiler` is torch's."""
    torch = pytest.importorskip("torch")
    assert perf_tracer.profiler is perf_tracer_539.profiler is torch.profiler
    assert not hasattr(perf_tracer, "nothing")


def test_scopes_are_profiled_in_the_steps_that_the_configuration_names(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As AReaL does it: asked for by the scope, and for that step; also by a scope inside of one that says the step."""
    torch = pytest.importorskip("torch")
    perf_tracer.configure(config(tmp_path, profile_steps=[1, "x"]), rank=0)
    assert "profile_steps=[1, 'x']: expected whole numbers" in caplog.text
    perf_tracer.reset()
    perf_tracer.configure(config(tmp_path, profile_steps=[1, "2"]), rank=0)
    for step in range(3):
        with perf_tracer.trace_scope("train", args={"global_step": step}):
            with perf_tracer.trace_scope(
                "forward", enable_profiler=True, profiler_args={"record_shapes": True}
            ):
                torch.ones(2) + 1
            with perf_tracer.trace_scope("backward"):
                pass
        perf_tracer.save(step=step)
    names = sorted(path.name.rpartition(".step-")[2] for path in tmp_path.rglob("profile-r0.*.json.gz"))
    assert names == ["1-forward.json.gz", "2-forward.json.gz"]

"""Sessions across processes: pools, forks, carriers, exits."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rollspan.testing import OtlpReceiver

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def records(directory: Path) -> list[dict[str, Any]]:
    found = []
    for path in sorted(directory.glob("sessions-r*.jsonl")):
        found += [json.loads(line) for line in path.read_text().splitlines()]
    return found


POOL = """
import asyncio, multiprocessing, random, sys
from concurrent.futures import ProcessPoolExecutor
import rollspan

@rollspan.phase("reward")
def reward(x):
    with rollspan.phase("parse"):
        pass
    rollspan.record_reward(float(x))
    rollspan.count("ignored")
    if x == 3:
        raise ValueError("three")
    return x

async def main():
    random.seed(0)
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(sys.argv[1])) as plain:
        pool = rollspan.TracedExecutor(plain)
        async def one(i):
            s = rollspan.start_session(task_id=i)
            s.mark_enqueued()
            with s.execution():
                try:
                    await asyncio.get_running_loop().run_in_executor(pool, reward, i)
                except ValueError as error:
                    assert str(error) == "three", error
                    assert "in reward" in str(error.__cause__), error.__cause__
                    s.mark_failed(error)
                    return
            s.mark_accepted()
            s.mark_consumed()
        await asyncio.gather(*(one(i) for i in range(6)))

if __name__ == "__main__":
    asyncio.run(main())
"""


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_a_process_pool_brings_its_spans_back(run_program: Run, tmp_path: Path, method: str) -> None:
    """Phases of a pool's function are in the record of the session that submitted it, its failure too."""
    run_program(POOL, method, env={"PYTHONWARNINGS": "ignore"})
    found = records(tmp_path / "data")
    assert len(found) == 6
    for record in found:
        failed = record["task_id"] == 3
        assert record["status"] == ("failed" if failed else "accepted")
        assert record["reward"] == record["task_id"]
        assert set(record["phases"]) == {"execution", "reward", "parse"}
        (execution,), (inner,) = record["phases"]["execution"], record["phases"]["reward"]
        assert execution["start_ts"] <= inner["start_ts"] <= inner["end_ts"] <= execution["end_ts"]
        assert record["late_spans"] == 0
    assert not list((tmp_path / "data").glob("sessions-r0.*.jsonl"))


def test_a_pool_of_a_configured_program_needs_no_environment(run_program: Run, tmp_path: Path) -> None:
    """With configure() instead of the environment, a spawned pool's spans come back as well."""
    source = POOL.replace(
        "    asyncio.run(main())", "    rollspan.configure(dir=sys.argv[2])\n    asyncio.run(main())"
    )
    run_program(source, "spawn", str(tmp_path / "other"), env={"ROLLSPAN_ENABLED": "0", "ROLLSPAN_DIR": ""})
    assert all("reward" in r["phases"] for r in records(tmp_path / "other"))
    assert len(records(tmp_path / "other")) == 6


FORK = """
import multiprocessing, os, sys, random
import rollspan

def child():
    with rollspan.session(task_id="child"):
        with rollspan.phase("generate"):
            pass
    inherited.mark_rejected()
    with rollspan.phase("stray"):
        pass
    how = sys.argv[1]
    if how == "exit": sys.exit(0)
    if how == "raise": raise SystemExit(3)
    if how == "return": return

random.seed(0)
inherited = rollspan.start_session(task_id="parent")
with inherited.execution():
    if sys.argv[2] == "os.fork":
        pid = os.fork()
        if pid == 0:
            try:
                child()
            finally:
                sys.exit(0)
        os.waitpid(pid, 0)
    else:
        p = multiprocessing.get_context("fork").Process(target=child)
        p.start(); p.join()
inherited.mark_accepted()
inherited.mark_consumed()
"""


@pytest.mark.parametrize("how", ["exit", "raise", "return"])
@pytest.mark.parametrize("fork", ["os.fork", "multiprocessing"])
def test_a_forked_child_records_its_own_and_nothing_of_the_parents(
    run_program: Run, tmp_path: Path, how: str, fork: str
) -> None:
    """A child's sessions are there after any normal exit; what it says of the parent's is only a warning."""
    done = run_program(FORK, how, fork, env={"PYTHONWARNINGS": "ignore"})
    found = {r["task_id"]: r for r in records(tmp_path / "data")}
    assert set(found) == {"child", "parent"}
    assert found["parent"]["status"] == "accepted"
    assert set(found["parent"]["phases"]) == {"execution"}
    assert len(records(tmp_path / "data")) == 2
    assert found["child"]["trace_id"] != found["parent"]["trace_id"]
    assert "belongs to the process that started it" in done.stderr
    assert "phase 'stray' has no session here" in done.stderr
    assert not list((tmp_path / "data" / "journal").iterdir())


SEEDED = """
import random, sys
random.seed(0)
import rollspan
for i in range(300):
    with rollspan.session(task_id=i):
        with rollspan.phase("generate") as span:
            span.get_span_context()
print(random.random())
"""


def test_seeded_ranks_have_unique_ids_and_an_untouched_stream(run_program: Run, tmp_path: Path) -> None:
    """random.seed(0) in every rank: no two ids are alike, and the job's own stream is as without rollspan."""
    printed = {
        run_program(SEEDED, env={"RANK": str(rank), "ROLLSPAN_ENABLED": on}).stdout
        for rank in range(3)
        for on in "01"
    }
    assert len(printed) == 1
    found = records(tmp_path / "data")
    assert len({r["trace_id"] for r in found}) == len(found) == 900
    assert {p.name for p in (tmp_path / "data").glob("*.jsonl")} == {f"sessions-r{k}.jsonl" for k in range(3)}


def test_two_processes_of_one_rank_share_no_file(run_program: Run, tmp_path: Path) -> None:
    """The second process of a rank writes beside the first one's file."""
    source = """
import subprocess, sys, rollspan
with rollspan.session(task_id="first"): pass
rollspan.flush()
if len(sys.argv) == 1:
    subprocess.run([sys.executable, __file__, "second"], check=True)
"""
    run_program(source)
    names = sorted(p.name for p in (tmp_path / "data").glob("*.jsonl"))
    assert len(names) == 2
    assert "sessions-r0.jsonl" in names
    assert all(len((tmp_path / "data" / name).read_text().splitlines()) == 1 for name in names)


CARRIER = """
import json, os, subprocess, sys
import rollspan
if len(sys.argv) > 1:
    with rollspan.attach(json.loads(sys.argv[1])) as session:
        assert rollspan.current_session() is session
        with rollspan.phase("remote"):
            with rollspan.phase("inner"):
                pass
        with session.execution(), session:
            assert rollspan.current_session() is session
        with session.activate(), session.phase("named"):
            session.count("ignored")
        session.mark_rejected()
else:
    with rollspan.session(task_id=1, session_id="mine"), rollspan.phase("toolcall"):
        carrier = rollspan.carrier()
        assert all(isinstance(v, str) and v.isascii() for v in carrier.values()), carrier
        subprocess.run([sys.executable, __file__, json.dumps(carrier)], check=True)
        with rollspan.attach(rollspan.carrier()):
            with rollspan.phase("local"):
                pass
"""


@pytest.mark.parametrize("propagators", ["", "tracecontext,baggage"])
def test_a_carrier_takes_the_session_to_another_process(
    run_program: Run, tmp_path: Path, propagators: str
) -> None:
    """Phases made elsewhere belong to the trace, are exported there, and do not change the record."""
    environment = {"OTEL_PROPAGATORS": propagators} if propagators else {}
    done = run_program(CARRIER, env={"ROLLSPAN_JOURNAL_KEEP": "1", **environment})
    (record,) = records(tmp_path / "data")
    assert record["status"] == "accepted"
    assert set(record["phases"]) == {"toolcall", "local"}
    assert "belongs to the process that started it" in done.stderr
    from rollspan.testing import Recording

    traces = Recording(tmp_path / "data").traces()
    spans = {s.name: s for t in traces for s in t.spans}
    assert len({s.trace_id for s in spans.values()}) == 1
    assert spans["remote"].parent_id == spans["toolcall"].span_id == spans["local"].parent_id
    assert spans["inner"].parent_id == spans["remote"].span_id
    assert spans["execution"].parent_id == spans["named"].parent_id == spans["toolcall"].span_id
    assert spans["inner"].attributes["rollout.foreign"] is True
    assert spans["inner"].attributes["session.id"] == "mine"
    assert spans["inner"].attributes["rollout.parent_phase"] == "remote"


ATTACHED_POOL = """
import json, multiprocessing, subprocess, sys
from concurrent.futures import ProcessPoolExecutor
import rollspan

@rollspan.phase("reward")
def reward(x):
    with rollspan.phase("parse"):
        return x

if __name__ == "__main__":
    if len(sys.argv) > 1:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as plain:
            pool = rollspan.TracedExecutor(plain)
            with rollspan.attach(json.loads(sys.argv[1])), rollspan.phase("remote"):
                assert pool.submit(reward, 3).result() == 3
    else:
        with rollspan.session(session_id="mine"), rollspan.phase("toolcall"):
            subprocess.run([sys.executable, __file__, json.dumps(rollspan.carrier())], check=True)
"""


def test_a_pool_of_an_attached_session_brings_its_spans_back(run_program: Run, tmp_path: Path) -> None:
    """What a process pool did for a session of another process leaves with the rest of that session's spans."""
    from rollspan.testing import Recording

    run_program(ATTACHED_POOL, env={"ROLLSPAN_JOURNAL_KEEP": "1"})
    (record,) = records(tmp_path / "data")
    assert set(record["phases"]) == {"toolcall"}
    spans = {s.name: s for t in Recording(tmp_path / "data").traces() for s in t.spans}
    assert spans["reward"].parent_id == spans["remote"].span_id
    assert spans["parse"].parent_id == spans["reward"].span_id
    assert spans["parse"].attributes["rollout.parent_phase"] == "reward"
    assert spans["parse"].attributes["rollout.foreign"] is True
    assert spans["parse"].attributes["session.id"] == "mine"


def test_an_empty_carrier_is_said_and_harmless(run_program: Run, tmp_path: Path) -> None:
    """A carrier without a trace context (OTEL_PROPAGATORS=none) is reported once with what to do."""
    source = """
import rollspan
with rollspan.attach({"x": "y"}):
    with rollspan.phase("lost"): pass
with rollspan.session(task_id=1): pass
"""
    done = run_program(source)
    assert done.stderr.count("the carrier has no trace context") == 1
    assert len(records(tmp_path / "data")) == 1


EXIT = """
import os, sys, threading, rollspan
how = sys.argv[1]
for i in range(50):
    with rollspan.session(task_id=i): pass
rollspan.start_session(task_id="open")
if how == "raise": raise RuntimeError("boom")
if how == "exit": sys.exit(4)
if how == "thread":
    def late():
        for i in range(50, 60):
            with rollspan.session(task_id=i): pass
    threading.Thread(target=late).start()
"""


@pytest.mark.parametrize(
    ("how", "code", "n"), [("return", 0, 51), ("raise", 1, 51), ("exit", 4, 51), ("thread", 0, 61)]
)
def test_every_orderly_exit_delivers(run_program: Run, tmp_path: Path, how: str, code: int, n: int) -> None:
    """At the end of the program, however it ends, every session is in the file and the journal is gone."""
    done = run_program(EXIT, how, check=False)
    assert done.returncode == code, done.stderr
    found = records(tmp_path / "data")
    assert len(found) == n
    assert [r["status"] for r in found if r["task_id"] == "open"] == ["dropped"]
    assert list((tmp_path / "data" / "journal").iterdir()) == []


def test_the_data_is_its_owners(run_program: Run, tmp_path: Path) -> None:
    """Folders and files below ROLLSPAN_DIR are readable by their owner only, and git ignores them."""
    run_program("import rollspan\nwith rollspan.session(): pass\n", env={"ROLLSPAN_JOURNAL_KEEP": "1"})
    data = tmp_path / "data"
    assert (data / ".gitignore").read_text().strip() == "*"
    for path in [data, *data.rglob("*")]:
        assert path.stat().st_mode & 0o077 == 0, path


def test_a_wrong_value_is_reported_once_and_the_default_used(run_program: Run, tmp_path: Path) -> None:
    """A variable that cannot be read is named with what was expected; sessions are recorded all the same."""
    source = (
        "import subprocess, sys, rollspan\nwith rollspan.session(): pass\nsubprocess.run([sys.executable, '-c', "
        "'import rollspan\\nwith rollspan.session(): pass'])\n"
    )
    done = run_program(source, env={"ROLLSPAN_EXIT_TIMEOUT": "soon", "ROLLSPAN_SPANS": "many"})
    for name, value in (("ROLLSPAN_EXIT_TIMEOUT", "soon"), ("ROLLSPAN_SPANS", "many")):
        assert done.stderr.count(f"{name}='{value}'") == 1
    assert "expected" in done.stderr
    assert len(records(tmp_path / "data")) == 2


def test_runs_in_one_folder_are_told_apart(run_program: Run, tmp_path: Path) -> None:
    """Each record names its run; `show` takes the latest run, another by its id, or all."""
    for name in ("first", "second", "fifth"):
        run_program("import rollspan\nwith rollspan.session(): pass\n", env={"ROLLSPAN_RUN_ID": name})
    assert [r["run_id"] for r in records(tmp_path / "data")] == ["first", "second", "fifth"]
    shown = {}
    for options in ((), ("--run", "fir"), ("--run", "fi"), ("--all-runs",), ("--run", "third")):
        shown[options] = run_program(
            "import sys\nfrom rollspan.cli.main import main\nmain(['show', '--json', '--slowest', '9', *sys.argv[1:]])\n",
            *options,
            check=False,
        )
    runs = {o: [json.loads(line)["run_id"] for line in d.stdout.splitlines()] for o, d in shown.items()}
    assert runs == {
        (): ["fifth"],
        ("--run", "fir"): ["first"],
        ("--run", "fi"): [],
        ("--all-runs",): runs[("--all-runs",)],
        ("--run", "third"): [],
    }
    assert sorted(runs[("--all-runs",)]) == ["fifth", "first", "second"]
    assert "3 runs are in here" in shown[()].stderr
    assert "fifth, first, second" in shown[("--run", "third")].stderr
    assert "2 runs begin with 'fi', give more of the id: fifth, first" in shown[("--run", "fi")].stderr


POOL_WITH_A_PROVIDER = """
import multiprocessing, sys
from concurrent.futures import ProcessPoolExecutor
import rollspan
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

def score(x):
    with rollspan.phase("reward"):
        return x * 2

if __name__ == "__main__":
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(), schedule_delay_millis=60000))
    trace.set_tracer_provider(provider)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as inner:
        pool = rollspan.TracedExecutor(inner)
        for task in range(3):
            with rollspan.session(task_id=task):
                assert pool.submit(score, 4).result() == 8
    provider.shutdown()
"""


def test_a_forked_pool_s_spans_leave_by_the_program_s_provider(
    run_program: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    """A pool's process ends without atexit handlers: what its copy of the provider holds is sent all the same."""
    with OtlpReceiver() as receiver:
        env = {"PYTHONWARNINGS": "ignore", "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint}
        run_program(POOL_WITH_A_PROVIDER, env=env)
        names = [span["name"] for span in receiver.spans()]
    assert sorted(names) == ["reward"] * 3 + ["rollout"] * 3

"""Processes side by side, forks at any moment, signals in the middle: no file shared, nothing lost, no one stuck."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from rollspan.testing import OtlpReceiver
from tests.conftest import CLEAN
from tests.faults.jobs import in_file, nothing_left

Run = Callable[..., "subprocess.CompletedProcess[str]"]


SIDE_BY_SIDE = """
import sys, rollspan
for task in range(500):
    with rollspan.session(task_id=task), rollspan.phase("generate"):
        pass
rollspan.flush()
print("written", flush=True)
sys.stdin.read()
"""


def test_processes_with_the_same_folder(tmp_path: Path) -> None:
    """Four jobs of one rank with one folder at the same time: all their sessions, in a file for each."""
    data = tmp_path / "data"
    environment = {**CLEAN, "ROLLSPAN_ENABLED": "1", "ROLLSPAN_DIR": str(data)}
    jobs = [
        subprocess.Popen(
            [sys.executable, "-c", SIDE_BY_SIDE],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for _ in range(4)
    ]
    for job in jobs:
        assert job.stdout is not None
        assert job.stdout.readline()
    runs = [
        {json.loads(line)["run_id"] for line in path.read_text().splitlines()}
        for path in data.glob("*.jsonl")
    ]
    assert [len(run_ids) for run_ids in runs] == [1] * 4
    assert len(set.union(*runs)) == 4
    for job in jobs:
        assert job.communicate()[1] == b""
    assert len({record["session_id"] for record in in_file(data)}) == len(in_file(data)) == 4 * 500
    assert nothing_left(data)


FORKS = """
import os, random, sys, threading, time
import rollspan

def life(task, n):
    for i in range(n):
        session = rollspan.start_session(task_id=f"{task}-{i}")
        with session.execution(), rollspan.phase("generate", prompt_length=i):
            session.count("steps")
        session.mark_accepted()
        session.mark_consumed()

stop = threading.Event()
done = [0] * 3
def busy(number):
    while not stop.is_set():
        life(f"thread-{number}-{done[number]}", 1)
        time.sleep(0.001)
        done[number] += 1

threads = [threading.Thread(target=busy, args=(n,)) for n in range(len(done))]
for thread in threads:
    thread.start()
children = []
for n in range(60):
    time.sleep(random.uniform(0, 0.01))
    if n % 7 == 0:
        rollspan.flush(0.01)
    pid = os.fork()
    if pid == 0:
        life(f"child-{n}", 5)
        sys.exit(0)
    children.append(pid)
codes = [os.waitpid(pid, 0)[1] for pid in children]
stop.set()
for thread in threads:
    thread.join()
print(codes.count(0), sum(done))
"""


def test_forks_in_the_middle_of_everything(run_program: Run, tmp_path: Path) -> None:
    """Sixty forks while threads record, modules are loaded and the worker sends: no child is stuck or repeats."""
    with OtlpReceiver() as receiver:
        environment = {
            "PYTHONWARNINGS": "ignore",
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint,
            "ROLLSPAN_EXIT_TIMEOUT": "60",
        }
        done = run_program(FORKS, env=environment)
        sent = {record["session_id"] for record in receiver.records()}
    whole, of_threads = map(int, done.stdout.split())
    assert whole == 60
    records = in_file(tmp_path / "data")
    assert len({record["session_id"] for record in records}) == len(records)
    assert len({record["task_id"] for record in records}) == len(records)
    of_children = [record for record in records if record["task_id"].startswith("child")]
    assert len(of_children) == 60 * 5
    assert len(records) - len(of_children) == of_threads
    assert all(record["status"] == "accepted" for record in records)
    assert sent == {record["session_id"] for record in records}
    assert nothing_left(tmp_path / "data")


# Argument: the module in whose loading the fork comes.
FORK_WHILE_LOADING = """
import os, signal, sys, threading

loads, forked = threading.Event(), threading.Event()
class Slow:
    def find_spec(name, path=None, target=None):
        if name == sys.argv[1]:
            loads.set()
            forked.wait(0.5)  # a fork that waits for us does not come before we go on

sys.meta_path.insert(0, Slow)
import rollspan

def life(task):
    with rollspan.session(task_id=task), rollspan.phase("generate"):
        pass

thread = threading.Thread(target=life, args=("parent",))
thread.start()
assert loads.wait(60)
pid = os.fork()
if pid == 0:
    signal.alarm(20)  # the end of a child that is stuck
    life("child")
    sys.exit(0)
forked.set()
code = os.waitpid(pid, 0)[1]
thread.join()
print(code)
"""


@pytest.mark.parametrize("module", ["rollspan.api", "rollspan.runtime", "rollspan.exporters.metrics"])
def test_a_fork_while_another_thread_loads(run_program: Run, tmp_path: Path, module: str) -> None:
    """A fork waits for what the first call, or the worker, is loading: its child finds no lock taken for good."""
    done = run_program(FORK_WHILE_LOADING, module, env={"PYTHONWARNINGS": "ignore"})
    assert done.stdout == "0\n", done.stderr
    assert sorted(record["task_id"] for record in in_file(tmp_path / "data")) == ["child", "parent"]
    assert nothing_left(tmp_path / "data")


SIGNALS = """
import itertools, os, signal, threading, time
import rollspan

calls = itertools.count(1)
def handler(number, frame):
    call = next(calls)  # in one step: another handler may come in before the next line
    session = rollspan.start_session(task_id=f"handler-{call}")
    with session.execution(), rollspan.phase("toolcall"):
        pass
    session.mark_accepted()
    session.mark_consumed()

with rollspan.session(task_id="first"):  # what is loaded with the first session is loaded
    pass
signal.signal(signal.SIGUSR1, handler)
go_on = True
def shoot():
    while go_on:
        os.kill(os.getpid(), signal.SIGUSR1)
        time.sleep(0.0005)
shooter = threading.Thread(target=shoot)
shooter.start()
for i in range(10_000):
    session = rollspan.start_session(task_id=i)
    with session.execution(), rollspan.phase("generate"):
        pass
    session.mark_accepted()
    session.mark_consumed()
go_on = False
shooter.join()
time.sleep(0.01)
signal.signal(signal.SIGUSR1, signal.SIG_IGN)
print(next(calls) - 1)
"""


def test_signal_handlers_that_record(run_program: Run, tmp_path: Path) -> None:
    """Handlers that come in between the lines of the journal and record sessions of their own lose none."""
    done = run_program(SIGNALS)
    records = in_file(tmp_path / "data")
    handled = int(done.stdout)
    assert handled > 10
    assert {record["task_id"] for record in records} == {
        "first",
        *range(10_000),
        *(f"handler-{n}" for n in range(1, handled + 1)),
    }
    assert len(records) == 10_001 + handled
    assert all(set(record["phases"]) <= {"execution", "generate", "toolcall"} for record in records)


FORK_IN_AN_ATTACHED_PHASE = """
import os, signal, threading
import rollspan
from rollspan import health, switch

with rollspan.session(task_id="first"):
    pass
rollspan.flush()
carrier = {"traceparent": f"00-{'ab' * 16}-{'cd' * 8}-01", "rollspan-session": "id=x&phase=execution"}
held, over = threading.Event(), threading.Event()
def hold():
    with switch.runtime().lock:
        held.set()
        over.wait()

with rollspan.attach(carrier):
    with rollspan.phase("generate"):
        holder = threading.Thread(target=hold)
        holder.start()
        held.wait()
        pid = os.fork()
        if pid == 0:
            signal.alarm(20)
        else:
            over.set()
            holder.join()
if pid == 0:
    os._exit(0)
print(os.waitpid(pid, 0)[1])
pad = "x" * 16000
for i in range(400):
    with rollspan.session(note=pad):
        pass
print(health.counters().get("journal.segments_in_memory", 0))
"""


def test_a_fork_inside_a_phase_of_another_process_session(run_program: Run, tmp_path: Path) -> None:
    """Both leave the phase: the child is not stuck and takes no name of the parent's next segments."""
    done = run_program(FORK_IN_AN_ATTACHED_PHASE, env={"PYTHONWARNINGS": "ignore"})
    assert done.stdout.split() == ["0", "0"], done.stderr
    assert done.stderr == ""
    assert len(in_file(tmp_path / "data")) == 401


HELD_BY_A_CHILD = """
import os
import rollspan
with rollspan.session():
    pass
rollspan.flush()
def held():
    links = (f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd"))
    return sum("sessions-r" in os.readlink(link) for link in links if os.path.exists(link))
before = held()
pid = os.fork()
if pid == 0:
    print(before, held(), flush=True)
    os._exit(0)
os.waitpid(pid, 0)
"""


def test_a_child_does_not_hold_the_file_of_records(run_program: Run) -> None:
    """A child that outlives a killed parent must not keep the file, and its lock, from the next process."""
    done = run_program(HELD_BY_A_CHILD, env={"PYTHONWARNINGS": "ignore"})
    assert done.stdout.split() == ["1", "0"]


FORK_WHILE_A_CONNECTION_IS_TAKEN = """
import gc, os, sys, threading, time
import rollspan

with rollspan.session():
    pass
assert rollspan.flush()
from urllib3.connectionpool import HTTPConnectionPool

pools = [each for each in gc.get_objects() if isinstance(each, HTTPConnectionPool)]
assert pools
for each in pools:  # as a thread does for a moment when it sends
    each.pool.mutex.acquire()
child = os.fork()
if child == 0:
    with rollspan.session(task_id="child"):
        pass
    sys.exit()
for each in pools:
    each.pool.mutex.release()
for _ in range(300):
    ended, status = os.waitpid(child, os.WNOHANG)
    if ended:
        break
    time.sleep(0.1)
else:
    os.kill(child, 9)
print(status if ended else "stuck")
"""


def test_a_fork_while_a_connection_is_taken(run_program: Run) -> None:
    """urllib3 closes its connections at exit, which takes locks that the parent's threads may have held."""
    with OtlpReceiver() as receiver:
        done = run_program(
            FORK_WHILE_A_CONNECTION_IS_TAKEN,
            env={"PYTHONWARNINGS": "ignore", "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint},
        )
        assert done.stdout.split() == ["0"]
        assert len({record["session_id"] for record in receiver.records()}) == 2


HANDLER_WHILE_LOADING = """
import builtins, signal, sys
import rollspan

called, left = [], int(sys.argv[1])
def handler(number, frame):
    called.append(number)
    with rollspan.session(task_id="handler"), rollspan.phase("toolcall") as span:
        span.set_attribute("a", 1)
        rollspan.record_tool_call("calc")

real = builtins.__import__
def interrupted(name, *arguments, **keywords):
    global left
    if "rollspan" in sys._getframe(1).f_globals.get("__name__", ""):
        left -= 1
        if left == 0:
            signal.raise_signal(signal.SIGUSR1)
    return real(name, *arguments, **keywords)

signal.signal(signal.SIGUSR1, handler)
builtins.__import__ = interrupted
with rollspan.session(task_id="program"), rollspan.phase("generate"):
    pass
builtins.__import__ = real
print(len(called))
"""


@pytest.mark.parametrize("nth", [1, 2, 5, 12, 25, 60, 100])
def test_a_signal_handler_while_rollspan_is_loaded(run_program: Run, tmp_path: Path, nth: int) -> None:
    """At some import of the first session a handler uses rollspan: nothing is raised, the program's session is there."""
    done = run_program(HANDLER_WHILE_LOADING, str(nth))
    assert (done.stdout, done.stderr) == ("1\n", "")
    records = in_file(tmp_path / "data")
    assert [record["task_id"] for record in records if record["task_id"] != "handler"] == ["program"]

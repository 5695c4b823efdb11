"""What a starting process does for those that died before it: the file at once, the network without anybody waiting."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rollspan.testing import OtlpReceiver
from rollspan.testing_receiver import Answer
from tests.conftest import CLEAN
from tests.faults.jobs import in_file, nothing_left, recover

Run = Callable[..., "subprocess.CompletedProcess[str]"]

DEAD, EACH = 4, 20
DIES = f"""
import os, rollspan, signal, sys
for task in range({EACH}):
    with rollspan.session(task_id=task):
        pass
os.kill(os.getpid(), signal.SIGKILL)
"""
SHORT = """
import rollspan, time
with rollspan.session(task_id="next"):
    pass
rollspan.flush(0.3)
print(time.time())
"""
LONG = """
import os, rollspan, sys, time
with rollspan.session(task_id="next"):
    pass
print("begun", flush=True)
sys.stdin.readline()
"""


def leave(run_program: Run, environment: dict[str, str], dead: int = DEAD) -> None:
    """Journals of processes that were killed before anything went over the network."""
    for _ in range(dead):
        run_program(DIES, env=environment, check=False)


def at(receiver: OtlpReceiver) -> dict[str, str]:
    """An environment that sends there."""
    return {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint, "OTEL_METRICS_EXPORTER": "none"}


@contextmanager
def running(source: str, data: Path, environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """A program that has begun, killed at the end."""
    process = subprocess.Popen(
        [sys.executable, "-c", source],
        env={**CLEAN, "ROLLSPAN_ENABLED": "1", "ROLLSPAN_DIR": str(data), **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def each_once(data: Path, sessions: int) -> bool:
    """Whether the file has that many sessions, none of them twice."""
    ids = [record["session_id"] for record in in_file(data)]
    return len(ids) == len(set(ids)) == sessions


def sent(receiver: OtlpReceiver) -> Counter[str]:
    """How often each rollout came."""
    return Counter(span["trace_id"] for span in receiver.spans() if span["name"] == "rollout")


def test_an_endpoint_that_hangs_holds_up_neither_file_nor_exit(
    run_program: Run, tmp_path: Path, receiver: OtlpReceiver
) -> None:
    """Beside four dead journals the file is complete, the exit as ever, and later all is sent once."""
    receiver.answer(Answer(hang=True))
    data = tmp_path / "data"
    leave(run_program, at(receiver))
    done = run_program(SHORT, env=at(receiver))
    assert time.time() - float(done.stdout) < 8.0  # 2 s, on a machine that is not busy
    assert each_once(data, DEAD * EACH + 1)
    receiver.recover()
    receiver.clear()
    assert recover(data, env=at(receiver)).returncode == 0
    assert len(sent(receiver)) == DEAD * EACH + 1
    assert set(sent(receiver).values()) == {1}
    assert each_once(data, DEAD * EACH + 1)
    assert nothing_left(data)


def test_a_short_program_sends_what_was_left(
    run_program: Run, tmp_path: Path, receiver: OtlpReceiver
) -> None:
    """Where the endpoint is well even a program that ends at once brings what four dead ones owed."""
    leave(run_program, at(receiver))
    receiver.clear()
    receiver.answer(Answer(pause=0.3))  # so its own sessions are sent long before the others' are
    run_program(SHORT, env={**at(receiver), "ROLLSPAN_EXIT_TIMEOUT": "20"})
    assert len(sent(receiver)) == DEAD * EACH + 1
    assert len(receiver.records()) == DEAD * EACH + 1
    assert each_once(tmp_path / "data", DEAD * EACH + 1)
    assert list((tmp_path / "data" / "journal").iterdir()) == []


def test_a_program_that_goes_on_sends_when_the_endpoint_is_well_again(
    run_program: Run, tmp_path: Path, receiver: OtlpReceiver
) -> None:
    """What dead processes owe is tried again and again while the program runs; the program's own comes first."""
    receiver.answer(Answer(status=503))
    data = tmp_path / "data"
    leave(run_program, at(receiver))
    with running(LONG, data, at(receiver)):
        assert receiver.wait_for(lambda: len(receiver.bodies("traces")) >= 3, 60)
        receiver.recover()
        assert receiver.wait_for(lambda: len(sent(receiver)) == DEAD * EACH + 1, 60)
        assert receiver.wait_for(lambda: len(receiver.records()) == DEAD * EACH + 1, 60)
    assert set(sent(receiver).values()) == {1}
    assert each_once(data, DEAD * EACH + 1)


FORKS = """
import os, rollspan, sys, time
with rollspan.session(task_id="next"):
    pass
sys.stdin.readline()
if os.fork() == 0:
    print("begun", os.getpid(), flush=True)
    time.sleep(60)
    os._exit(0)
os.wait()
"""


def test_a_forked_child_does_not_hold_what_its_parent_adopted(
    run_program: Run, tmp_path: Path, receiver: OtlpReceiver
) -> None:
    """A process that dies in the middle of sending leaves the journals free, though its children live on."""
    receiver.answer(Answer(hang=True))
    data = tmp_path / "data"
    leave(run_program, at(receiver), dead=1)
    before = len(receiver.bodies("traces"))
    process = subprocess.Popen(
        [sys.executable, "-c", FORKS],
        env={**CLEAN, "ROLLSPAN_ENABLED": "1", "ROLLSPAN_DIR": str(data), **at(receiver)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert receiver.wait_for(
        lambda: len(receiver.bodies("traces")) >= before + 2, 60
    )  # its own, and the dead one's
    process.stdin.write("\n")
    process.stdin.flush()
    child = int(process.stdout.readline().split()[1])
    try:
        process.kill()
        process.wait()
        receiver.recover()
        receiver.clear()
        assert recover(data, env=at(receiver)).returncode == 0
        assert len(sent(receiver)) == EACH + 1
    finally:
        os.kill(child, signal.SIGKILL)
        process.communicate()

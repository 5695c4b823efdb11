"""What loses or leaks a context, on every kind of event loop: phases stay with their own session."""

from __future__ import annotations

import asyncio
import gc
import logging
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace as otel_trace

import rollspan
from rollspan.null import NULL
from rollspan.testing import Recording, tree
from tests.faults.jobs import in_file

Main = Callable[[], Coroutine[Any, Any, None]]


def _eager(main: Main) -> None:
    async def with_eager_tasks() -> None:
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined]
        await main()

    asyncio.run(with_eager_tasks(), debug=True)


def _uvloop(main: Main) -> None:
    uvloop = pytest.importorskip("uvloop")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:  # type: ignore[attr-defined, unused-ignore]
        runner.run(main())


LOOPS: dict[str, Callable[[Main], None]] = {
    "asyncio": lambda main: asyncio.run(main()),
    "debug": lambda main: asyncio.run(main(), debug=True),
    "uvloop": _uvloop,
    "eager": _eager,
}


@pytest.fixture(params=list(LOOPS))
def run(request: pytest.FixtureRequest) -> Callable[[Main], None]:
    """Runs a coroutine function to its end on one kind of loop."""
    if request.param == "eager" and sys.version_info < (3, 12):
        pytest.skip("eager tasks came with Python 3.12")
    if request.param == "uvloop" and sys.version_info < (3, 11):
        pytest.skip("asyncio.Runner came with Python 3.11")
    return LOOPS[request.param]


def shapes(rec: Recording) -> dict[Any, Any]:
    """The tree of each session's spans, by task."""
    found = {}
    for trace in rec.traces():
        assert trace.record is not None
        found[trace.record["task_id"]] = tree(trace.spans)["rollout"]
    return found


def test_tasks_threads_and_executors_keep_to_their_session(
    rec: Recording, run: Callable[[Main], None]
) -> None:
    """Fifty sessions at once, over tasks, to_thread, wrapped threads and executors: no phase goes astray."""

    @rollspan.phase("reward")
    def reward(task: int) -> None:
        assert rollspan.current_session().session_id == f"session-{task}"

    async def one(task: int, pool: rollspan.TracedExecutor) -> None:
        async with rollspan.session(task_id=task, session_id=f"session-{task}"), rollspan.phase("execution"):
            await asyncio.gather(*(asyncio.create_task(child(task)) for _ in range(2)))
            await asyncio.to_thread(reward, task)
            await asyncio.get_running_loop().run_in_executor(pool, reward, task)
            thread = threading.Thread(target=rollspan.wrap(reward), args=(task,))
            thread.start()
            await asyncio.sleep(0)
            await asyncio.to_thread(thread.join)

    async def child(task: int) -> None:
        async with rollspan.phase("generate"):
            await asyncio.sleep(0.001)
            assert rollspan.current_session().session_id == f"session-{task}"

    async def main() -> None:
        with ThreadPoolExecutor(4) as plain:
            pool = rollspan.TracedExecutor(plain)
            await asyncio.gather(*(one(task, pool) for task in range(50)))

    run(main)
    wanted = {"execution": {"generate": {}, "generate#2": {}, "reward": {}, "reward#2": {}, "reward#3": {}}}
    assert shapes(rec) == dict.fromkeys(range(50), wanted)


def test_generators_left_early_leave_nothing_current(
    rec: Recording, run: Callable[[Main], None], caplog: pytest.LogCaptureFixture
) -> None:
    """A stream, and a user's own phase around a yield, left in the middle: the next phase is where it belongs."""

    @rollspan.phase("stream")
    async def stream() -> AsyncIterator[int]:
        for i in range(10):
            await asyncio.sleep(0)
            yield i

    async def careless() -> AsyncIterator[int]:
        with rollspan.phase("careless"):
            yield 1
            yield 2

    async def main() -> None:
        with rollspan.session(task_id="one") as session:
            async for i in stream():
                if i == 1:
                    break
            assert rollspan.current_span() is session
            generator = careless()
            await generator.__anext__()
            await asyncio.create_task(generator.aclose())  # type: ignore[attr-defined]
            gc.collect()
            await asyncio.sleep(0.01)
            with rollspan.phase("next"):
                pass
        assert rollspan.current_session() is NULL

    with caplog.at_level(logging.WARNING):
        run(main)
    complaints = [r for r in caplog.records if r.name != "asyncio"]  # its debug mode tells of slow steps
    assert not complaints, caplog.text
    assert shapes(rec) == {"one": {"stream": {}, "careless": {}, "next": {}}}
    assert otel_trace.get_current_span() is otel_trace.INVALID_SPAN


COLLECTED = """
import gc, sys, time
from pathlib import Path
import rollspan
from rollspan.testing import recording

def block(box):
    with rollspan.phase("stream"):
        yield box

@rollspan.phase("stream")
def decorated(box):
    yield box

@rollspan.phase("around")
def both(box):
    yield from block(box)

class Box:
    pass

stream = {"block": block, "decorated": decorated, "both": both}[sys.argv[1]]
with recording(Path(sys.argv[2])) as rec:
    for threshold in (5, 13, 100, 700):
        with rollspan.session() as session:
            session.mark_accepted()  # from here on the end of each phase writes a line
            gc.set_threshold(threshold)
            for _ in range(1000):
                box = Box()
                box.stream = stream(box)
                next(box.stream)
                with rollspan.phase("work"):
                    pass
            box = None
            gc.set_threshold(700)
            for _ in range(20):  # another thread may be collecting just now: then this one does nothing
                gc.collect()
                time.sleep(0.005)
    for record in rec.records():
        print(len(record["phases"]["stream"]), len(record["phases"]["work"]), record["late_spans"])
"""


@pytest.mark.parametrize("kind", ["block", "decorated", "both"])
def test_generators_closed_by_the_garbage_collector(
    run_program: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path, kind: str
) -> None:
    """Abandoned in cycles, closed at any moment in the middle of our own code: no crash, and no phase is lost."""
    done = run_program(COLLECTED, kind, str(tmp_path / "data"))
    assert done.stdout.splitlines() == ["1000 1000 0"] * 4


def test_cancelled_sessions_do_not_stay_pending(rec: Recording, run: Callable[[Main], None]) -> None:
    """A cancelled task's session is dropped as cancelled, and the cancellation goes on."""

    async def one(task: int) -> None:
        async with rollspan.session(task_id=task), rollspan.phase("generate"):
            await asyncio.sleep(60)

    async def main() -> None:
        tasks = [asyncio.create_task(one(task)) for task in range(20)]
        await asyncio.sleep(0.01)
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(end, asyncio.CancelledError) for end in ended)

    run(main)
    ends = [(record["status"], record["rejection_reason"]) for record in rec.records()]
    assert ends == [("dropped", "cancelled")] * 20


def test_one_failure_in_a_group_leaves_its_siblings_alone(
    rec: Recording, run: Callable[[Main], None]
) -> None:
    """Of a group gathered together one fails: the others have their whole phases and verdicts of their own."""

    async def one(task: int) -> None:
        async with rollspan.session(task_id=task, group_id="g"), rollspan.phase("generate"):
            await asyncio.sleep(0.001 * task)
            if task == 2:
                raise ValueError("of the user's own")

    async def main() -> None:
        ended = await asyncio.gather(*(one(task) for task in range(5)), return_exceptions=True)
        assert [type(end) for end in ended] == [type(None)] * 2 + [ValueError] + [type(None)] * 2

    run(main)
    records = {record["task_id"]: record for record in rec.records()}
    assert [records[task]["status"] for task in range(5)] == ["accepted"] * 2 + ["failed"] + ["accepted"] * 2
    assert all(record["late_spans"] == 0 for record in records.values())
    assert all(record["generate_s"] <= record["total_s"] for record in records.values())


def test_a_task_that_outlives_its_session_leaks_nothing(rec: Recording, run: Callable[[Main], None]) -> None:
    """A phase begun by a task after its session's end belongs to no session, not to the next one either."""

    async def straggler(go: asyncio.Event) -> None:
        await go.wait()
        with rollspan.phase("generate"):
            pass

    async def main() -> None:
        go = asyncio.Event()
        with rollspan.session(task_id="first"):
            task = asyncio.create_task(straggler(go))
            await asyncio.sleep(0)
        with rollspan.session(task_id="second"):
            go.set()
            await task

    run(main)
    assert shapes(rec) == {"first": {}, "second": {}}


HANDLER = """
import functools, signal, sys
import rollspan

class TooLong(Exception):
    pass

class Slow:
    def __str__(self):
        signal.raise_signal(signal.SIGALRM)

def handler(number, frame):
    global raised
    raised += 1
    raise TooLong

class Handler:
    def __call__(self, number, frame):
        handler(number, frame)

def work(seconds):
    before = raised
    signal.setitimer(signal.ITIMER_REAL, seconds)
    while raised == before:
        with rollspan.phase("toolcall"):
            pass

raised = arrived = 0
for each in (handler, Handler(), functools.partial(handler)):
    signal.signal(signal.SIGALRM, each)
    with rollspan.session():
        try:
            rollspan.current_span().set_attribute("slow", Slow())
        except TooLong:
            arrived += 1
        for i in range(200):
            try:
                work(0.0005 + i * 1e-6)
            except TooLong:
                arrived += 1
print(raised, arrived, rollspan.health.counters().get("internal_errors", 0))
"""


def test_an_exception_of_a_signal_handler_arrives(
    run_program: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    """A time limit by signal.alarm that is up in the middle of our own code is no error of ours, and not kept back."""
    done = run_program(HANDLER)
    assert done.stderr == ""
    assert done.stdout.split() == ["603", "603", "0"]
    assert len(in_file(tmp_path / "data")) == 3


RAISING_HANDLER = """
import signal, time
import rollspan

class TooLong(Exception):
    pass

def handler(number, frame):
    raise TooLong

with rollspan.session():
    pass
signal.signal(signal.SIGALRM, handler)
until = time.monotonic() + 2.0
while time.monotonic() < until:
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.0005)
        while time.monotonic() < until:  # Python itself loses what a handler raises in a finalizer
            with rollspan.session(task_id=1), rollspan.phase("generate"):
                rollspan.record_generation(output_tokens=1)
    except TooLong:
        pass
signal.setitimer(signal.ITIMER_REAL, 0)
"""


def test_sessions_that_signal_handlers_break_off_have_a_verdict(
    run_program: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    """Wherever in our own code an exception of a handler comes: what ended has a status, and all is delivered."""
    done = run_program(RAISING_HANDLER)
    assert "not everything was delivered" not in done.stderr
    assert "internal error" not in done.stderr
    records = in_file(tmp_path / "data")
    assert len(records) > 1000
    ends = {(r["status"], r.get("rejection_reason"), "wait_return_ts" in r) for r in records}
    assert ends <= {
        ("accepted", None, True),
        ("failed", "workflow_exception", False),
        ("dropped", "cancelled", False),
    }


RAISING_IN_STEPS = "with rollspan.step(1):".join(
    RAISING_HANDLER.split('with rollspan.session(task_id=1), rollspan.phase("generate"):')
)


def test_steps_that_signal_handlers_break_off_end(
    run_program: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    """Wherever in the beginning or the end of a step an exception of a handler comes, the process ends it in order."""
    assert "rollspan.step(1)" in RAISING_IN_STEPS
    done = run_program(RAISING_IN_STEPS)
    assert "internal error" not in done.stderr
    assert "not everything was delivered" not in done.stderr

"""Rewards in processes that are really killed: time-outs, lost processes, cancellation, and the end of the program."""

from __future__ import annotations

import asyncio
import gc
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import rollspan
from rollspan.rollout.reward import AsyncReward, RewardError, RewardTimeoutError
from rollspan.testing import Recording
from tests.rollout import rewards
from tests.rollout.waiting import until

ROOT = Path(__file__).parents[2]


def pid_in(path: Path) -> int | None:
    """The pid that a reward function left there."""
    return int(path.read_text()) if path.exists() else None


def is_gone(pid: int) -> bool:
    """Whether no process has this pid, or only one that is dead and not yet waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


async def test_a_plain_function_runs_in_another_process_and_its_phases_come_home(rec: Recording) -> None:
    """The score stands at the reward phase, below which is what the function did in its own process."""
    async with AsyncReward(rewards.with_a_phase, workers=1, name="parsed") as reward:
        with rollspan.session():
            assert await reward(2) == 2.0
    (record,) = rec.records()
    assert record["reward"] == 2.0
    assert len(record["phases"]["reward"]) == len(record["phases"]["parse"]) == 1
    (trace,) = rec.traces()
    (span,) = [span for span in trace.spans if span.name == "reward"]
    assert span.attributes["rollout.reward.name"] == "parsed"


async def test_an_async_function_runs_where_it_is_awaited(rec: Recording) -> None:
    """An async function is no process's, and its score is recorded alike."""

    async def score(value: float) -> float:
        await asyncio.sleep(0)
        return value if os.getpid() == here else -1.0

    here = os.getpid()
    with rollspan.session():
        assert await AsyncReward(score)(0.5) == 0.5
    assert rec.records()[0]["reward"] == 0.5


async def test_rewards_work_while_rollspan_is_off() -> None:
    """Without any tracing the score is the same."""
    async with AsyncReward(rewards.same, workers=1) as reward:
        assert await reward(3) == 3.0


async def test_every_kind_of_number_is_a_float() -> None:
    """Bools, integers, numpy's scalars and tensors of one number are scores."""
    numpy = pytest.importorskip("numpy")
    torch = pytest.importorskip("torch")
    values = [
        True,
        1,
        1.0,
        numpy.float32(1),
        numpy.int64(1),
        numpy.array(1.0),
        torch.tensor(1.0),
        torch.ones(1),
    ]
    async with AsyncReward(rewards.same, workers=1) as reward:
        scores = [await reward(value) for value in values]
    assert scores == [1.0] * len(values)
    assert {type(score) for score in scores} == {float}


@pytest.mark.parametrize("value", [None, "1", [1.0], math.nan, math.inf])
async def test_what_is_no_finite_number_is_an_error(value: Any) -> None:
    """What would be a wrong score in training is an error that says what came instead."""
    async with AsyncReward(rewards.same, workers=1) as reward:
        with pytest.raises(RewardError, match=r"same.*expected a (finite )?number"):
            await reward(value)


async def test_the_functions_exception_goes_through(rec: Recording) -> None:
    """The function's own exception is raised as it is, and the phase shows its class."""
    async with AsyncReward(rewards.fails, workers=1) as reward:
        with pytest.raises(KeyError, match="which"), rollspan.session():
            await reward("which")
    (trace,) = rec.traces()
    assert {s.attributes.get("error.type") for s in trace.spans if s.name == "reward"} == {"KeyError"}


async def test_an_exception_that_cannot_travel_is_named() -> None:
    """An exception that the parent could not make again is a RewardError with its class and text."""
    async with AsyncReward(rewards.fails_with_what_cannot_travel, workers=1) as reward:
        with pytest.raises(RewardError, match="UnpicklableError: one and two"):
            await reward()


async def test_a_function_that_ends_the_program_ends_only_its_call() -> None:
    """sys.exit in a reward function is an error of that call."""
    async with AsyncReward(rewards.leaves, workers=1) as reward:
        with pytest.raises(RewardError, match="SystemExit"):
            await reward()


@pytest.mark.parametrize("function", [rewards.hangs, rewards.hangs_in_c, rewards.hangs_in_a_child])
async def test_a_time_out_ends_the_work(tmp_path: Path, function: Callable[..., float]) -> None:
    """What takes too long is killed, in C code and in programs of its own too, and raises RewardTimeoutError."""
    path = tmp_path / "pid"
    async with AsyncReward(function, workers=1, timeout=2) as reward:
        with pytest.raises(RewardTimeoutError, match="after 2 s"):
            await reward(str(path))
        await until(lambda: is_gone(pid_in(path) or 0))


async def test_a_time_out_leaves_the_other_processes_alone(tmp_path: Path) -> None:
    """A call that hangs takes along neither those beside it nor those after it."""
    async with AsyncReward(_hang_or_pid, workers=2, timeout=3) as reward:
        hanging = asyncio.ensure_future(reward(str(tmp_path / "pid")))
        await until(lambda: pid_in(tmp_path / "pid"))
        beside = await reward("")
        with pytest.raises(RewardTimeoutError):
            await hanging
        assert not is_gone(int(beside))
        assert await reward("")


async def test_an_async_function_that_hangs_is_cancelled() -> None:
    """The time-out is an async function's too, and its own TimeoutError is not taken for it."""
    ended = asyncio.Event()

    async def hang() -> float:
        try:
            await asyncio.sleep(3600)
        finally:
            ended.set()
        return 0.0

    async def fail() -> float:
        raise TimeoutError("of its own")

    with pytest.raises(RewardTimeoutError, match="hang"):
        await AsyncReward(hang, timeout=0.05)()
    assert ended.is_set()
    with pytest.raises(TimeoutError, match="of its own"):
        await AsyncReward(fail)()


async def test_a_lost_process_is_replaced_and_the_call_repeated(tmp_path: Path) -> None:
    """A call whose process was killed from outside is made again within `retries`."""
    async with AsyncReward(rewards.dies_once, workers=1, retries=1) as reward:
        assert await reward(str(tmp_path / "pid")) == 1.0


async def test_a_lost_process_without_retries_is_an_error_and_the_next_call_works() -> None:
    """os._exit in a reward is an error that gives the exit code; the next call has a new process."""
    async with AsyncReward(rewards.exits, workers=1) as reward:
        for _ in range(2):
            with pytest.raises(RewardError, match="exit code 7"):
                await reward()


async def test_a_process_that_was_killed_while_idle_costs_no_call() -> None:
    """A process that somebody killed between two calls is replaced before the second."""
    async with AsyncReward(rewards.pid, workers=1) as reward:
        first = int(await reward())
        os.kill(first, signal.SIGKILL)
        await until(lambda: is_gone(first))
        assert int(await reward()) != first


async def test_exceptions_are_retried_as_often_as_asked(tmp_path: Path) -> None:
    """Two retries are three attempts, in one phase; one retry is not enough for this function."""
    async with AsyncReward(rewards.fails_twice, workers=1, retries=2) as reward:
        assert await reward(str(tmp_path / "a")) == 1.0
    async with AsyncReward(rewards.fails_twice, workers=1, retries=1) as reward:
        with pytest.raises(ValueError, match="not yet"):
            await reward(str(tmp_path / "b"))


async def test_a_time_out_is_retried_as_often_as_asked(tmp_path: Path) -> None:
    """A call that took too long is made again, in a new process."""
    async with AsyncReward(rewards.hangs_once, workers=1, timeout=2, retries=1) as reward:
        assert await reward(str(tmp_path / "pid")) == 1.0


async def test_to_cancel_the_task_kills_the_work(tmp_path: Path) -> None:
    """A cancelled call's process is killed, and a call that waited for it goes on in a new one."""
    async with AsyncReward(_hang_or_pid, workers=1) as reward:
        hanging = asyncio.ensure_future(reward(str(tmp_path / "pid")))
        pid = await until(lambda: pid_in(tmp_path / "pid"))
        waiting = asyncio.ensure_future(reward(""))
        never = asyncio.ensure_future(reward(str(tmp_path / "never")))
        await asyncio.sleep(0)
        never.cancel()
        hanging.cancel()
        assert await waiting != pid
        assert is_gone(pid)
        with pytest.raises(asyncio.CancelledError):
            await hanging
    assert not (tmp_path / "never").exists()


async def test_a_call_that_is_cancelled_while_its_process_starts_never_runs(tmp_path: Path) -> None:
    """A call that was cancelled before its process had started is not made, and the process serves the next one."""
    async with AsyncReward(_hang_or_pid, workers=1, timeout=3600) as reward:
        early = asyncio.ensure_future(reward(str(tmp_path / "pid")))
        await until(lambda: reward._processes is not None and reward._processes._crew._processes)
        early.cancel()
        assert await asyncio.wait_for(reward(""), 60)
    assert not (tmp_path / "pid").exists()


async def test_calls_are_taken_in_order() -> None:
    """With one process the calls end in the order in which they came."""
    ended: list[float] = []

    async def call(number: int) -> None:
        ended.append(await reward(number))

    async with AsyncReward(rewards.same, workers=1) as reward:
        await asyncio.gather(*map(call, range(20)))
    assert ended == sorted(ended)


def test_several_threads_with_loops_of_their_own_share_it() -> None:
    """One AsyncReward serves event loops of several threads at once, with no more processes than it may have."""
    found: list[list[float]] = []

    async def some() -> list[float]:
        return await asyncio.gather(*(reward() for _ in range(5)))

    with AsyncReward(rewards.pid, workers=2) as reward:
        threads = [threading.Thread(target=lambda: found.append(asyncio.run(some()))) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert [len(scores) for scores in found] == [5, 5, 5]
    assert len({pid for scores in found for pid in scores}) <= 2


async def test_what_cannot_be_pickled_is_refused_at_once() -> None:
    """A lambda is refused with what would do instead; so is an argument that no process can be given."""
    with pytest.raises(ValueError, match=r"cannot be pickled.*top of a module"):
        AsyncReward(lambda: 1.0)
    async with AsyncReward(rewards.same, workers=1) as reward:
        with pytest.raises(Exception, match=r"(?i)pickle"):
            await reward(lambda: 1.0)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"fn": 3}, "reward function is 3"),
        ({"timeout": 0}, "timeout is 0"),
        ({"timeout": "1"}, "timeout is '1'; expected a finite number of seconds above 0"),
        ({"timeout": None}, "timeout is None; expected a finite number of seconds above 0"),
        ({"timeout": True}, "timeout is True; expected a finite number of seconds above 0"),
        ({"timeout": math.inf}, "timeout is inf; expected a finite number of seconds above 0"),
        ({"start_timeout": 0}, "start_timeout is 0; expected a finite number of seconds above 0"),
        ({"workers": 0}, "workers is 0"),
        ({"retries": -1}, "retries is -1"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments: dict[str, Any], said: str) -> None:
    """A wrong argument is named with its value."""
    with pytest.raises(ValueError, match=said):
        AsyncReward(**{"fn": rewards.same, **arguments})


async def test_close_ends_what_runs_and_what_waits(tmp_path: Path) -> None:
    """After close() calls that ran or waited have failed, the process is gone, and new calls are refused."""
    reward = AsyncReward(rewards.hangs, workers=1)
    calls = [asyncio.ensure_future(reward(str(tmp_path / "pid"))) for _ in range(2)]
    pid = await until(lambda: pid_in(tmp_path / "pid"))
    await reward.aclose()
    for call in calls:
        with pytest.raises(RewardError):
            await call
    assert is_gone(pid)
    with pytest.raises(RewardError, match="closed"):
        await reward("")


PROGRAM = """
import asyncio, sys, threading
from pathlib import Path
from rollspan.rollout.reward import AsyncReward
from tests.rollout import rewards
from tests.rollout.waiting import until

async def main():
    reward = AsyncReward(getattr(rewards, sys.argv[1]), workers=1, timeout=3600)
    asyncio.ensure_future(reward(sys.argv[2])) if len(sys.argv) > 3 else None
    call = loop.create_task(reward(sys.argv[2]))
    while not Path(sys.argv[2]).exists():
        await asyncio.sleep(0.01)
    if "stay" in sys.argv:
        await asyncio.sleep(3600)
    return reward

if __name__ == "__main__":
    loop = asyncio.new_event_loop()
    kept = loop.run_until_complete(main())
"""


def program(tmp_path: Path, *arguments: str) -> subprocess.Popen[bytes]:
    """A program in which a reward function hangs."""
    source = tmp_path / "program.py"
    source.write_text(PROGRAM)
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, str(source), *arguments],
        env={**os.environ, "PYTHONPATH": path},
        stderr=subprocess.DEVNULL,  # a task that was pending is told of
    )


async def test_a_program_ends_although_a_reward_hangs(tmp_path: Path) -> None:
    """A program that neither closes the AsyncReward nor awaits its call ends, and the process with it."""
    path = tmp_path / "pid"
    with program(tmp_path, "hangs", str(path)) as running:
        assert await asyncio.to_thread(running.wait, 60) == 0
    await until(lambda: is_gone(pid_in(path) or 0))


@pytest.mark.parametrize("function", ["hangs", "hangs_in_c", "hangs_in_a_child"])
async def test_processes_leave_when_the_program_is_killed(tmp_path: Path, function: str) -> None:
    """After kill -9 of the program no reward goes on, were it in C code or in a program of its own."""
    path = tmp_path / "pid"
    with program(tmp_path, function, str(path), "stay") as running:
        pid = await until(lambda: pid_in(path))
        assert not is_gone(pid)
        running.kill()
    await until(lambda: is_gone(pid))


OWN = """
import asyncio, sys
from pathlib import Path
from rollspan.rollout.reward import AsyncReward

folder = Path(sys.argv[1])
with (folder / "runs").open("a") as file:
    file.write(f"{__name__} ")

def one():
    return 1

async def score():
    HOW
    calls = [reward() for _ in range(8)]
    found = await asyncio.gather(*calls, return_exceptions=True)
    with (folder / "scored").open("a") as file:
        file.write("once ")
    if isinstance(found[-1], Exception):
        assert {type(error) for error in found} == {type(found[-1])}
        raise found[-1]
    return found[-1]

def main():
    print(asyncio.run(score()))
"""
HOWS = {
    "used": "reward = AsyncReward(one, workers=4)",
    "entered": "reward = await AsyncReward(one, workers=4).__aenter__()",
    "started": "reward = AsyncReward(one, workers=4).start()",
}


def test_a_programs_own_function_is_scored(run_program: Callable[..., Any], tmp_path: Path) -> None:
    """A function of the program itself is found by the processes, of which each imports the program."""
    program = OWN.replace("HOW", HOWS["used"])
    assert (
        run_program(f"{program}\nif __name__ == '__main__':\n    main()\n", str(tmp_path)).stdout == "1.0\n"
    )
    assert (tmp_path / "scored").read_text() == "once "


@pytest.mark.parametrize("how", HOWS)
def test_a_program_without_a_main_guard_is_told_once(
    run_program: Callable[..., Any], tmp_path: Path, how: str
) -> None:
    """One process alone runs the program again, up to where that would start processes; the error names the guard."""
    failed = run_program(f"{OWN.replace('HOW', HOWS[how])}\nmain()\n", str(tmp_path), check=False)
    assert failed.returncode == 1
    last = failed.stderr.strip().splitlines()[-1]
    assert last.startswith(
        "rollspan.rollout.reward.RewardError: AsyncReward(one): a process could not be started"
    )
    assert "if __name__ == '__main__':" in last
    assert failed.stderr.count("Traceback") <= 2  # of the one process, and of the program
    assert (tmp_path / "runs").read_text().split() == ["__main__", "__mp_main__"]


async def test_a_process_that_never_gets_ready_is_an_error() -> None:
    """Not to start in time is told with what bounds it; calls that come later are told at once."""
    async with AsyncReward(rewards.Loads("hang"), workers=2, start_timeout=2) as reward:
        for _ in range(20):
            with pytest.raises(RewardError, match=r"a process could not be started.*2 s.*start_timeout"):
                await reward()


async def test_a_process_that_dies_while_it_starts_is_an_error(tmp_path: Path) -> None:
    """The exit code is told, and where not one ever started no other is tried."""
    path = tmp_path / "loads"
    async with AsyncReward(rewards.Loads("die", str(path)), workers=2) as reward:
        for _ in range(3):
            with pytest.raises(RewardError, match=r"a process could not be started.*exit code 7"):
                await reward()
    assert path.read_text() == "x"


async def test_processes_can_be_started_ahead() -> None:
    """After start() they are there before the first call, which has one of them."""
    with AsyncReward(rewards.pid, workers=2) as reward:
        before = set(multiprocessing.active_children())
        assert reward.start() is reward

        def started() -> set[int | None]:
            found = {process.pid for process in set(multiprocessing.active_children()) - before}
            return found if len(found) == 2 else set()

        pids = await until(started)
        assert int(await reward()) in pids
        reward.start()
        assert await until(started) == pids


async def test_an_async_function_needs_no_start() -> None:
    """start() of an async function's reward does nothing; of a closed one it is refused."""

    async def score() -> float:
        return 1.0

    reward = AsyncReward(score).start()
    assert await reward() == 1.0
    reward.close()
    with pytest.raises(RewardError, match="closed"):
        reward.start()


async def test_processes_end_with_their_object() -> None:
    """An AsyncReward that nobody has any more leaves no process behind."""
    reward = AsyncReward(rewards.pid, workers=1)
    pid = int(await reward())
    del reward
    gc.collect()
    await until(lambda: is_gone(pid))


async def test_ctrl_c_leaves_the_processes_alone() -> None:
    """An interrupt that reaches a process of rewards does not end it."""
    async with AsyncReward(rewards.pid, workers=1) as reward:
        pid = int(await reward())
        os.kill(pid, signal.SIGINT)
        await asyncio.sleep(0.1)
        assert int(await reward()) == pid


def _hang_or_pid(path: str) -> float:
    return rewards.hangs(path) if path else rewards.pid()

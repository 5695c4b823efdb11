"""Turned off, rollspan costs next to nothing and leaves no trace of itself."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import rollspan
from rollspan.carriers import RemoteSession
from rollspan.null import Null
from rollspan.sessions import Session
from rollspan.span import RolloutSpan
from rollspan.steps import Step

PROGRAM = """
import asyncio, os, sys, threading
import rollspan

@rollspan.phase("reward")
def reward(x):
    return x

@rollspan.session()
async def rollout():
    async with rollspan.phase("generate", model="m") as span:
        span.set_attribute("a", 1)
        span.record_generation(input_tokens=1)
        rollspan.record_generation(input_tokens=1, output_tokens=2)
    return reward(1)

assert asyncio.run(rollout()) == 1
s = rollspan.start_session(task_id=1)
s.mark_enqueued()
with s.execution(), s.phase("x"), s.activate(), rollspan.step(3) as step:
    rollspan.count("n")
    step.set_attribute("x", 1)
assert s.carrier() == rollspan.carrier() == {}
with rollspan.attach({}):
    pass
s.mark_accepted(stats=rollspan.RolloutStats(1, 2, 3, 4), reward=1.0)
s.mark_consumed()
s.mark_failed(ValueError())
assert rollspan.wrap(reward) is reward
assert not rollspan.current_session()
assert not rollspan.is_enabled()
assert rollspan.flush() and rollspan.shutdown()
heavy = ("opentelemetry", "grpc", "requests", "torch", "httpx", "rich")
loaded = sorted(m for m in sys.modules if m.split(".")[0] in heavy)
assert not loaded, loaded
assert threading.active_count() == 1
assert not os.path.exists(os.environ["ROLLSPAN_DIR"])
print("done")
"""


@pytest.mark.parametrize("value", ["", "0", "false"])
def test_off_means_off(run_program: Callable[..., subprocess.CompletedProcess[str]], value: str) -> None:
    """Off, the whole API works, loads no OpenTelemetry, starts no thread and writes no file."""
    done = run_program(PROGRAM, env={"ROLLSPAN_ENABLED": value})
    assert done.stdout == "done\n"
    assert done.stderr == ""


def test_otel_sdk_disabled_turns_it_off(run_program: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    """OTEL_SDK_DISABLED=true beats ROLLSPAN_ENABLED=1, which is said once, children included."""
    child = "import subprocess\nsubprocess.run([sys.executable, '-c', 'import rollspan; rollspan.start_session()'])\n"
    done = run_program(PROGRAM + child, env={"OTEL_SDK_DISABLED": "TRUE"})
    assert done.stdout == "done\n"
    (said,) = done.stderr.splitlines()
    assert said.startswith("rollspan: OTEL_SDK_DISABLED='true'")
    assert "rollspan is off" in said
    assert run_program(PROGRAM, env={"OTEL_SDK_DISABLED": "true", "ROLLSPAN_ENABLED": ""}).stderr == ""


def test_everything_off_is_one_object() -> None:
    """All that is handed out while off is the same null object."""
    with rollspan.session() as s, rollspan.phase("x") as span, rollspan.step(1) as step:
        started = rollspan.start_session()
        assert s is span is step is started is rollspan.current_span() is rollspan.current_session()
        assert s.execution() is s.phase("y") is s.activate() is s


# What the machinery calls on the real ones, and no user does.
MACHINERYS = {
    *(
        "abort",
        "add_span",
        "adopt",
        "change",
        "checkpoint",
        "keep_up",
        "end_span",
        "fail",
        "find_open",
        "open_spans",
        "finish",
        "keep",
        "now",
        "row",
    ),
    *("start_execution", "start_phase", "start_span", "tally", "write"),
}


def signature(method: Any) -> list[tuple[str, Any, Any]]:
    """Names, kinds and defaults of a method's parameters behind `self`, whatever their types are called."""
    found = [(each.name, each.kind, each.default) for each in inspect.signature(method).parameters.values()]
    return found[1:] if found and found[0][0] == "self" else found  # in C it may not be named


@pytest.mark.parametrize("real", [Session, RemoteSession, Step, RolloutSpan])
def test_the_null_object_takes_what_the_real_ones_take(real: type) -> None:
    """Each public method of a session, a step and a span is the null object's too, with the same signature."""
    methods = {
        name: method
        for name, method in inspect.getmembers(real, callable)
        if not name.startswith("_") and name not in MACHINERYS
    }
    assert "set_attribute" in methods
    different = {
        name: (signature(method), signature(getattr(Null, name, None) or object))
        for name, method in methods.items()
        if signature(method) != signature(getattr(Null, name, None) or object)
    }
    assert different == {}
    blocks = {f"__{name}__" for name in ("enter", "exit", "aenter", "aexit")}
    assert real in (Step, RolloutSpan) or blocks <= set(dir(real))


def test_a_session_of_another_process_has_what_a_session_has() -> None:
    """What is attached may be either: each public method of a session is there, with the same signature."""
    for name, method in inspect.getmembers(Session, callable):
        if not name.startswith("_") and name not in MACHINERYS:
            assert signature(method) == signature(getattr(RemoteSession, name)), name


@pytest.mark.parametrize(
    "wrong",
    [
        lambda s: s.mark_accepted(1.0),
        lambda s: s.mark_rejected("bad", 1.0),
        lambda s: s.mark_dropped(),
        lambda s: s.mark_dropped("bad", reward=0.0),
        lambda s: s.mark_consumed(3),
        lambda s: s.mark_enqueued(1),
        lambda s: s.execution("x"),
        lambda s: s.phase(),
        lambda s: s.activate(1),
        lambda s: s.count(),
    ],
)
@pytest.mark.parametrize("is_on", [False, True])
def test_a_wrong_call_fails_off_as_it_does_on(
    tmp_path: Path, wrong: Callable[[Any], Any], is_on: bool
) -> None:
    """A call that raises TypeError with rollspan turned on is found by a test of a program that has it off."""
    from rollspan.testing import recording

    with recording(tmp_path / "data") if is_on else contextlib.nullcontext():
        session = rollspan.start_session()
        assert bool(session) is is_on
        with pytest.raises(TypeError):
            wrong(session)
        with rollspan.session(), rollspan.phase("generate") as span, pytest.raises(TypeError):
            span.record_generation(3)
        with rollspan.session(), rollspan.phase("generate"), pytest.raises(TypeError, match="'tokens'"):
            rollspan.record_generation(input_tokens=1, tokens=2)  # type: ignore[call-arg]
        session.mark_dropped("done")


@pytest.mark.parametrize("is_on", [False, True])
def test_a_started_session_is_a_block_on_and_off(tmp_path: Path, is_on: bool) -> None:
    """`with start_session()`: current in the block, ended with it as by `session()`, exceptions included."""
    from rollspan.testing import recording

    async def dropped() -> None:
        async with rollspan.start_session(task_id="dropped"):
            raise asyncio.CancelledError

    with recording(tmp_path / "data") if is_on else contextlib.nullcontext() as rec:
        with rollspan.start_session(task_id="accepted") as session, rollspan.phase("generate"):
            assert rollspan.current_session() is session
        with pytest.raises(KeyError), rollspan.start_session(task_id="failed"):
            raise KeyError
        with pytest.raises(asyncio.CancelledError):
            asyncio.run(dropped())
        with rollspan.start_session(task_id="rejected") as session:
            session.mark_rejected()
        assert not rollspan.current_session()
        if rec is not None:
            found = {r["task_id"]: (r["status"], list(r["phases"])) for r in rec.records()}
            assert found == {
                "accepted": ("accepted", ["generate"]),
                **{status: (status, []) for status in ("failed", "dropped", "rejected")},
            }


def test_a_decorator_applied_while_off_works_once_turned_on(tmp_path: Path) -> None:
    """A function decorated at import is traced when configure() is called later."""

    @rollspan.phase("reward")
    def reward() -> None:
        pass

    reward()
    from rollspan.testing import recording

    with recording(tmp_path / "data") as rec:
        with rollspan.session():
            reward()
        assert list(rec.records()[0]["phases"]) == ["reward"]


def test_exceptions_pass_through_while_off() -> None:
    """The user's exceptions and return values survive decorators and blocks."""

    @rollspan.session()
    async def boom() -> None:
        async with rollspan.phase("x"):
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        asyncio.run(boom())


def test_the_public_names_are_exactly_these() -> None:
    """`__all__` is what can be imported, and nothing public is missing from it."""
    for name in rollspan.__all__:
        assert getattr(rollspan, name) is not None
    assert set(rollspan.__all__) <= set(dir(rollspan))
    from rollspan import api

    public = {
        n
        for n, v in vars(api).items()
        if not n.startswith("_") and getattr(v, "__module__", "") == api.__name__
    }
    assert public <= set(rollspan.__all__)

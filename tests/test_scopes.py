"""Scopes as blocks and decorators, over threads, tasks and generators; nothing current is left behind."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import inspect
import logging
import sys
import threading
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

import pytest
from opentelemetry import context as otel_context
from opentelemetry import trace as otel_trace

import rollspan
from rollspan.null import NULL
from rollspan.span import RolloutSpan
from rollspan.testing import Recording, tree


def nothing_current() -> bool:
    return (
        rollspan.current_span() is NULL
        and rollspan.current_session() is NULL
        and not otel_trace.get_current_span(otel_context.get_current()).get_span_context().is_valid
    )


def test_a_phase_is_the_current_opentelemetry_span(rec: Recording) -> None:
    """Inside a phase OpenTelemetry's current span is the phase, so that others' spans nest below it."""
    with rollspan.session() as s, rollspan.phase("generate") as span:
        assert otel_trace.get_current_span() is span
        assert isinstance(span, otel_trace.Span)
        assert span.get_span_context().is_valid
        assert f"{span.get_span_context().trace_id:032x}" == s.trace_id
        assert rollspan.current_span() is span
        assert rollspan.current_session() is s
    assert nothing_current()


def test_a_span_has_all_that_opentelemetry_asks_of_one() -> None:
    """It is registered as a Span, not derived from it: the class is made before OpenTelemetry is loaded."""
    for name, method in inspect.getmembers(otel_trace.Span, inspect.isfunction):
        if not name.startswith("_") or name in ("__enter__", "__exit__"):
            ours = inspect.signature(getattr(RolloutSpan, name))
            assert ours.bind(*inspect.signature(method).parameters), name


def test_a_phase_that_is_entered_twice_is_left_twice(rec: Recording) -> None:
    """Also where its attributes are known only from when it was entered first."""
    with rollspan.session() as s:
        again = rollspan.phase("again", never_met_before=1)
        with again, again:
            pass
        assert rollspan.current_span() is s
    (trace,) = rec.traces()
    assert tree(trace.spans) == {"rollout": {"again": {"again": {}}}}
    assert not any("rollout.late" in span.attributes for span in trace.spans)


def test_a_name_that_cannot_be_looked_up_is_a_name_all_the_same(rec: Recording) -> None:
    """Whatever is given for a name, nothing is raised into the program."""

    class Evil:
        def __hash__(self) -> int:
            raise RuntimeError("no hash")

        def __str__(self) -> str:
            return "evil"

    with rollspan.session(), rollspan.phase(Evil()):  # type: ignore[arg-type]
        pass
    (trace,) = rec.traces()
    (phase,) = trace.spans[1:]
    assert phase.name


def test_phases_nest_below_the_innermost_open_one(rec: Recording) -> None:
    """A phase is a child of the innermost open phase; an ended one is skipped."""
    with rollspan.session(), rollspan.phase("execution"):
        with rollspan.phase("outer") as outer:
            outer.end()
            with rollspan.phase("after_outer"):
                pass
        with rollspan.phase("toolcall"), rollspan.phase("inner"):
            pass
    assert tree(rec.traces()[0].spans) == {
        "rollout": {"execution": {"outer": {}, "after_outer": {}, "toolcall": {"inner": {}}}}
    }


def test_decorators_keep_every_kind_of_function(rec: Recording) -> None:
    """Decorated functions stay what they were, by inspection and by what they return."""

    @rollspan.phase("plain")
    def plain(x: int) -> int:
        return x + 1

    @rollspan.phase("coroutine")
    async def coroutine(x: int) -> int:
        await asyncio.sleep(0)
        return x + 1

    @rollspan.phase("generator")
    def generator(n: int) -> Any:
        got = []
        for i in range(n):
            got.append((yield i))
        return got

    @rollspan.phase("agenerator")
    async def agenerator(n: int) -> Any:
        for i in range(n):
            await asyncio.sleep(0)
            yield i

    assert inspect.iscoroutinefunction(coroutine)
    assert inspect.isgeneratorfunction(generator)
    assert inspect.isasyncgenfunction(agenerator)
    assert plain.__name__ == "plain"

    async def main() -> None:
        with rollspan.session():
            assert plain(1) == 2
            assert await coroutine(1) == 2
            g = generator(2)
            assert next(g) == 0
            assert g.send("a") == 1
            with pytest.raises(StopIteration) as stop:
                g.send("b")
            assert stop.value.value == ["a", "b"]
            assert [i async for i in agenerator(3)] == [0, 1, 2]

    asyncio.run(main())
    assert set(tree(rec.traces()[0].spans)["rollout"]) == {"plain", "coroutine", "generator", "agenerator"}


def test_a_decorated_session_is_one_per_call(rec: Recording) -> None:
    """Each call of a function decorated by session() is a session; its exception fails it and goes on."""

    @rollspan.session(workflow="w")
    def rollout(x: int) -> int:
        if x == 2:
            raise ValueError
        return x

    assert rollout(1) == 1
    with pytest.raises(ValueError):
        rollout(2)
    assert [(r["status"], r["workflow"]) for r in rec.records()] == [("accepted", "w"), ("failed", "w")]


def test_a_generator_holds_nothing_across_its_yield(rec: Recording) -> None:
    """Between the steps of a decorated generator the caller's own context stands, in every order of steps."""

    @rollspan.phase("stream")
    def stream() -> Any:
        with rollspan.phase("inside"):
            pass
        yield rollspan.current_span().name
        yield rollspan.current_span().name

    with rollspan.session() as s:
        first, second = stream(), stream()
        assert next(first) == "stream"
        assert rollspan.current_span() is s
        assert next(second) == "stream"
        assert next(first) == "stream"
        assert rollspan.current_span() is s
        list(first)
        list(second)
    shape = tree(rec.traces()[0].spans)
    assert shape == {"rollout": {"stream": {"inside": {}}, "stream#2": {"inside": {}}}}


def test_a_session_of_a_generator_closed_early_is_dropped(rec: Recording) -> None:
    """Whoever stops asking a decorated generator cancels its session; a phase that is closed so has not failed."""

    @rollspan.session(task_id="sync")
    def rollout() -> Any:
        yield 1
        yield 2

    @rollspan.session(task_id="async")
    async def arollout() -> Any:
        with rollspan.phase("stream"):
            yield 1
            yield 2

    @rollspan.phase("stream")
    def stream() -> Any:
        yield 1

    async def main() -> None:
        generator = arollout()
        await generator.__anext__()
        await generator.aclose()

    generator = rollout()
    next(generator)
    generator.close()
    asyncio.run(main())
    with rollspan.session(task_id="phase"):
        generator = stream()
        next(generator)
        generator.close()
    ends = {
        r["task_id"]: (r["status"], r.get("rejection_reason"), "wait_return_ts" in r) for r in rec.records()
    }
    assert ends == {
        "sync": ("dropped", "cancelled", False),
        "async": ("dropped", "cancelled", False),
        "phase": ("accepted", None, True),
    }
    phases = [span for trace in rec.traces() for span in trace.spans if span.name == "stream"]
    assert [(span.status, "error.type" in span.attributes) for span in phases] == [(0, False)] * 2


def test_a_generator_called_wrongly_leaves_no_phase_open(rec: Recording) -> None:
    """The TypeError is the user's as ever, and nothing was begun."""

    @rollspan.phase("stream")
    def stream(n: int) -> Any:
        yield n

    with rollspan.session(), pytest.raises(TypeError):
        next(stream())  # type: ignore[call-arg]
    assert rec.records()[0]["phases"] == {}


def test_an_abandoned_async_generator_leaves_nothing_current(
    rec: Recording, caplog: pytest.LogCaptureFixture
) -> None:
    """Leaving a decorated async generator early neither leaves its phase current nor logs anything."""

    @rollspan.phase("stream")
    async def stream() -> Any:
        for i in range(10):
            yield i

    async def main() -> None:
        with rollspan.session() as s:
            async for i in stream():
                if i == 1:
                    break
            assert rollspan.current_span() is s
            gc.collect()
            await asyncio.sleep(0.01)
            assert rollspan.current_span() is s

    with caplog.at_level(logging.WARNING):
        asyncio.run(main())
    assert not caplog.records
    assert nothing_current()
    assert tree(rec.traces()[0].spans) == {"rollout": {"stream": {}}}


def test_a_users_own_phase_across_a_yield_does_not_break_others(
    rec: Recording, caplog: pytest.LogCaptureFixture
) -> None:
    """A `with phase(): yield` that is left in another context ends its phase, raises and logs nothing."""

    async def careless() -> Any:
        with rollspan.phase("careless"):
            yield 1
            yield 2

    async def main() -> None:
        generator = careless()
        with rollspan.session():
            await generator.__anext__()
            await asyncio.create_task(generator.aclose())  # type: ignore[arg-type]
            with rollspan.phase("next"):
                pass

    with caplog.at_level(logging.WARNING):
        asyncio.run(main())
    assert not [r for r in caplog.records if "context" in r.message.lower()]
    shape = tree(rec.traces()[0].spans)
    assert shape == {"rollout": {"careless": {}, "next": {}}}


def test_a_task_that_outlives_its_session(rec: Recording) -> None:
    """What a task does after its session has ended belongs to no session, and is said once."""

    async def straggler(go: asyncio.Event) -> None:
        await go.wait()
        with rollspan.phase("generate"):
            pass

    async def main() -> None:
        go = asyncio.Event()
        with rollspan.session():
            task = asyncio.create_task(straggler(go))
            await asyncio.sleep(0)
        go.set()
        await task

    asyncio.run(main())
    (record,) = rec.records()
    assert record["phases"] == {}


def test_sessions_of_concurrent_tasks_do_not_mix(rec: Recording) -> None:
    """Two hundred tasks at once keep their own session current through every await."""

    async def one(i: int) -> None:
        async with rollspan.session(task_id=i) as s:
            for _ in range(3):
                async with rollspan.phase(f"p{i}"):
                    await asyncio.sleep(0.001)
                    assert rollspan.current_session() is s

    async def main() -> None:
        await asyncio.gather(*(one(i) for i in range(200)))

    asyncio.run(main(), debug=True)
    records = rec.records()
    assert len(records) == 200
    assert all(
        list(r["phases"]) == [f"p{r['task_id']}"] and len(r["phases"][f"p{r['task_id']}"]) == 3
        for r in records
    )


def test_threads_get_the_session_by_wrap(rec: Recording) -> None:
    """A plain thread has no session; wrap() takes the current phase along, and gives it back at the end."""
    seen = []

    def work() -> None:
        seen.append(rollspan.current_session().session_id)
        with rollspan.phase("reward"):
            pass

    with rollspan.session() as s, rollspan.phase("execution"):
        thread = threading.Thread(target=rollspan.wrap(work))
        thread.start()
        thread.join()
        with ThreadPoolExecutor(1) as pool:
            pool.submit(rollspan.wrap(work)).result()
            assert pool.submit(lambda: rollspan.current_session() is NULL).result()
    assert seen == [s.session_id] * 2
    assert tree(rec.traces()[0].spans) == {"rollout": {"execution": {"reward": {}, "reward#2": {}}}}


def test_run_in_executor_with_a_traced_executor(rec: Recording) -> None:
    """loop.run_in_executor loses the context; through TracedExecutor the reward belongs to its session."""

    @rollspan.phase("reward")
    def reward(x: float) -> float:
        rollspan.record_reward(x)
        return x

    async def one(pool: rollspan.TracedExecutor, i: int) -> None:
        async with rollspan.session(task_id=i):
            assert await asyncio.get_running_loop().run_in_executor(pool, reward, float(i)) == i

    async def main() -> None:
        with ThreadPoolExecutor(4) as plain:
            pool = rollspan.TracedExecutor(plain)
            await asyncio.gather(*(one(pool, i) for i in range(20)))

    asyncio.run(main())
    assert all(r["reward"] == r["task_id"] for r in rec.records())


class _AtOnce(Executor):
    """An executor of somebody's that runs what it is given in the caller's thread."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except ValueError as exc:
            future.set_exception(exc)
        return future


def test_a_traced_executor_around_any_executor_of_this_process(rec: Recording) -> None:
    """The caller's own phases stay open, and an exception comes back as it was raised."""

    @rollspan.phase("reward")
    def reward(x: int) -> int:
        if x < 0:
            raise ValueError(x)
        return x

    pool = rollspan.TracedExecutor(_AtOnce())
    with rollspan.session(), rollspan.phase("execution") as execution:
        assert pool.submit(reward, 1).result() == 1
        with pytest.raises(ValueError, match="-1") as raised:
            pool.submit(reward, -1).result()
        assert raised.value.__cause__ is None
        assert not execution.ended
        assert rollspan.current_span() is execution
    assert rec.records()[0]["late_spans"] == 0
    assert tree(rec.traces()[0].spans) == {"rollout": {"execution": {"reward": {}, "reward#2": {}}}}


def test_activate_and_explicit_phases_in_other_contexts(rec: Recording) -> None:
    """A session handed around by hand can be made current anywhere, and its phases name it explicitly."""
    s = rollspan.start_session()

    def elsewhere() -> None:
        assert rollspan.current_session() is NULL
        with s.activate():
            assert rollspan.current_session() is s
            with rollspan.phase("generate"):
                pass
        with s.phase("reward"):
            pass

    contextvars.Context().run(elsewhere)
    s.mark_accepted()
    s.mark_consumed()
    assert set(rec.records()[0]["phases"]) == {"generate", "reward"}


def test_somebody_elses_span_in_between_does_not_become_the_parent(rec: Recording) -> None:
    """A foreign span that is current between two phases changes OpenTelemetry's current span, not ours."""
    foreign = otel_trace.NonRecordingSpan(otel_trace.SpanContext(5, 6, is_remote=False))
    with (
        rollspan.session(),
        rollspan.phase("execution"),
        otel_trace.use_span(foreign),
        rollspan.phase("generate"),
    ):
        pass
    assert tree(rec.traces()[0].spans) == {"rollout": {"execution": {"generate": {}}}}


def test_a_session_started_inside_another_span_is_a_root(rec: Recording) -> None:
    """A session never becomes a child of what happened to be current when it was submitted."""
    foreign = otel_trace.NonRecordingSpan(otel_trace.SpanContext(5, 6, is_remote=False))
    with otel_trace.use_span(foreign), rollspan.session():
        pass
    root = rec.traces()[0].spans[0]
    assert (root.parent_id, root.name) == (0, "rollout")
    assert root.trace_id != 5


@pytest.mark.parametrize("loop", ["uvloop", "eager"])
def test_other_event_loops(rec: Recording, loop: str) -> None:
    """The context is kept on uvloop, and with eager tasks where Python has them."""

    async def child() -> None:
        async with rollspan.phase("generate"):
            await asyncio.sleep(0)

    async def main() -> None:
        if loop == "eager":
            asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined]
        async with rollspan.session(), rollspan.phase("execution"):
            await asyncio.gather(*(asyncio.create_task(child()) for _ in range(3)))

    if loop == "uvloop":
        import uvloop

        uvloop.run(main())
    elif not hasattr(asyncio, "eager_task_factory"):
        pytest.skip("asyncio.eager_task_factory came with Python 3.12")
    else:
        asyncio.run(main())
    assert tree(rec.traces()[0].spans) == {
        "rollout": {"execution": {"generate": {}, "generate#2": {}, "generate#3": {}}}
    }


def test_one_phase_object_entered_twice(rec: Recording) -> None:
    """The same phase object entered inside itself makes two spans and leaves cleanly."""
    again = rollspan.phase("again")
    with rollspan.session():
        with again, again:
            pass
        assert rollspan.current_span().name == "rollout"
    assert tree(rec.traces()[0].spans) == {"rollout": {"again": {"again": {}}}}


def test_a_phase_object_forgets_what_its_last_entry_was_given(rec: Recording) -> None:
    """Entered again after it was left, it is another span, with the attributes that it was made with."""
    reward = rollspan.phase("reward", note="made")
    with rollspan.session():
        with reward as first:
            rollspan.record_reward(0.5)
        with reward as second:
            pass
    assert first is not second
    spans = [span for span in rec.traces()[0].spans if span.name == "reward"]
    assert [span.span_id for span in spans] == [each.get_span_context().span_id for each in (first, second)]
    assert [span.attributes.get("rl.reward.score") for span in spans] == [0.5, None]
    assert [span.attributes["note"] for span in spans] == ["made", "made"]


def test_a_span_that_is_entered_itself_ends_with_its_block(rec: Recording) -> None:
    """As OpenTelemetry's own spans do."""
    with rollspan.session() as session, session.phase("tool") as span:
        with span as same:
            assert same is span
        assert not span.is_recording()


def test_one_phase_object_in_many_threads_and_tasks(rec: Recording) -> None:
    """Each entry has a span of its own, below what is current where it was made, left in whatever order."""
    shared = rollspan.phase("shared")

    async def task(name: str, seconds: float) -> None:
        async with rollspan.session(task_id=name), rollspan.phase(f"around {name}"), shared as span:
            await asyncio.sleep(seconds)
            assert rollspan.current_span() is span
            span.set_attribute("task", name)

    async def main() -> None:
        await asyncio.gather(task("short", 0.01), task("long", 0.03), task("middle", 0.02))

    def thread(name: int) -> None:
        for _ in range(200):
            if name == 0:
                with shared:  # where no session is
                    pass
                continue
            with rollspan.session(task_id=name), rollspan.phase(f"around {name}"):
                with shared as span:
                    span.set_attribute("task", name)
                    with shared:
                        pass
                    assert rollspan.current_span() is span
                assert rollspan.current_span().name == f"around {name}"

    asyncio.run(main())
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(thread, range(4)))
    finally:
        sys.setswitchinterval(before)
    traces = rec.traces()
    assert len(traces) == 603
    for trace in traces:
        assert trace.record is not None
        name = trace.record["task_id"]
        inner = {"shared": {}} if isinstance(name, int) else {}
        assert tree(trace.spans) == {"rollout": {f"around {name}": {"shared": inner}}}
        assert [s.attributes["task"] for s in trace.spans if "task" in s.attributes] == [name]
        assert trace.record["late_spans"] == 0


def test_activate_as_a_decorator(rec: Recording) -> None:
    """A function decorated with a session's activate() has that session as its current one, in each call."""
    session = rollspan.start_session()

    @session.activate()
    def work() -> str:
        with rollspan.phase("generate"):
            return rollspan.current_session().session_id

    assert {work(), work()} == {session.session_id}
    session.mark_rejected()
    (record,) = rec.records()
    assert len(record["phases"]["generate"]) == 2

"""The parts in C do what Python does, to the byte, and leave to it whatever is unusual."""

from __future__ import annotations

import contextlib
import contextvars
import gc
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rollspan
from rollspan import api, clock, context, health, joiner, left, lines, native, phases, plain, sessions, switch
from rollspan.journal import _no_room
from rollspan.lines import WRITE_EVERY
from rollspan.plain import MOST
from rollspan.testing import fixed, recording, tree

from .needs import need

ROOT = Path(__file__).parents[1]
assert api.phase is phases.phase  # the C begins when all that it stands for is loaded
assert all((joiner, sessions))


@pytest.fixture(autouse=True)
def _built() -> Iterator[None]:
    need(native.is_built(), "the parts in C were not built: there is no C compiler")
    yield
    native.use(False)


def left_by(
    program: Callable[[], None], *, in_c: bool, step_ns: int = 1_000_000, most_bytes: int = 300
) -> list[bytes]:
    """What the program leaves in the journal, under a clock and ids that are the same each time."""
    for kinds in plain._kinds.values():  # names are learned; each way begins with none
        kinds.clear()
    with (
        tempfile.TemporaryDirectory() as folder,
        recording(Path(folder), native=in_c, run_id="run", attribute_max_bytes=most_bytes),
        fixed(step_ns=step_ns),
    ):
        assert native.in_use() is in_c
        contextvars.copy_context().run(program)
        rollspan.flush(10.0)
        segments = [path for journal in left.journals(Path(folder)) for _, path in journal.segments]
        return [path.read_bytes().rstrip(b"\0") for path in segments]


def check(program: Callable[[], None], **under: int) -> bytes:
    """What the program leaves, which is the same by C and by Python."""
    by_c, by_python = (b"".join(left_by(program, in_c=in_c, **under)) for in_c in (True, False))
    assert by_c.splitlines() == by_python.splitlines()
    assert by_c
    return by_c


class Text(str):
    __slots__ = ()


class Odd:
    """A name that is none, and a value of its own."""

    def __hash__(self) -> int:
        return hash("model")

    def __eq__(self, other: object) -> bool:
        return other == "model"

    def __str__(self) -> str:
        return "odd"


SCALARS = st.one_of(
    st.text(max_size=6),
    st.integers(-(1 << 70), 1 << 70),
    st.floats(),
    st.booleans(),
    st.sampled_from(["stop", "\ud800", Text("text"), "x" * 400]),
)
VALUES = st.one_of(SCALARS, st.none(), st.lists(SCALARS, max_size=2), st.builds(Odd), st.binary(max_size=3))
PHASES = st.sampled_from(
    ["generate", "reward", "toolcall", "execution", "mine", "queue_wait", Text("generate"), 7]
)
NAMES = st.sampled_from(
    ["model", "provider", "input_tokens", "weight_version", "score", "prompt", "a", "b.c", "\ud800"]
)
ATTRIBUTES = st.dictionaries(NAMES, VALUES, max_size=3)
GENERATION = st.dictionaries(
    st.sampled_from(
        ["model", "input_tokens", "finish_reasons", "weight_version", "continuation", "segments"]
    ),
    VALUES,
    max_size=3,
)
STEPS = st.recursive(
    st.one_of(
        st.tuples(st.just("generation"), GENERATION),
        st.tuples(st.just("reward"), VALUES),
        st.tuples(st.just("set"), ATTRIBUTES),
        st.tuples(st.just("end"), st.none()),
        st.tuples(st.just("count"), st.none()),
        st.tuples(st.just("verdict"), st.none()),
        st.tuples(st.just("enter twice"), st.none()),
    ),
    lambda inner: st.tuples(
        st.just("phase"), st.tuples(PHASES, ATTRIBUTES, st.booleans(), st.lists(inner, max_size=4))
    ),
    max_leaves=12,
)
SESSION = st.tuples(ATTRIBUTES, st.booleans(), st.booleans(), st.lists(STEPS, max_size=6))


class LeftError(Exception):
    """What a phase is left by."""


def walk(session: Any, steps: list[tuple[str, Any]]) -> None:
    for what, said in steps:
        if what == "phase":
            name, attributes, raises, inner = said
            with contextlib.suppress(LeftError), rollspan.phase(name, **attributes):
                walk(session, inner)
                if raises:
                    raise LeftError
        elif what == "generation":
            rollspan.record_generation(**said)
        elif what == "reward":
            rollspan.record_reward(said)
        elif what == "set":
            rollspan.current_span().set_attributes(said)
        elif what == "end" and rollspan.current_span() is not session:
            rollspan.current_span().end()
        elif what == "count":
            session.count("n")
        elif what == "verdict":
            session.mark_accepted()
        elif what == "enter twice":
            again = rollspan.phase("again", a=1)
            with again, again:
                pass


@settings(max_examples=60, deadline=None)
@given(st.lists(SESSION, min_size=1, max_size=3))
def test_any_program_leaves_the_same_lines(sessions: list[Any]) -> None:
    """Whatever is called, with whatever values, the journal holds byte for byte what Python writes."""

    def program() -> None:
        for attributes, in_block, raises, steps in sessions:
            if in_block:
                with contextlib.suppress(LeftError), rollspan.session(**attributes) as made:
                    walk(made, steps)
                    if raises:
                        raise LeftError
            else:
                made = rollspan.start_session(**attributes)
                with contextlib.suppress(LeftError), made.execution():
                    walk(made, steps)
                    if raises:
                        raise LeftError
                made.mark_dropped("test")

    check(program, step_ns=0)  # a line that C leaves to Python has it look at the clock once more


STATS = st.one_of(
    st.none(),
    st.builds(rollspan.RolloutStats, *(st.integers(-1, 1 << 65),) * 4),
    st.just(Odd()),
)
MARKS = st.lists(
    st.one_of(
        st.tuples(
            st.sampled_from(["enqueue", "execution", "consume", "reject", "drop", "count", "add"]), st.none()
        ),
        st.tuples(st.just("accept"), st.tuples(STATS, VALUES)),
        st.tuples(st.just("set"), ATTRIBUTES),
        st.tuples(st.just("phases"), st.lists(STEPS, max_size=3)),
    ),
    max_size=6,
)
USUAL = ["enqueue", "execution", "add", "leave", "accept", "consume"]


def mark(session: Any, marks: list[tuple[str, Any]]) -> None:
    with contextlib.ExitStack() as entered:
        for what, said in marks:
            if what == "execution":
                entered.enter_context(session.execution())
            elif what == "leave":
                entered.close()
            elif what == "phases":
                walk(session, said)
            elif what == "accept":
                session.mark_accepted(stats=said[0], reward=said[1])
            elif what == "set":
                session.set_attribute("note", said)
            elif what == "count":
                session.count("n")
            elif what == "add":
                above = context.current()
                session.add_span(
                    "reward", session if above is None else above, clock.monotonic_ns() + session.offset
                )
            else:
                {
                    "enqueue": session.mark_enqueued,
                    "consume": session.mark_consumed,
                    "reject": session.mark_rejected,
                    "drop": lambda: session.mark_dropped("test"),
                }[what]()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(ATTRIBUTES, MARKS), min_size=1, max_size=3), st.sampled_from([300, 4096]))
def test_any_marks_leave_the_same_lines(sessions: list[Any], most_bytes: int) -> None:
    """In whatever order they come. The clock stands still: where C leaves a line to Python, that looks at it again."""

    def program() -> None:
        for attributes, marks in sessions:
            mark(rollspan.start_session(**attributes), marks)

    check(program, step_ns=0, most_bytes=most_bytes)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.one_of(st.none(), st.builds(rollspan.RolloutStats, *(st.integers(0, 1 << 40),) * 4)),
            st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False)),
            st.integers(0, len(USUAL)),
        ),
        min_size=1,
        max_size=3,
    )
)
def test_the_usual_marks_have_the_same_stamps(sessions: list[Any]) -> None:
    """From submission to consumption, or to where it stopped."""

    def program() -> None:
        for number, (stats, reward, marks) in enumerate(sessions):
            session = rollspan.start_session(task_id=number, workflow="w")
            mark(session, [(what, (stats, reward)) for what in USUAL[:marks]])

    check(program, most_bytes=4096)


def test_marks_hold_on_to_nothing(tmp_path: Path) -> None:
    """After ten thousand marked sessions there are as many objects and blocks of memory as after a thousand."""
    with recording(tmp_path, journal_keep=False, native=True):

        def run(count: int) -> tuple[int, int]:
            for number in range(count):
                mark(
                    rollspan.start_session(task_id=number),
                    [
                        ("enqueue", None),
                        ("execution", None),
                        ("add", None),
                        ("phases", [("phase", ("generate", {"model": "m"}, False, []))]),
                        ("leave", None),
                        ("accept", (rollspan.RolloutStats(1, 2, 3, number), 0.5)),
                        ("consume", None),
                    ],
                )
            rollspan.flush(30.0)
            gc.collect()
            return len(gc.get_objects()), sys.getallocatedblocks()

        run(2000)
        objects, blocks = run(1000)
        more_objects, more_blocks = run(9000)
    assert more_objects - objects < 500
    assert more_blocks - blocks < 2000


def test_marks_do_not_wait_for_the_lock(tmp_path: Path) -> None:
    """Where another thread holds it Python waits for it; a segment that is full is left to Python too."""
    with recording(tmp_path, native=True) as rec:
        session = rollspan.start_session(task_id="held")
        held, over = threading.Event(), threading.Event()

        def hold() -> None:
            with session.lock:
                held.set()
                over.wait(0.2)

        for step in (
            session.mark_enqueued,
            lambda: session.execution().__enter__(),
            lambda: session.end_span(session._executing[0]),
            session.mark_accepted,
            session.mark_consumed,
        ):
            held.clear()
            over.clear()
            thread = threading.Thread(target=hold)
            thread.start()
            held.wait()
            contextvars.copy_context().run(step)
            thread.join()
        for number in range(3):  # each takes the rest of a segment
            padded = rollspan.start_session(task_id=number, note="x" * 3000)
            switch.runtime()._worker  # noqa: B018 - it is running
            padded.mark_enqueued()
            with padded.execution():
                pass
            padded.mark_accepted()
            switch.runtime().journal._write = _no_room
            padded.mark_consumed()
        traces = rec.traces()
    assert [trace.record["status"] for trace in traces] == ["accepted"] * 4
    assert set(tree(traces[0].spans)["rollout"]) == {"queue_wait", "runner_wait", "execution", "post_wait"}


def test_a_long_session_writes_its_lines_at_the_same_phases() -> None:
    """A line is due after as many phases as without C, open ones included."""

    def program() -> None:
        with rollspan.session(), rollspan.phase("execution"):
            for number in range(3 * WRITE_EVERY):
                with rollspan.phase("turn", number=number):
                    rollspan.record_reward(number)

    assert check(program).count(b"\n") == 4 + 1


def test_many_attributes_are_bounded_alike() -> None:
    """Names beyond what a phase may have go the long way, from either side."""

    def program() -> None:
        with rollspan.session(), rollspan.phase("generate", **{f"n{i}": i for i in range(MOST - 2)}) as span:
            for i in range(8):
                rollspan.record_generation(input_tokens=i)
                span.set_attributes({f"more{i}": i})

    check(program)


def test_phases_in_other_contexts_end_alike() -> None:
    """One that is left in another context, by another thread, or after its session's end."""

    def program() -> None:
        with rollspan.session():
            elsewhere = rollspan.phase("elsewhere")
            contextvars.copy_context().run(elsewhere.__enter__)
            elsewhere.__exit__(None, None, None)
            shared = rollspan.phase("shared")
            with shared:
                thread = threading.Thread(target=contextvars.copy_context().run, args=(shared.__enter__,))
                thread.start()
                thread.join()
            late = rollspan.phase("late")
            late.__enter__()
        late.__exit__(None, None, None)

    check(program)


def test_phases_are_made_alike() -> None:
    """Their arguments mean the same, and wrong ones are the same errors."""
    found = {}
    for in_c in (True, False):
        native.use(in_c)
        made = [rollspan.phase("generate", name="n", self=1), rollspan.phase(Text("x")), rollspan.phase(7)]
        errors = []
        for wrong in (
            rollspan.phase,
            lambda: rollspan.phase("a", "b"),
            lambda: rollspan.phase(len),
        ):  # type: ignore[call-arg]
            with pytest.raises(TypeError) as error:
                wrong()
            errors.append(str(error.value))
        found[in_c] = [repr(made), [each._attributes for each in made], errors]
    assert found[True] == found[False]


def test_a_subclass_of_a_phase_is_made_by_its_own_init() -> None:
    """What somebody derives from `phase` is not taken for one."""

    class Mine(phases.phase):
        def __init__(self) -> None:
            super().__init__("mine", a=1)
            self.mine = True

    def program() -> None:
        made = Mine()
        with rollspan.session(), made:
            assert made.mine

    assert b'"mine"' in check(program)


def test_they_hold_on_to_nothing(tmp_path: Path) -> None:
    """After ten thousand sessions there are as many objects and blocks of memory as after a thousand."""
    with recording(tmp_path, journal_keep=False, native=True):

        def run(count: int) -> tuple[int, int]:
            for number in range(count):
                with (
                    contextlib.suppress(LeftError),
                    rollspan.session(task_id=number),
                    rollspan.phase("execution"),
                ):
                    with rollspan.phase("generate", model="m", turn=number):
                        rollspan.record_generation(input_tokens=number, finish_reasons="stop")
                        rollspan.record_generation(weight_version=[number, 2])
                    with rollspan.phase("reward"):
                        rollspan.record_reward(number / 7)
                    if number % 5 == 0:
                        raise LeftError
            rollspan.flush(30.0)
            gc.collect()
            return len(gc.get_objects()), sys.getallocatedblocks()

        run(2000)
        objects, blocks = run(1000)
        more_objects, more_blocks = run(9000)
    assert more_objects - objects < 500  # nine thousand sessions would leave at least nine thousand
    assert more_blocks - blocks < 2000


def test_errors_on_the_way_go_to_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that fails in C is asked again by Python, which deals with it as with any error of ours."""
    with recording(tmp_path, native=True) as rec:
        with rollspan.session():
            calls = iter([RuntimeError("once")])
            real = clock.monotonic_ns

            def fails_once() -> int:
                for error in calls:
                    raise error
                return real()

            monkeypatch.setattr(clock, "monotonic_ns", fails_once)
            with rollspan.phase("execution"):
                pass
            monkeypatch.undo()
        (trace,) = rec.traces()
    assert tree(trace.spans) == {"rollout": {"execution": {}}}


def test_a_setting_turns_them_off(tmp_path: Path) -> None:
    """ROLLSPAN_NATIVE=0, or native=False, and Python's own functions stand there again."""
    with recording(tmp_path / "a", native=True):
        assert native.in_use()
        assert type(phases.phase.__enter__).__name__ == "method_descriptor"
    with recording(tmp_path / "b", native=False):
        assert not native.in_use()
        assert type(phases.phase.__enter__).__name__ == "function"
    ask = "import rollspan; rollspan.configure(); rollspan.phase; from rollspan import native; print(native.in_use())"
    for value, told in (("0", "False"), ("1", "True")):
        done = subprocess.run(
            [sys.executable, "-c", ask],
            env={
                "PATH": "",
                "ROLLSPAN_NATIVE": value,
                "ROLLSPAN_DIR": str(tmp_path),
                "PYTHONPATH": str(ROOT / "src"),
            },
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert done.stdout.strip() == told


def test_another_runtime_context_is_left_to_python(run_program: Callable[..., Any], tmp_path: Path) -> None:
    """Where OpenTelemetry keeps its context in some other way, the C stays out, and nothing is said of it."""
    done = run_program(
        "from opentelemetry import context\n"
        "class Other:\n"
        "    def __init__(self, inside): self._inside = inside\n"
        "    def attach(self, here): return self._inside.attach(here)\n"
        "    def get_current(self): return self._inside.get_current()\n"
        "    def detach(self, token): self._inside.detach(token)\n"
        "context.get_current()\n"
        "context._RUNTIME_CONTEXT = Other(context._RUNTIME_CONTEXT)\n"
        "import rollspan\n"
        "from rollspan import native\n"
        "with rollspan.session(), rollspan.phase('execution') as span:\n"
        "    assert rollspan.current_span() is span\n"
        "print(native.in_use())\n"
    )
    assert done.stdout == "False\n"
    assert done.stderr == ""


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from([b"s", b"e", b"x"]), st.integers(0, 3), st.binary(max_size=40)), max_size=6
    ),
    st.lists(st.tuples(st.integers(0, 400), st.sampled_from(b"\n\0 0aF{s"))),
    st.integers(0, 60),
)
def test_lines_are_found_as_by_python(
    written: list[tuple[bytes, int, bytes]], hits: list[tuple[int, int]], torn: int
) -> None:
    """Whole ones, whatever bytes were changed and however much of the end is missing; the same are counted."""
    text = bytearray(
        b"".join(
            lines.frame(kind, b"%032x" % trace, b"{%b}" % payload.replace(b"\n", b""))
            for kind, trace, payload in written
        )
    )
    for at, byte in hits:
        if text:
            text[at % len(text)] = byte
    chunk = bytes(text[: len(text) - torn]) if torn else bytes(text)
    found = []
    for in_c in (True, False):
        native.use(in_c)
        assert native.in_use() is in_c
        before = health.counters().get("journal.damaged_lines", 0)
        found.append((list(lines.split(chunk)), health.counters().get("journal.damaged_lines", 0) - before))
    assert found[0] == found[1]

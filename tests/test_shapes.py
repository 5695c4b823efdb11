"""Functions made for the sessions of one shape, beside the long way from lines to records and bytes."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollspan import api, context, lines, native, phases, semconv, sessions, shapes
from rollspan.exporters.encode import encode_records, encode_spans
from rollspan.exporters.shape_bytes import event_writer, spans_writer
from rollspan.finished import FinishedTrace
from rollspan.fold import fold_trace
from rollspan.record import to_line
from rollspan.rows import with_record
from rollspan.usual import seen_session, usual_session

from . import fold_trees
from .needs import need

assert all((api, context, phases, sessions))  # the C begins when all that it stands for is loaded
START = 1_790_000_000_123_456_789

Parts = dict[int, dict[str, Any]]


@pytest.fixture(autouse=True)
def _met_once(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A function is made of the first session of a shape."""
    monkeypatch.setattr(shapes, "_MET_OFTEN", 0)
    for kept in (shapes._made, shapes._last, shapes._seen):
        kept.clear()
    native.use(True)  # where it is built
    yield
    native.use(False)
    for kept in (shapes._made, shapes._last, shapes._seen):
        kept.clear()


def unparsed(trace_hex: bytes, parts: Parts) -> list[bytes]:
    """The lines as the journal has them, without their newlines."""
    last = max(parts)
    return [
        lines.frame(lines.ENDS if n == last else lines.GOES_ON, trace_hex, orjson.dumps(part))[:-1]
        for n, part in sorted(parts.items())
    ]


def assert_seen(trace_hex: bytes, parts: Parts, short: FinishedTrace) -> bool:
    """What is taken out of lines that are not parsed is the same; whether it can be."""
    if short.shape is None:
        return False
    text = unparsed(trace_hex, parts)
    shapes.see(short.shape, short.values, trace_hex.decode(), text)
    seen = seen_session(trace_hex, text)
    if seen is None:
        return False
    assert repr(seen.record) == repr(short.record)
    assert repr(seen.spans) == repr(short.spans)
    assert repr(seen.values) == repr(short.values)
    return True


def assert_same(trace_hex: bytes, parts: Parts) -> bool:
    """What the function makes is what the long way makes; whether there is a function, and it held."""
    named = copy.deepcopy(parts)
    lines.describe_parts(named)
    assembled = lines.assemble_parts(trace_hex, named)
    assert assembled is not None
    short = usual_session(trace_hex, list(copy.deepcopy(parts).values()))
    if short is None:
        return False
    record = short.record
    assert record is not None
    folded = fold_trace(assembled.spans)
    assert folded is not None
    assert to_line(record) == to_line(folded)
    assert repr(record) == repr(folded)
    spans = list(assembled.spans)
    spans[0] = spans[0]._replace(attributes=with_record(spans[0].attributes, folded))
    long = FinishedTrace(spans, folded, assembled.export_spans)
    assert short.export_spans is long.export_spans
    assert short.span_count == long.span_count
    assert encode_spans([short], {}) == encode_spans([long], {})
    assert encode_records([short], {}) == encode_records([long], {})
    assert list(short.spans) == spans
    assert repr(short.spans) == repr(spans)
    assert_seen(trace_hex, parts, short)
    return short.shape is not None


def others(value: Any, *, tame: bool) -> st.SearchStrategy[Any]:
    """Values of the same type; tame ones are such as a function is made for."""
    if isinstance(value, bool):
        return st.just(value) if tame else st.booleans()
    if isinstance(value, int):
        return st.integers(0, 300) | st.integers(-(2**63), 2**63 - 1 if tame else 2**64)
    if isinstance(value, float):
        return st.floats(allow_nan=False, allow_infinity=False)
    if isinstance(value, str):
        return st.text(min_size=int(tame), max_size=40) | st.sampled_from(
            ("NaN", "Infinity", semconv.ACCEPTED)
        )
    return st.just(value)


_ROOT_KEYS = sorted({*fold_trees._ROOT_KEYS, semconv.COUNTER_PREFIX + "a", "note"} - {semconv.SESSION_ID})
_PHASE_KEYS = sorted({*fold_trees._OFTEN_ODD, "note"} - {semconv.LATE, semconv.PARENT_PHASE})
# Short names, with such values as they have.
_SHORT_NAMES: dict[str, st.SearchStrategy[Any]] = {
    "model": st.text(max_size=5),
    "input_tokens": st.integers(0, 99),
    "output_tokens": st.integers(0, 99) | st.just("7"),
    "finish_reasons": st.just("stop") | st.just(["stop", "length"]),
    "weight_version": st.integers(0, 9) | st.just("3"),
    "score": st.floats(-1, 1) | st.integers(-3, 3) | st.just("NaN"),
}
_SHORT_ROOT_NAMES = {"task_id": st.integers(0, 9) | st.text(max_size=3), "workflow": st.text(max_size=3)}


@st.composite
def of_sessions(draw: st.DrawFn) -> Parts:
    """The lines of a session, with waits and phases in phases, in parallel too, and any attributes."""
    rows: list[list[Any]] = []
    for ref in range(1, draw(st.integers(1, 6))):
        name = draw(fold_trees.names | st.sampled_from(sorted(semconv.WAITS)))
        around = [0, *(row[0] for row in rows if row[2] not in semconv.WAITS)]
        parent = 0 if name in semconv.WAITS else draw(st.sampled_from(around))
        begin, end = sorted((draw(st.integers(0, 40)), draw(st.integers(0, 40))))
        extra = draw(st.dictionaries(st.sampled_from(_PHASE_KEYS), fold_trees.values, max_size=3))
        extra |= draw(st.fixed_dictionaries({}, optional=_SHORT_NAMES))
        rows.append([ref, parent, name, 1, START + begin * 999, START + end * 999, extra, 0, ""])
    attributes = draw(st.dictionaries(st.sampled_from(_ROOT_KEYS), fold_trees.values, max_size=6))
    attributes |= draw(st.fixed_dictionaries({}, optional=_SHORT_ROOT_NAMES))
    first: dict[str, Any] = {"n": 0, "t": START, "a": attributes}
    if draw(st.booleans()):
        first["c"] = {semconv.PHASE: semconv.SESSION, semconv.STATUS: semconv.PENDING, semconv.RANK: 3}
        attributes |= draw(st.sampled_from(({}, {semconv.SESSION_ID: "mine"})))
    else:
        attributes |= {semconv.SESSION_ID: "mine", semconv.PHASE: semconv.SESSION}
    kinds = st.sampled_from((semconv.LINK_DISPATCH, semconv.LINK_CONSUME))
    steps = st.fixed_dictionaries({semconv.LINK_KIND: kinds}, optional={semconv.STEP: fold_trees.values})
    links = [[f"{9:032x}", f"{8:016x}", step] for step in draw(st.lists(steps, max_size=2))]
    later = draw(st.dictionaries(st.sampled_from((semconv.TASK_ID, "workflow", "note")), fold_trees.values))
    last = {"n": 1, "a": later, "s": rows, "e": START + 40 * 999, **({"l": links} if links else {})}
    return {0: first, 1: last}


@settings(deadline=None)  # making functions takes a while
@given(of_sessions(), st.data())
def test_a_function_makes_of_another_session_what_the_long_way_makes(
    sample: Parts, data: st.DataObject
) -> None:
    """Made of one session, it is asked for others with other ids, times, numbers and texts."""
    assert_same(b"%032x" % 7, sample)
    start, end = sample[0]["t"], sample[1]["e"]
    for number in range(8, 11):
        tame = data.draw(st.booleans())
        other = copy.deepcopy(sample)
        links = [link[2] for link in other[1].get("l", ())]
        for attributes in (other[0]["a"], other[1]["a"], *(row[6] for row in other[1]["s"]), *links):
            for key in attributes.keys() - {semconv.PHASE, semconv.SESSION_ID, semconv.LINK_KIND}:
                attributes[key] = data.draw(others(attributes[key], tame=tame))
        moves = st.just(0) if tame else st.integers(-3, 3) | st.integers(start - end, end - start)
        stretch, later = data.draw(st.integers(1, 3)), data.draw(st.integers(0, 10**9))
        for row in other[1]["s"]:
            row[4:6] = [start + later + (at - start) * stretch + data.draw(moves) for at in row[4:6]]
        other[0]["t"], other[1]["e"] = start + later, start + later + (end - start) * stretch
        assert_same(b"%032x" % (data.draw(st.integers(0, 1 << 120)) + number), other)


@settings(deadline=None)
@given(of_sessions(), st.data())
def test_no_session_is_taken_for_one_of_another_shape(sample: Parts, data: st.DataObject) -> None:
    """Sessions that differ in little, and have lines of the same size, by turns."""
    alike = [sample]
    for _ in range(3):
        other = copy.deepcopy(sample)
        row = data.draw(st.sampled_from(other[1]["s"])) if other[1]["s"] else None
        change = data.draw(
            st.sampled_from(("name", "key", "type", "kind", "status", "export", "number", "line"))
        )
        if change == "name" and row:
            row[2] = data.draw(fold_trees.names)
        elif change == "key" and row and row[6]:
            row[6]["other"] = row[6].pop(data.draw(st.sampled_from(sorted(row[6]))))
        elif change == "type":
            attributes = data.draw(st.sampled_from((other[0]["a"], other[1]["a"])))
            if free := sorted(attributes.keys() - {semconv.PHASE, semconv.SESSION_ID}):
                attributes[data.draw(st.sampled_from(free))] = data.draw(fold_trees.values)
        elif change == "kind" and row:
            row[3] = data.draw(st.integers(0, 4))
        elif change == "status":
            other[1]["st"] = [data.draw(st.integers(0, 2)), data.draw(st.sampled_from(("", "why")))]
        elif change == "export":
            other[0]["x"] = False
        elif change == "number":
            other = {0: other[0], 2: {**other[1], "n": 2}}
        elif change == "line" and other[1]["s"]:
            other[0]["s"] = [other[1]["s"].pop()]
        alike.append(other)
    for turn in range(3):
        for number, other in enumerate(alike):
            assert_same(b"%032x" % (turn * 10 + number + 1), other)


PHASES = [
    [
        2,
        1,
        "generate",
        3,
        1300,
        1400,
        {"model": "tiny", "input_tokens": 9, "finish_reasons": "stop", "weight_version": 3},
    ],
    [3, 1, "reward", 1, 1500, 1600, {"score": 1}],
    [1, 0, "execution", 1, 1200, 1700, {}],
    [4, 0, "queue_wait", 1, 1000, 1200, {}],
    [5, 0, "post_wait", 1, 1700, 2000, {}],
]


def session(number: int, **root: Any) -> Parts:
    """A session as nearly all are, with times and numbers of its own."""
    attributes = {
        semconv.SESSION_ID: f"{number:032x}",
        semconv.PHASE: semconv.SESSION,
        semconv.REQUEST_ID: number,
        "task_id": f"task-{number}",
        semconv.STATUS: semconv.ACCEPTED,
        semconv.CONSUMED: True,
        semconv.STATS_PREFIX + "running": number * 3,
        semconv.COUNTER_PREFIX + "retries": 2,
        semconv.STEP_DISPATCH: 4,
        **root,
    }
    base = START + number * 1_234_567
    to_step = {semconv.LINK_KIND: semconv.LINK_DISPATCH, semconv.STEP: 4}
    dispatch = [f"{number + 5:032x}", f"{number:016x}", to_step]
    rows = [
        [*row[:4], base + row[4] * 1000 + number, base + row[5] * 1000 + number, row[6], 0, ""]
        for row in PHASES
    ]
    return {
        0: {"n": 0, "t": base + 1000_000 + number, "a": attributes},
        1: {"n": 1, "s": rows, "l": [dispatch], "e": base + 2000_000 + number},
    }


def test_sessions_as_nearly_all_are_have_functions() -> None:
    """Waits, phases in phases, statistics, counters and steps: a function is made, and holds for the next ones."""
    assert not assert_same(b"%032x" % 1, session(1))
    for number in (2, 300, 20_000, 1 << 40):
        assert assert_same(b"%032x" % number, session(number))


def test_what_the_function_does_not_hold_for_is_folded_step_by_step() -> None:
    """Another order, another flag, a number beyond 64 bits, an empty text: the conditions tell."""
    assert_same(b"%032x" % 1, session(1))
    other_order = session(2)
    other_order[1]["s"][1][4:6] = other_order[1]["s"][0][4:6]
    for parts in (
        other_order,
        session(3, **{semconv.CONSUMED: False}),
        session(4, **{semconv.REQUEST_ID: 1 << 63}),
        session(5, **{semconv.SESSION_ID: ""}),
    ):
        assert not assert_same(b"%032x" % 9, parts)
    assert assert_same(b"%032x" % 6, session(6))


def test_counters_that_stand_in_one_attribute() -> None:
    """Of too many for an event's attributes the numbers differ all the same."""
    names = [f"{semconv.COUNTER_PREFIX}c{i}" for i in range(120)]
    assert_same(b"%032x" % 1, session(1, **dict.fromkeys(names, 1)))
    for number in (2, 300):
        assert assert_same(b"%032x" % number, session(number, **dict.fromkeys(names, number)))


def test_lines_of_the_same_size_but_of_another_shape() -> None:
    """Each is read as what it is, also where the one before looked alike."""
    for number in range(1, 9):
        by_turns = {"note": "text"} if number % 2 else {"other": 1}
        assert assert_same(b"%032x" % number, session(number, **by_turns)) == (number > 2)


def test_lines_in_another_order() -> None:
    """A line that was carried forward comes behind those after it."""
    assert_same(b"%032x" % 1, session(1))
    assert assert_same(b"%032x" % 2, dict(reversed(session(2).items())))


def test_spans_that_are_not_exported() -> None:
    """What the first line says of it holds for the session that says it."""
    for number in (1, 2, 3):
        for exported in (True, False):
            parts = session(number)
            if not exported:
                parts[0]["x"] = False
            usual = usual_session(b"%032x" % number, list(parts.values()))
            assert usual is not None
            assert usual.export_spans is exported
            assert (usual.shape is not None) is (number > 1)


def test_many_sessions_in_one_request() -> None:
    """Each is written as it would be alone, whatever the ones beside it are."""
    long = {f"phase-{n}": 1 for n in range(3)}
    several = [
        session(1),
        session(2),
        session(3, **long),
        session(4, note="x"),
        session(5),
        session(6, **long),
    ]
    several[4][0]["t"] = several[4][1]["s"][3][4] = -1  # which OTLP cannot hold
    traces = [usual_session(b"%032x" % n, list(parts.values())) for n, parts in enumerate(several, 1)]
    whole = [trace for trace in traces if trace is not None]
    assert len(whole) == len(several)
    assert [trace.shape is not None for trace in whole] == [False, True, False, False, True, True]
    for encode in (encode_spans, encode_records):
        alone = [FinishedTrace(trace.spans, trace.record) for trace in whole]
        assert encode(whole, {}) == encode(alone, {})


def test_a_text_as_reward_has_no_function() -> None:
    """What it says makes a difference."""
    for score in ("NaN", "x", "Infinity"):
        assert not assert_same(b"%032x" % 1, session(1, **{semconv.REWARD_SCORE: score}))


@pytest.mark.parametrize(
    ("name", "left_out", "kept"), [("continuation", False, True), ("output_tokens", "7", "NaN")]
)
def test_what_is_left_out_for_what_it_says_has_no_function(name: str, left_out: Any, kept: Any) -> None:
    """Another session's value of the same type may be kept."""
    for number, value in enumerate((left_out, kept, left_out, kept), 1):
        parts = session(number)
        parts[1]["s"][0][6] = {"model": "tiny", name: value}
        shaped = assert_same(b"%032x" % number, parts)
        assert shaped is (value is False and number > 1)


def test_pauses_of_generations_have_a_function() -> None:
    """How long they were paused is a number as others are, up to the largest that there is."""
    held = []
    for number, (first, second) in enumerate(((0.5, 0.25), (0.125, 3.0), (0.0, 0.0), (1.7e308, 1.7e308)), 1):
        parts = session(number)
        generation = parts[1]["s"][0]
        generation[6] = {"model": "tiny", semconv.PAUSED: first, semconv.SEGMENT_PAUSED: [first]}
        parts[1]["s"].append(
            [9, *generation[1:6], {"model": "tiny", semconv.PAUSED: second}, *generation[7:]]
        )
        held.append(assert_same(b"%032x" % number, parts))
    assert held == [False, True, True, False]


def test_shapes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions that never have a shape in common leave little behind."""
    monkeypatch.setattr(shapes, "_MOST_MADE", 4)
    for number in range(20):
        assert_same(b"%032x" % 1, session(1, **{f"note{number}": 1}))
    assert len(shapes._made) <= 4
    shapes._made.clear()
    monkeypatch.setattr(shapes, "_met", {})
    monkeypatch.setattr(shapes, "_MET_OFTEN", 3)
    monkeypatch.setattr(shapes, "_MOST_MET", 4)
    for number in range(20):
        assert_same(b"%032x" % 1, session(1, **{f"other{number}": 1}))
    assert len(shapes._met) <= 4


def test_spans_that_leave_another_way_have_no_event_of_a_function() -> None:
    """The event of a trace that is not exported says so."""
    for exported in (True, False):
        for number in (1, 2):
            parts = session(number)
            parts[0]["x"] = exported
            usual = usual_session(b"%032x" % number, list(parts.values()))
        assert usual is not None
        assert usual.shape is not None
        assert spans_writer(usual.shape) is not None
        assert (event_writer(usual.shape) is not None) is exported
        long = FinishedTrace(usual.spans, usual.record, exported)
        assert encode_records([usual], {}) == encode_records([long], {})
        assert encode_spans([usual], {}) == encode_spans([long], {})


USUAL: Parts = {
    0: {
        "n": 0,
        "t": START,
        "a": {semconv.REQUEST_ID: 7, "task_id": "t", "workflow": "W"},
        "c": {semconv.PHASE: semconv.SESSION, semconv.STATUS: semconv.PENDING, semconv.RANK: 3},
        "o": [[1, 0, "queue_wait", 1, START, {}]],
        "u": START + 1,
    },
    1: {
        "n": 1,
        "s": [
            [1, 0, "queue_wait", 1, START, START + 10, {}, 0, ""],
            [2, 0, "generate", 3, START + 10, START + 20, {"model": "m", "output_tokens": 5}, 0, ""],
        ],
        "o": [[3, 0, "post_wait", 1, START + 20, {}]],
        "u": START + 30,
        "a": {semconv.STATUS: semconv.ACCEPTED, semconv.REWARD_SCORE: 0.5, "note": None},
        "l": [[f"{9:032x}", f"{8:016x}", {semconv.LINK_KIND: semconv.LINK_DISPATCH, semconv.STEP: 4}]],
    },
    2: {
        "n": 2,
        "e": START + 50,
        "s": [[3, 0, "post_wait", 1, START + 20, START + 50, {}, 0, ""]],
        "a": {semconv.STATUS: semconv.ACCEPTED, semconv.CONSUMED: True},
    },
}
"""A session of an executor, submitted in a step."""


def learned() -> FinishedTrace:
    """`USUAL`, of which a shape was made."""
    usual_session(b"%032x" % 7, list(copy.deepcopy(USUAL).values()))
    session = usual_session(b"%032x" % 7, list(copy.deepcopy(USUAL).values()))
    assert session is not None
    return session


def test_lines_of_a_known_shape_are_not_parsed() -> None:
    """Their values are taken as they stand; without C they are parsed."""
    need(native.is_built(), "the parts in C were not built: there is no C compiler")
    assert native.in_use()
    assert assert_seen(b"%032x" % 7, USUAL, learned())
    other = copy.deepcopy(USUAL)
    other[0]["a"] |= {"task_id": "ünïcode 東京", "workflow": "V"}
    other[1]["a"][semconv.REWARD_SCORE] = -1.25e-7
    other[1]["s"][1][6]["output_tokens"] = -(10**18) + 1
    seen = seen_session(b"%032x" % 8, unparsed(b"%032x" % 8, other))
    assert seen is not None
    assert seen.record is not None
    assert (seen.record["task_id"], seen.record["reward"]) == ("ünïcode 東京", -1.25e-7)
    native.use(False)
    assert seen_session(b"%032x" % 7, unparsed(b"%032x" % 7, USUAL)) is None


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b'"task_id":"t"', b'"task_id":"\\u0074"'),
        (b'"task_id":"t"', b'"task_id":"t\xff"'),
        (b'"task_id":"t"', b'"task_id":"t'),
        (b'"task_id":"t"', b'"task_id":7'),
        (b'"output_tokens":5', b'"output_tokens":05'),
        (b'"output_tokens":5', b'"output_tokens":-0'),
        (b'"output_tokens":5', b'"output_tokens":5.0'),
        (b'"output_tokens":5', b'"output_tokens":9223372036854775808'),
        (b'"output_tokens":5', b'"output_tokens":'),
        (b'"rl.reward.score":0.5', b'"rl.reward.score":1'),
        (b'"rl.reward.score":0.5', b'"rl.reward.score":1.'),
        (b'"rl.reward.score":0.5', b'"rl.reward.score":1e'),
        (b'"rl.reward.score":0.5', b'"rl.reward.score":01.5'),
        (b'"rl.reward.score":0.5', b'"rl.reward.score":' + b"1" * 70 + b".5"),
        (b'"rollout.consumed":true', b'"rollout.consumed":false'),
        (b'"rollout.consumed":true', b'"rollout.consumed":tru'),
        (b'"n":2', b'"n":3'),
        (b"true}}", b"true}"),
        (b"true}}", b"true}}}"),
        (b"true}}", b"true}} "),
    ],
)
def test_what_is_written_otherwise_is_parsed(before: bytes, after: bytes) -> None:
    """Numbers and texts that JSON has in other forms, or has not got."""
    need(native.is_built(), "the parts in C were not built: there is no C compiler")
    assert assert_seen(b"%032x" % 7, USUAL, learned())
    text = unparsed(b"%032x" % 7, USUAL)
    assert sum(before in line for line in text) == 1
    assert seen_session(b"%032x" % 7, [line.replace(before, after) for line in text]) is None
    assert seen_session(b"%032x" % 7, text[:2]) is None
    assert seen_session(b"%032x" % 7, [line[:20] for line in text]) is None

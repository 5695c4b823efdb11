"""The short way from a session's lines to its spans and record, beside the long one."""

from __future__ import annotations

import copy
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollspan import lines, semconv
from rollspan.exporters.encode import encode_records, encode_spans
from rollspan.finished import FinishedTrace
from rollspan.fold import fold_trace
from rollspan.rows import with_record
from rollspan.spandata import STATUS_ERROR, Link, SpanData
from rollspan.usual import usual_session

from .fold_trees import TRACE_ID, Tree, make_root, make_span, trees

TRACE_HEX = b"%032x" % TRACE_ID


def _ref(span_id: int) -> int:
    return span_id - 1  # the root's id is 1 in trees, and its ref 0


def _row(span: SpanData, low: int, high: int) -> list[Any]:
    attributes = dict(span.attributes)
    if attributes.get(semconv.PHASE) == span.name:
        del attributes[semconv.PHASE]  # added when the row is read
    begun = min(max(span.start_ns, low), high)
    ended = min(max(span.end_ns, begun), high)
    row: list[Any] = [_ref(span.span_id), _ref(span.parent_id), span.name, span.kind, begun, ended]
    return [*row, attributes, span.status, span.status_message]


def parts_of(tree: Tree, cut: int, *, within: bool, plain: bool, **extra: Any) -> dict[int, dict[str, Any]]:
    """The journal lines' objects of a tree, its spans in two lines; `within` clips, `plain` drops the odd."""
    root = tree.spans[0]
    low, high = (root.start_ns, root.end_ns) if within else (0, 1 << 63)
    spans = tree.spans[1:]
    if plain:
        known = {span.span_id for span in tree.spans}
        spans = [s for s in spans if s.parent_id in known and semconv.FOREIGN not in s.attributes]
    rows = [_row(span, low, high) for span in spans]
    if plain:
        for row in rows:
            row[6].pop(semconv.LATE, None)
            row[6].pop(semconv.PARENT_PHASE, None)
    attributes = {semconv.SESSION_ID: TRACE_HEX.decode(), **root.attributes}
    first: dict[str, Any] = {"n": 0, "t": root.start_ns, "a": attributes, "s": rows[:cut]}
    last: dict[str, Any] = {"n": 1, "s": rows[cut:], "e": root.end_ns, **extra}
    if root.links:
        last["l"] = [[f"{k.trace_id:032x}", f"{k.span_id:016x}", k.attributes] for k in root.links]
    return {0: first, 1: last}


COMMON = (semconv.PHASE, semconv.STATUS, semconv.RANK, semconv.RUN_ID)


def in_short(parts: dict[int, dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """The same lines, the first one without what all sessions of its process have, and without the session's id."""
    attributes = dict(parts[0]["a"])
    del attributes[semconv.SESSION_ID]
    common = {name: attributes.pop(name) for name in COMMON if name in attributes}
    return {**parts, 0: {**parts[0], "a": attributes, "c": common}}


def assert_same(parts: dict[int, dict[str, Any]]) -> bool:
    """Both ways agree, to the bytes that leave by OTLP; whether the short one was taken."""
    given_parts = copy.deepcopy(parts)
    usual = usual_session(TRACE_HEX, list(parts.values()))
    if usual is None:
        assert parts == given_parts  # the long way must find them untouched
        return False
    assembled = lines.assemble_parts(TRACE_HEX, given_parts)
    assert assembled is not None
    record = usual.record
    assert record is not None
    folded = fold_trace(assembled.spans)
    assert folded is not None
    assert orjson.dumps(record) == orjson.dumps(folded)  # the order of the fields too
    expected = list(assembled.spans)
    expected[0] = expected[0]._replace(attributes=with_record(expected[0].attributes, folded))
    spans = usual.spans
    assert spans == expected
    assert [list(s.attributes) for s in spans] == [list(s.attributes) for s in expected]
    assert repr(record) == repr(folded)
    assert fold_trace(spans) == record
    plain = FinishedTrace(expected, folded)
    assert encode_spans([usual], {}) == encode_spans([plain], {})
    assert encode_records([usual], {}) == encode_records([plain], {})
    return True


@given(trees(), st.integers(0, 5), st.booleans(), st.booleans(), st.sampled_from(({}, {"st": [2, "x"]})))
def test_both_ways_agree(tree: Tree, cut: int, within: bool, plain: bool, extra: dict[str, Any]) -> None:
    """Where the short way gives an answer, spans and record are those of `assemble` and `fold_trace`."""
    parts = parts_of(tree, cut, within=within, plain=plain, **extra)
    assert_same(in_short(copy.deepcopy(parts)))
    assert_same(parts)


def test_what_a_first_line_says_in_short_is_what_it_would_say_at_length() -> None:
    """Attributes that all sessions of a process have, and the id of the session, which is the trace's."""
    parts = parts_of(Tree([make_root()], 1), 0, within=True, plain=True)
    (long,), (short,) = (
        (lines.assemble_parts(TRACE_HEX, each) or pytest.fail("no trace")).spans
        for each in (parts, in_short(parts))
    )
    assert short.attributes == long.attributes
    assert short.attributes[semconv.SESSION_ID] == TRACE_HEX.decode()


@given(
    trees(),
    st.sampled_from(
        (
            {"o": [[9, 0, "x", 1, 5, {}]]},
            {"e": None},
            {"s": [[2, 0, "x", 1, 1, 2, {}, 0, ""]]},
        )
    ),
)
def test_unusual_lines_go_the_long_way(tree: Tree, extra: dict[str, Any]) -> None:
    """Open spans, no end, a span out of the session: nothing of it is lost by a short cut."""
    parts = parts_of(tree, 0, within=True, plain=True)
    parts[1].update(extra)
    if parts[1]["e"] is None:
        del parts[1]["e"]
    assert not assert_same(parts)


def test_a_usual_session_goes_the_short_way() -> None:
    """Waits, phases in phases, parallel and repeated ones, links to steps, a failure: all of it is usual."""
    dispatch = Link(77, 78, {semconv.LINK_KIND: semconv.LINK_DISPATCH, semconv.STEP: 3})
    spans = [
        make_root(links=[dispatch]),
        make_span(2, semconv.QUEUE_WAIT, 0, 10),
        make_span(3, semconv.RUNNER_WAIT, 10, 20),
        make_span(4, semconv.EXECUTION, 20, 500),
        make_span(5, semconv.GENERATE, 30, 90, 4, {semconv.INPUT_TOKENS: 3, semconv.WEIGHT_VERSION_MIN: 1}),
        make_span(6, semconv.GENERATE, 40, 80, 4, {semconv.OUTPUT_TOKENS: 3}),
        make_span(7, semconv.REWARD, 400, 450, 4, {semconv.REWARD_SCORE: 0.5}),
        make_span(8, semconv.POST_WAIT, 500, 1000),
    ]
    for cut in range(len(spans)):
        parts = parts_of(Tree(spans, 1), cut, within=False, plain=False, st=[STATUS_ERROR, "x"])
        assert assert_same(parts)

"""What holds of every record, whatever the trace."""

from __future__ import annotations

import random
import re
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rollspan import semconv
from rollspan.fold import fold, fold_trace
from rollspan.otlp_json import read_records, read_spans, write_records, write_spans
from rollspan.record import (
    Record,
    event_attributes,
    from_event_attributes,
    from_line,
    root_attributes,
    to_line,
)
from rollspan.spandata import SpanData

from .fold_trees import LENGTH, OWN_FIELDS, Tree, make_root, make_span, shuffled_with_repeats, trees

MICROSECOND = 1e-6
property_of = settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


def folded(spans: list[SpanData]) -> Record:
    record = fold_trace(spans)
    assert record is not None
    return record


def as_the_collector_writes(line: bytes) -> bytes:
    """The Collector writes a double such as 5.0 as 5."""
    return re.sub(rb'("doubleValue":-?\d+)\.0(?=[,}])', rb"\1", line)


def sums(record: Record) -> dict[str, float]:
    """The record's `<phase>_s`."""
    return {
        name: value
        for name, value in record.items()
        if name.endswith("_s") and not name.endswith("_wall_s") and name not in OWN_FIELDS
    }


@property_of
@given(trees())
def test_waits_leaf_work_and_the_unattributed_add_up_to_the_total(tree: Tree) -> None:
    """Invariant 1: waits + leaf work + unattributed = total, to 1 us, leaf work counted independently."""
    record = folded(tree.spans)
    waits = sum(record.get(name, 0.0) for name in ("queue_wait_s", "runner_wait_s", "post_wait_s"))
    leaf_work = tree.seconds(len(tree.leaf_work()))
    assert abs(waits + leaf_work + record["unattributed_s"] - record["total_s"]) <= MICROSECOND
    assert waits == pytest.approx(tree.seconds(len(tree.waits())), abs=MICROSECOND)
    assert record["total_s"] == tree.seconds(LENGTH)


@property_of
@given(trees())
def test_durations_are_sums_and_unions_of_their_phases(tree: Tree) -> None:
    """Invariant 2, and more: no phase is lost or mixed up with another, whatever its name."""
    record = folded(tree.spans)
    lengths = tree.by_name()
    assert set(record["phases"]) == set(lengths)
    assert sorted(sums(record).values()) == pytest.approx(
        sorted(tree.seconds(total) for total, _ in lengths.values()), rel=1e-12
    )
    walls = {name: value for name, value in record.items() if name.endswith("_wall_s")}
    assert sorted(walls.values()) == pytest.approx(
        sorted(tree.seconds(union) for total, union in lengths.values() if union != total), rel=1e-12
    )
    for name, wall in walls.items():
        assert 0 <= wall < record[name.removesuffix("_wall_s") + "_s"]
    assert all(value >= 0 for name, value in record.items() if name.endswith("_s"))
    begin = record["submit_ts"]
    for intervals in record["phases"].values():
        for interval in intervals:
            assert begin - MICROSECOND <= interval["start_ts"] <= interval["end_ts"]
            assert interval["end_ts"] <= begin + record["total_s"] + MICROSECOND
        starts = [interval["start_ts"] for interval in intervals]
        assert starts == sorted(starts)


@property_of
@given(trees(), st.randoms(use_true_random=False))
def test_the_order_and_the_repetition_of_spans_do_not_matter(tree: Tree, order: random.Random) -> None:
    """Invariant 3: the same record, to the byte."""
    assert to_line(folded(shuffled_with_repeats(tree.spans, order))) == to_line(folded(tree.spans))


@property_of
@given(trees())
def test_a_trace_and_its_record_survive_json_and_otlp(tree: Tree) -> None:
    """Invariant 3: spans and record come back from JSON, OTLP spans and OTLP log events as they were."""
    record = folded(tree.spans)
    assert from_line(to_line(record)) == record
    spans = list(read_spans([as_the_collector_writes(write_spans(tree.spans, {"service.name": "x"}))]))
    assert spans == tree.spans
    assert folded(spans) == record
    assert from_event_attributes(event_attributes(record)) == record
    assert list(read_records([as_the_collector_writes(write_records([record], {}))])) == [record]


@property_of
@given(trees())
def test_what_the_root_repeats_of_the_record_does_not_feed_back(tree: Tree) -> None:
    """Folding a trace whose root has the record's attributes gives the same record once more."""
    record = folded(tree.spans)
    root, *others = tree.spans
    richer = root._replace(attributes={**root.attributes, **root_attributes(record)})
    assert to_line(folded([richer, *others])) == to_line(record)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.binary(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=3,
)
ROLLOUT_KEYS = sorted(
    value
    for name, value in vars(semconv).items()
    if name.isupper() and isinstance(value, str) and "." in value
)
wild_spans = st.builds(
    lambda trace, ids, name, times, attributes, status: SpanData(
        trace, ids[0], ids[1], name, 1, *times, attributes, status
    ),
    st.integers(1, 2),
    st.tuples(st.integers(0, 4), st.integers(0, 4)),
    st.sampled_from((*semconv.WAITS, "rollout", "generate", "reward", "GET")),
    st.tuples(st.integers(0, 50), st.integers(0, 50)),
    st.dictionaries(
        st.sampled_from(ROLLOUT_KEYS),
        anything | st.sampled_from(("session", "queue_wait", "post_wait", "reward", "x")),
        max_size=5,
    ),
    st.integers(0, 2),
)


@property_of
@given(st.lists(wild_spans, max_size=8), st.randoms(use_true_random=False))
def test_no_span_however_wrong_makes_fold_raise(spans: list[Any], order: random.Random) -> None:
    """Values of any type, cycles, several roots, clashing ids: a record or none, the same from any order."""
    records = fold(spans)
    for record in records:
        assert from_line(to_line(record)) == record
        assert record["unattributed_s"] >= 0
        assert from_event_attributes(event_attributes(record)) == record
    again = list(spans)
    order.shuffle(again)
    assert fold(again) == records


@pytest.mark.parametrize("phases", [0, 1, 39, 40, 41, 60])
@pytest.mark.parametrize("counters", [0, 14, 15, 60])
def test_a_record_event_has_fewer_than_128_attributes(phases: int, counters: int) -> None:
    """However many phases and counters a session has, its event stays below the limit and loses nothing."""
    root = make_root(
        1000,
        {
            **{semconv.COUNTER_PREFIX + f"c{i}": i for i in range(counters)},
            **{semconv.STATS_PREFIX + name: 1 for name in ("accepted", "enqueued", "rejected", "running")},
            semconv.REQUEST_ID: 1,
            semconv.RANK: 0,
            semconv.TASK_ID: 7,
            semconv.GROUP_ID: "7",
            semconv.ROLE: "actor",
            semconv.WORKFLOW: "math",
            semconv.REASON: "x",
            semconv.ERROR_TYPE: "ValueError",
            semconv.CONSUMED: True,
            semconv.STEP_DISPATCH: 1,
            semconv.STEP_CONSUME: 2,
            semconv.REWARD_SCORE: 1.0,
        },
    )
    spans = [root]
    for i in range(phases):  # twice in parallel each, so that each has a wall time
        spans += [make_span(100 + 2 * i + k, f"p{i:02}", 500 + i, 510 + i) for k in (0, 1)]
    tokens = {semconv.INPUT_TOKENS: 1, semconv.OUTPUT_TOKENS: 2, semconv.WEIGHT_VERSION_MIN: 3}
    spans += [make_span(10 + i, name, 0, 10, attributes=tokens) for i, name in enumerate(["generate"] * 2)]
    spans += [make_span(20 + i, name, 10 * i, 10 * i + 10) for i, name in enumerate(sorted(semconv.WAITS))]
    record = folded(spans)
    attributes = event_attributes(record)
    assert len(attributes) < 128
    assert from_event_attributes(attributes) == record
    assert list(read_records([write_records([record], {})])) == [record]
    fixed = {name: value for name, value in record.items() if name != "counters"}
    room = 127 - len(event_attributes(fixed))
    assert room >= 14
    assert ("counters" in attributes) == (counters > room)

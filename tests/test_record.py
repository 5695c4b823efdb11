"""The record's forms: a line of a file, attributes of the root, a log event."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from rollspan.fold import fold_trace
from rollspan.record import (
    Record,
    event_attributes,
    from_event_attributes,
    from_line,
    root_attributes,
    to_line,
)

from .fold_trees import make_root, make_span


def a_record(**more: Any) -> Record:
    return {
        "request_id": 0,
        "status": "accepted",
        "submit_ts": 1763937000.5,
        "rollout_stats": {"accepted": 1, "running": 2},
        "queue_wait_s": 0.25,
        "total_s": 2.0,
        "generate_s": 1.5,
        "generate_wall_s": 1.0,
        "unattributed_s": 0.0,
        "phases": {"generate": [{"start_ts": 1763937000.5, "end_ts": 1763937001.5}]},
        "session_id": "s",
        "trace_id": "0" * 31 + "1",
        "input_tokens": 5,
        "output_tokens": 7,
        "turns": 1,
        "weight_version_min": 3,
        "weight_version_max": 4,
        "reward": 1.0,
        "late_spans": 0,
        "counters": {"a.b": 1, "": 2},
        "links": {"dispatch_step": 3},
        **more,
    }


def test_a_record_is_one_line_of_json() -> None:
    """A line ends with its only newline and comes back as it was, in the same order."""
    record = a_record(task_id="two\nlines", workflow="Größe 🎲")
    line = to_line(record)
    assert line.count(b"\n") == 1
    assert line.endswith(b"}\n")
    assert list(from_line(line).items()) == list(record.items())
    assert from_line(line.decode()) == record


def test_a_lone_surrogate_does_not_lose_the_record() -> None:
    """What UTF-8 cannot carry becomes a question mark, in names as in values."""
    record = from_line(to_line(a_record(task_id="a\ud800", counters={"\udfff": 1})))
    assert record == a_record(task_id="a?", counters={"?": 1})


@pytest.mark.parametrize("line", [b"[1]", b"7\n", b'"x"', b"{", b""])
def test_a_line_that_holds_no_record_is_refused(line: bytes) -> None:
    """ValueError, for broken JSON as for JSON of another kind."""
    with pytest.raises(ValueError, match=r"."):
        from_line(line)


def test_the_root_repeats_durations_tokens_and_outcome() -> None:
    """Scalar durations under `rollout.`, token sums not under gen_ai.*."""
    assert root_attributes(a_record()) == {
        "rollout.queue_wait_s": 0.25,
        "rollout.total_s": 2.0,
        "rollout.generate_s": 1.5,
        "rollout.generate_wall_s": 1.0,
        "rollout.unattributed_s": 0.0,
        "rollout.turns": 1,
        "rollout.late_spans": 0,
        "rollout.input_tokens": 5,
        "rollout.output_tokens": 7,
        "rollout.weight_version.min": 3,
        "rollout.weight_version.max": 4,
        "rl.reward.score": 1.0,
    }


def test_event_attributes_are_dotted_and_phases_structured() -> None:
    """The event has the record's names; nested ones are dotted, `phases` stays a structure."""
    record = a_record()
    attributes = event_attributes(record)
    plain = {name: value for name, value in record.items() if not isinstance(value, dict)}
    assert attributes == {
        **plain,
        "rollout_stats.accepted": 1,
        "rollout_stats.running": 2,
        "phases": record["phases"],
        "counters.a.b": 1,
        "counters.": 2,
        "links.dispatch_step": 3,
    }
    assert from_event_attributes(attributes) == record
    assert from_event_attributes(dict(sorted(attributes.items(), reverse=True))) == record


def test_many_counters_become_one_value() -> None:
    """Counters that would take the event over its limit stand in one structured value."""
    record = a_record(counters={f"c{i}": i for i in range(120)})
    attributes = event_attributes(record)
    assert attributes["counters"] == record["counters"]
    assert len(attributes) < 128
    assert from_event_attributes(attributes) == record


def test_a_phase_and_a_counter_may_share_a_dotted_name() -> None:
    """The phase `counters.x` and the counter `x_s` are told apart, alone and together."""
    phase = make_span(2, "counters.x", 0, 100)
    both = fold_trace([make_root(100, {"rollout.counter.x_s": 3}), phase])
    alone = fold_trace([make_root(100), phase])
    for record in (both, alone):
        assert record is not None
        assert record["counters.x_s"] == 0.1
        assert from_event_attributes(event_attributes(record)) == record


def test_no_form_changes_the_record() -> None:
    """The forms are copies: making them leaves the record alone."""
    record = a_record()
    before = orjson.dumps(record)
    event_attributes(record)
    root_attributes(record)
    from_event_attributes(event_attributes(record))["counters"]["new"] = 1
    assert orjson.dumps(record) == before

"""Each rule of fold on a small trace that shows it."""

from __future__ import annotations

from typing import Any

import pytest

from rollspan import semconv
from rollspan.fold import fold, fold_trace
from rollspan.record import Record
from rollspan.spandata import STATUS_ERROR, Link, SpanData

from .fold_trees import MS, ROOT_ID, TRACE_ID, at, make_root, make_span


def folded(*spans: SpanData) -> Record:
    record = fold_trace(spans)
    assert record is not None
    return record


def whole_session() -> list[SpanData]:
    """A consumed session of one second with one of everything."""
    root = make_root(
        1000,
        {
            semconv.SESSION_ID: "mine",
            semconv.REQUEST_ID: 3,
            semconv.RANK: 1,
            semconv.ROLE: "actor",
            semconv.TASK_ID: 7,
            semconv.GROUP_ID: "g7",
            semconv.WORKFLOW: "math",
            semconv.CONSUMED: True,
            semconv.STEP_DISPATCH: 11,
            semconv.STEP_CONSUME: 12,
            semconv.STATS_PREFIX + "accepted": 1,
            semconv.STATS_PREFIX + "enqueued": 2,
            semconv.STATS_PREFIX + "rejected": 3,
            semconv.STATS_PREFIX + "running": 4,
            semconv.COUNTER_PREFIX + "retries": 2,
        },
    )
    generation = {
        semconv.INPUT_TOKENS: 10,
        semconv.OUTPUT_TOKENS: 90,
        semconv.WEIGHT_VERSION_MIN: 4,
        semconv.WEIGHT_VERSION_MAX: 5,
    }
    return [
        root,
        make_span(2, semconv.QUEUE_WAIT, 0, 100),
        make_span(3, semconv.RUNNER_WAIT, 100, 250),
        make_span(4, semconv.EXECUTION, 250, 800),
        make_span(5, semconv.GENERATE, 260, 700, 4, generation),
        make_span(6, semconv.REWARD, 700, 790, 4, {semconv.REWARD_SCORE: 0.5}),
        make_span(7, semconv.POST_WAIT, 800, 1000),
    ]


def test_a_whole_session_gives_every_field() -> None:
    """The record of an ordinary consumed session, field for field."""
    assert folded(*whole_session()) == {
        "request_id": 3,
        "rank": 1,
        "status": "accepted",
        "submit_ts": at(0),
        "enqueue_ts": at(100),
        "wait_return_ts": at(1000),
        "rollout_stats": {"accepted": 1, "enqueued": 2, "rejected": 3, "running": 4},
        "queue_wait_s": 0.1,
        "runner_wait_s": 0.15,
        "post_wait_s": 0.2,
        "total_s": 1.0,
        "execution_s": 0.55,
        "generate_s": 0.44,
        "reward_calc_s": 0.09,
        "unattributed_s": 0.02,
        "phases": {
            "execution": [{"start_ts": at(250), "end_ts": at(800)}],
            "generate": [{"start_ts": at(260), "end_ts": at(700)}],
            "reward": [{"start_ts": at(700), "end_ts": at(790)}],
        },
        "session_id": "mine",
        "trace_id": f"{TRACE_ID:032x}",
        "task_id": 7,
        "group_id": "g7",
        "role": "actor",
        "workflow": "math",
        "input_tokens": 10,
        "output_tokens": 90,
        "turns": 1,
        "weight_version_min": 4,
        "weight_version_max": 5,
        "reward": 0.5,
        "late_spans": 0,
        "counters": {"retries": 2},
        "links": {"dispatch_step": 11, "consume_step": 12},
    }


def test_a_root_alone_has_no_field_without_a_value() -> None:
    """What nobody told is absent, never null."""
    assert folded(make_root(250)) == {
        "status": "accepted",
        "submit_ts": at(0),
        "total_s": 0.25,
        "unattributed_s": 0.25,
        "phases": {},
        "session_id": f"{TRACE_ID:032x}",
        "trace_id": f"{TRACE_ID:032x}",
        "late_spans": 0,
    }


def test_tool_calls_in_parallel_keep_their_intervals() -> None:
    """Three parallel calls of 0.3, 0.1 and 0.3 s: 0.7 s of calls in 0.4 s of time, no end missing."""
    record = folded(
        make_root(500),
        make_span(2, semconv.EXECUTION, 0, 500),
        make_span(3, semconv.TOOLCALL, 0, 300, 2),
        make_span(4, semconv.TOOLCALL, 50, 150, 2),
        make_span(5, semconv.TOOLCALL, 100, 400, 2),
    )
    assert record["toolcall_s"] == 0.7
    assert record["toolcall_wall_s"] == 0.4
    assert record["phases"]["toolcall"] == [
        {"start_ts": at(0), "end_ts": at(300)},
        {"start_ts": at(50), "end_ts": at(150)},
        {"start_ts": at(100), "end_ts": at(400)},
    ]
    assert record["unattributed_s"] == 0.1


def test_phases_one_after_another_have_no_wall_field() -> None:
    """`<phase>_wall_s` is there only where it differs from the sum."""
    record = folded(make_root(), make_span(2, "x", 0, 100), make_span(3, "x", 100, 300))
    assert record["x_s"] == 0.3
    assert "x_wall_s" not in record


def test_parallel_rewards_are_reward_calc() -> None:
    """The reward phase keeps the first tracer's field name, for its wall time too."""
    record = folded(make_root(), make_span(2, "reward", 0, 100), make_span(3, "reward", 50, 150))
    assert (record["reward_calc_s"], record["reward_calc_wall_s"]) == (0.2, 0.15)
    assert "reward_s" not in record


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("total", "total__s"),
        ("unattributed", "unattributed__s"),
        ("reward_calc", "reward_calc__s"),
        ("x_wall", "x_wall__s"),
        ("queue_wait_", "queue_wait__s"),
        ("run_agent", "run_agent_s"),
        ("a.b ü", "a.b ü_s"),
        ("session", "session_s"),
        ("", "_s"),
    ],
)
def test_a_name_that_would_take_a_field_gets_an_underscore(name: str, field: str) -> None:
    """No phase's name overwrites a field, and none is lost."""
    record = folded(make_root(), make_span(2, name, 100, 200))
    assert record[field] == 0.1
    assert record["phases"] == {name: [{"start_ts": at(100), "end_ts": at(200)}]}
    assert (record["total_s"], record["unattributed_s"]) == (1.0, 0.9)


def test_names_that_meet_after_the_underscore_stay_apart() -> None:
    """`total` gives way to a phase that is really called `total_`."""
    record = folded(make_root(), make_span(2, "total", 0, 100), make_span(3, "total_", 200, 500))
    assert (record["total__s"], record["total___s"]) == (0.3, 0.1)


def test_beyond_40_phases_durations_stand_in_phases_alone() -> None:
    """The four that everybody knows and the first of the others have fields; `phases` has all."""
    spans = [make_span(10 + i, f"p{i:02}", 10 * i, 10 * i + 10) for i in range(45)]
    record = folded(make_root(), *spans, make_span(99, "generate", 900, 950))
    assert len(record["phases"]) == 46
    assert "p38_s" in record
    assert "p39_s" not in record
    assert record["generate_s"] == 0.05


def test_time_outside_of_any_wait_and_leaf_is_unattributed() -> None:
    """A phase with phases below it accounts for nothing itself."""
    record = folded(
        make_root(),
        make_span(2, "execution", 0, 1000),
        make_span(3, "agent", 100, 900, 2),
        make_span(4, "generate", 200, 500, 3),
    )
    assert record["unattributed_s"] == 0.7


def test_a_reward_computed_while_waiting_counts_once() -> None:
    """A phase inside a wait is in its own sum and takes nothing from the wait."""
    record = folded(make_root(), make_span(2, "post_wait", 500, 1000), make_span(3, "reward", 400, 700, 2))
    assert (record["post_wait_s"], record["reward_calc_s"], record["unattributed_s"]) == (0.5, 0.3, 0.4)


def test_a_wait_before_each_retry_is_added_up() -> None:
    """Two runs: `runner_wait_s` and `execution_s` are sums, `enqueue_ts` is the first hand-over."""
    record = folded(
        make_root(),
        make_span(2, "queue_wait", 0, 100),
        make_span(3, "runner_wait", 100, 200),
        make_span(4, "execution", 200, 400),
        make_span(5, "runner_wait", 400, 450),
        make_span(6, "execution", 450, 800),
    )
    assert (record["runner_wait_s"], record["execution_s"]) == (0.15, 0.55)
    assert record["enqueue_ts"] == at(100)


@pytest.mark.parametrize(("begin", "enqueued"), [(100, True), (150, True), (50, False)])
def test_without_a_runner_wait_the_queue_ends_at_the_hand_over(begin: int, enqueued: bool) -> None:
    """`enqueue_ts` is the end of queue_wait if work begins at or after it."""
    record = folded(make_root(), make_span(2, "queue_wait", 0, 100), make_span(3, "x", begin, 200))
    assert record.get("enqueue_ts") == (at(100) if enqueued else None)


def test_a_session_dropped_in_the_queue_was_never_enqueued() -> None:
    """A session that only waited has no `enqueue_ts`."""
    root = make_root(100, {semconv.STATUS: "dropped", semconv.REASON: "input_queue_full"})
    record = folded(root, make_span(2, "queue_wait", 0, 100))
    assert "enqueue_ts" not in record
    assert (record["status"], record["rejection_reason"]) == ("dropped", "input_queue_full")
    assert (record["queue_wait_s"], record["unattributed_s"]) == (0.1, 0.0)


@pytest.mark.parametrize("consumed", [False, "true", 1, None])
def test_only_a_consumed_session_returned(consumed: Any) -> None:
    """`wait_return_ts` is there when the trainer got the session, for sure."""
    given = {} if consumed is None else {semconv.CONSUMED: consumed}
    assert "wait_return_ts" not in folded(make_root(100, given))


def test_waits_that_overlap_are_told_apart() -> None:
    """Waits never overlap: the later one begins when the earlier one ends."""
    record = folded(make_root(), make_span(2, "queue_wait", 0, 300), make_span(3, "runner_wait", 200, 400))
    assert (record["queue_wait_s"], record["runner_wait_s"]) == (0.3, 0.1)
    assert record["unattributed_s"] == 0.6


def test_a_phase_called_like_a_wait_is_no_wait() -> None:
    """Below a phase, `queue_wait` is a name that somebody picked; it gets an underscore."""
    record = folded(
        make_root(),
        make_span(2, "queue_wait", 0, 100),
        make_span(3, "execution", 100, 1000),
        make_span(4, "queue_wait", 200, 500, 3),
    )
    assert (record["queue_wait_s"], record["queue_wait__s"]) == (0.1, 0.3)
    assert record["phases"]["queue_wait"] == [{"start_ts": at(200), "end_ts": at(500)}]


def test_a_phase_that_leaves_the_session_is_clipped_and_late() -> None:
    """What was still open at the end is cut there and counted; what began before is cut without."""
    record = folded(
        make_root(),
        make_span(2, "x", 900, 1300),
        make_span(3, "y", -100, 100),
        make_span(4, "z", 990, 1000, attributes={semconv.LATE: True}),
        make_span(5, "after", 1200, 1300),
        make_span(6, "backwards", 500, 400),
    )
    assert record["phases"]["x"] == [{"start_ts": at(900), "end_ts": at(1000)}]
    assert record["phases"]["y"] == [{"start_ts": at(0), "end_ts": at(100)}]
    assert record["phases"]["after"] == [{"start_ts": at(1000), "end_ts": at(1000)}]
    assert (record["x_s"], record["after_s"], record["backwards_s"]) == (0.1, 0.0, 0.0)
    assert record["late_spans"] == 3


def test_a_root_that_ends_before_it_starts_has_no_length() -> None:
    """No duration is negative."""
    record = folded(make_root(-5), make_span(2, "x", -10, 10))
    assert (record["total_s"], record["x_s"], record["unattributed_s"]) == (0.0, 0.0, 0.0)


def test_foreign_spans_and_spans_that_are_no_phases_are_left_out() -> None:
    """The caller's phase already holds the time of another process's spans and of HTTP clients'."""
    record = folded(
        make_root(),
        make_span(2, "reward", 0, 500),
        make_span(3, "reward", 100, 400, 2, {semconv.FOREIGN: True, semconv.REWARD_SCORE: 9.0}),
        make_span(4, None, 100, 300, 2, name="POST"),
        make_span(5, None, 100, 300, 2, name="queue_wait"),
    )
    assert list(record["phases"]) == ["reward"]
    assert (record["reward_calc_s"], record["unattributed_s"]) == (0.5, 0.5)
    assert "reward" not in record


def test_a_span_is_found_by_a_name_that_is_known() -> None:
    """Spans of a plain tracer need no `rollout.phase`, not even the root."""
    root = make_span(ROOT_ID, None, 0, 1000, 0, name="rollout")
    record = folded(
        root, make_span(2, None, 0, 100, name="queue_wait"), make_span(3, None, 100, 400, name="generate")
    )
    assert (record["queue_wait_s"], record["generate_s"], record["turns"]) == (0.1, 0.3, 1)
    assert record["status"] == "accepted"


def test_the_phase_attribute_goes_before_the_name() -> None:
    """A renamed span is still the phase that it was."""
    record = folded(make_root(), make_span(2, "toolcall", 0, 100, name="generate"))
    assert list(record["phases"]) == ["toolcall"]


def test_a_span_in_between_does_not_hide_who_is_whose_parent() -> None:
    """A phase below somebody else's span is below the phase above it."""
    record = folded(
        make_root(),
        make_span(2, "execution", 0, 1000),
        make_span(3, None, 100, 900, 2, name="middleware"),
        make_span(4, "generate", 200, 500, 3),
    )
    assert record["unattributed_s"] == 0.7


def test_where_the_parent_is_lacking_the_parent_phase_helps() -> None:
    """A lost span in between loses no phase, and the named phase around is no leaf."""
    execution = make_span(2, "execution", 0, 1000)
    orphan = make_span(4, "generate", 200, 500, 3)
    told = make_span(4, "generate", 200, 500, 3, {semconv.PARENT_PHASE: "execution"})
    assert folded(make_root(), execution, orphan)["unattributed_s"] == 0.0
    record = folded(make_root(), execution, told)
    assert (record["unattributed_s"], record["generate_s"]) == (0.7, 0.3)


def test_a_wait_whose_parent_is_lacking_is_a_wait() -> None:
    """Only a phase above makes it a phase."""
    lost = make_span(2, "post_wait", 500, 1000, 77)
    inside = make_span(2, "post_wait", 500, 1000, 77, {semconv.PARENT_PHASE: "x"})
    assert folded(make_root(), lost)["post_wait_s"] == 0.5
    assert folded(make_root(), inside)["post_wait__s"] == 0.5


def test_turns_leave_out_continuations() -> None:
    """A generation aborted for new weights and gone on with is one turn; tokens and versions add up."""

    def generation(span_id: int, begin: int, tokens: int, version: int, **more: Any) -> SpanData:
        given = {
            semconv.INPUT_TOKENS: 5,
            semconv.OUTPUT_TOKENS: tokens,
            semconv.WEIGHT_VERSION_MIN: version,
            semconv.WEIGHT_VERSION_MAX: version,
            **more,
        }
        return make_span(span_id, "generate", begin, begin + 100, attributes=given)

    record = folded(
        make_root(),
        generation(2, 0, 10, 3),
        generation(3, 100, 20, 4, **{semconv.CONTINUATION: True}),
        generation(4, 300, 30, 4, **{semconv.CONTINUATION: False}),
    )
    assert (record["turns"], record["input_tokens"], record["output_tokens"]) == (2, 15, 60)
    assert (record["weight_version_min"], record["weight_version_max"]) == (3, 4)


def test_pauses_of_generations_add_up() -> None:
    """How long engines were paused is summed over the generations that say so; what is no finite number is not."""
    said = (0.25, 0.0, 1.5, "1", 3, float("nan"))
    spans = [
        make_span(i, "generate", i, i + 1, attributes={semconv.PAUSED: s}) for i, s in enumerate(said, 2)
    ]
    assert folded(make_root(), *spans)["generate_paused_s"] == 1.75
    assert "generate_paused_s" not in folded(make_root(), make_span(2, "generate", 0, 1))
    named = folded(make_root(), make_span(2, "generate_paused", 0, 1))
    assert named["generate_paused__s"] > 0


def test_sums_that_no_backend_could_carry_stop_at_64_bits() -> None:
    """Two huge token counts do not make an integer that JSON and OTLP refuse."""
    huge = {semconv.OUTPUT_TOKENS: 2**63 - 1}
    spans = [make_span(i, "generate", 0, 1, attributes=huge) for i in (2, 3)]
    assert folded(make_root(), *spans)["output_tokens"] == 2**63 - 1


@pytest.mark.parametrize(
    ("verdict", "scores", "reward"),
    [
        (None, [1.0, 0.5], 1.5),
        (None, [1], 1.0),
        (0.25, [1.0], 0.25),
        (0, [1.0], 0.0),
        (None, [1.0, "NaN"], "NaN"),
        (None, ["Infinity", 1.0], "Infinity"),
        (None, ["Infinity", "-Infinity"], "NaN"),
        (None, [1.7e308, 1.7e308], "Infinity"),
        ("-Infinity", [1.0], "-Infinity"),
        ("good", [1.0], 1.0),
        (None, ["good"], None),
        (None, [[1.0]], None),
        (None, [], None),
        (True, [], 1.0),
    ],
)
def test_the_reward_is_the_verdicts_else_the_sum_of_the_scores(
    verdict: Any, scores: Any, reward: Any
) -> None:
    """A score that is not finite stands as its name; what is no number does not count."""
    root = make_root(1000, {} if verdict is None else {semconv.REWARD_SCORE: verdict})
    spans = [
        make_span(i, "reward", i, i + 1, attributes={semconv.REWARD_SCORE: score})
        for i, score in enumerate(scores, 2)
    ]
    result = folded(root, *spans).get("reward")
    assert result == reward
    assert type(result) is type(reward)


def test_links_tell_the_steps_where_the_root_does_not() -> None:
    """`links` comes from the root's attributes, else from its links."""
    links = [
        Link(5, 6, {semconv.LINK_KIND: "dispatch", semconv.STEP: 1}),
        Link(5, 6, {semconv.LINK_KIND: "consume", semconv.STEP: 2}),
    ]
    assert folded(make_root(links=links))["links"] == {"dispatch_step": 1, "consume_step": 2}
    root = make_root(100, {semconv.STEP_CONSUME: 9}, links=links[:1])
    assert folded(root)["links"] == {"dispatch_step": 1, "consume_step": 9}


def test_a_failed_session_says_so() -> None:
    """Status and error type come from the root; without a status, an ERROR root is a failure."""
    given = {semconv.STATUS: "failed", semconv.REASON: "workflow_exception", semconv.ERROR_TYPE: "KeyError"}
    record = folded(make_root(100, given, status=STATUS_ERROR))
    assert (record["status"], record["rejection_reason"], record["error_type"]) == (
        "failed",
        "workflow_exception",
        "KeyError",
    )
    bare = make_span(ROOT_ID, "session", 0, 1, 0)
    assert folded(bare._replace(status=STATUS_ERROR))["status"] == "failed"
    assert folded(bare)["status"] == "accepted"


def test_values_of_a_wrong_type_are_left_out() -> None:
    """Odd values neither raise nor reach the record."""
    root = make_root(
        1000,
        {
            semconv.SESSION_ID: 5,
            semconv.REQUEST_ID: "three",
            semconv.RANK: 2**70,
            semconv.TASK_ID: float("nan"),
            semconv.GROUP_ID: ["a"],
            semconv.STATS_PREFIX + "accepted": "many",
            semconv.COUNTER_PREFIX + "x": 1.5,
            semconv.STEP_DISPATCH: True,
        },
    )
    odd = {semconv.INPUT_TOKENS: "ten", semconv.WEIGHT_VERSION_MIN: 1.5, semconv.CONTINUATION: "yes"}
    record = folded(root, make_span(2, "generate", 0, 1000, attributes=odd))
    assert record == {
        "status": "accepted",
        "submit_ts": at(0),
        "total_s": 1.0,
        "generate_s": 1.0,
        "unattributed_s": 0.0,
        "phases": {"generate": [{"start_ts": at(0), "end_ts": at(1000)}]},
        "session_id": f"{TRACE_ID:032x}",
        "trace_id": f"{TRACE_ID:032x}",
        "turns": 1,
        "late_spans": 0,
    }


def test_of_two_versions_of_a_span_the_later_end_counts() -> None:
    """Whatever the order, each span id is taken once."""
    short, long = make_span(2, "x", 0, 100), make_span(2, "x", 0, 300)
    assert folded(make_root(), short, long) == folded(make_root(), long, short)
    assert folded(make_root(), short, long)["x_s"] == 0.3


def test_a_trace_without_a_session_has_no_record() -> None:
    """A step's trace, the spans of a lost root, and nothing at all give None."""
    step = make_span(ROOT_ID, None, 0, 100, 0, {semconv.STEP: 3}, name="step")
    orphan = make_span(3, "session", 0, 100, 2)
    assert fold_trace([step]) is None
    assert fold_trace([make_span(2, "generate", 0, 100), orphan]) is None
    assert fold_trace([]) is None


def test_fold_takes_many_traces_at_once() -> None:
    """One record per session, by submit time and then trace id, however the spans are mixed."""
    session = whole_session()
    earlier = [s._replace(trace_id=9, start_ns=s.start_ns - MS, end_ns=s.end_ns - MS) for s in session]
    same_time = [s._replace(trace_id=8) for s in session]
    step = make_span(ROOT_ID, None, 0, 100, 0, name="step")._replace(trace_id=4)
    mixed = [span for three in zip(session, earlier, same_time, strict=True) for span in three]
    assert fold([*mixed, step]) == [fold_trace(earlier), fold_trace(same_time), fold_trace(session)]


def test_what_encloses_comes_first_in_phases() -> None:
    """Phases stand in start order; of two that start together, the longer one first."""
    record = folded(
        make_root(), make_span(2, "a", 100, 200, 3), make_span(3, "b", 100, 900), make_span(4, "c", 0, 50)
    )
    assert list(record["phases"]) == ["c", "b", "a"]

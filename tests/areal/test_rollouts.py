"""An unchanged AReaL program, turned on by the environment: each rollout is one trace and one record, both true."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import pytest

from rollspan.spandata import SpanData
from tests.areal.conftest import Run
from tests.backends.comparing import exact, kept
from tests.backends.services import Jaeger, wait_until
from tests.faults.jobs import in_file

PLAIN = [f"plain-{number}" for number in range(3)]
SLACK = 2e-6  # the clocks of the two sides are read by different calls: time.time() and an anchored monotonic clock


def phases(record: dict[str, Any], name: str) -> list[tuple[float, float]]:
    """The intervals of one phase."""
    return [(each["start_ts"], each["end_ts"]) for each in record["phases"].get(name, ())]


def test_the_program_runs_as_without_rollspan(traced: Run, plain: Run) -> None:
    """It gets the same results, and AReaL counts the same rollouts."""
    assert traced.facts["results"] == plain.facts["results"]
    assert not plain.directory.exists()


def test_every_rollout_is_recorded_exactly_once(traced: Run) -> None:
    """As many records as samples were submitted, each with an id of its own, none pending."""
    found = in_file(traced.directory)
    assert len({record["session_id"] for record in found}) == len(found)
    numbers = {query: len(records) for query, records in traced.records().items()}
    steps = {query: number for query, number in numbers.items() if query.startswith(("step-", "lost-"))}
    ones = ["refused", "filter-raises", "raises", "none", "nonsense", "reward-raises", "reward-hangs"]
    ones += [
        "events",
        "multi-turn",
        "own-id",
        "retried",
        "train",
        "eval",
        "aborted",
        *PLAIN,
        *(f"cut-off-{n}" for n in range(6)),
    ]
    expected = {
        **dict.fromkeys(ones, 1),
        **{f"group-{n}": 2 for n in range(3)},
        "one-raises": 3,
        "one-none": 3,
    }
    assert numbers == {**expected, **steps}
    assert len(steps) >= 12
    (stats,) = traced.facts["results"]["stats"]
    known = Counter(record["status"] for record in found)
    # AReaL counts a group once, and rollouts of two other engines in other managers.
    groups = 3 * (2 - 1) + (2 - 1)  # three whole groups, and the two of three that were left of one
    assert known["accepted"] == stats["accepted"] + groups + 2
    assert traced.facts["results"]["interrupted"] == [True]
    assert "pending" not in known


@pytest.mark.parametrize(
    ("query", "status", "reason", "error"),
    [
        ("plain-0", "accepted", None, None),
        ("refused", "rejected", "should_accept_false", None),
        ("none", "rejected", "workflow_returned_none", None),
        ("raises", "failed", "workflow_exception", "ZeroDivisionError"),
        ("filter-raises", "failed", "workflow_exception", "OSError"),
        ("nonsense", "failed", "workflow_exception", "ValueError"),
        ("reward-raises", "failed", "workflow_exception", "LookupError"),
        ("reward-hangs", "accepted", None, None),
        ("cut-off-0", "dropped", "cancelled", None),
        ("cut-off-5", "dropped", "cancelled", None),
    ],
)
def test_what_areal_swallows_is_told_apart(
    traced: Run, query: str, status: str, reason: str | None, error: str | None
) -> None:
    """Refused, returned nothing, failed with its exception, cancelled: for AReaL's trainer each of them is None."""
    record = traced.record(query)
    assert (record["status"], record.get("rejection_reason"), record.get("error_type")) == (
        status,
        reason,
        error,
    )
    assert ("wait_return_ts" in record) == (status == "accepted")


def test_waits_and_phases_lie_between_the_programs_own_readings(traced: Run) -> None:
    """Submission, execution, generation and consumption: each stamp lies between one just inside and one just outside."""
    for query in PLAIN:
        record, seen = traced.record(query), {what: values[0] for what, values in traced.facts[query].items()}
        ((began, ended),) = phases(record, "execution")
        ((sent, answered),) = phases(record, "generate")
        (scored, _) = phases(record, "reward")[0]
        order = [
            seen["before submit"],
            record["submit_ts"],
            seen["after submit"],
        ]
        assert order == sorted(order)
        order = [record["submit_ts"], record["enqueue_ts"], began, seen["episode begins"]]
        assert order == sorted(order)
        order = [
            seen["generate begins"],
            sent,
            answered,
            seen["generate ends"],
            scored,
            seen["episode ends"],
            ended,
        ]
        assert all(later - earlier > -SLACK for earlier, later in itertools.pairwise(order))
        order = [seen["before wait"], record["wait_return_ts"], seen["after wait"]]
        assert order == sorted(order)
        assert record["runner_wait_s"] == pytest.approx(began - record["enqueue_ts"], abs=1e-6)
        assert record["queue_wait_s"] == pytest.approx(record["enqueue_ts"] - record["submit_ts"], abs=1e-6)
        assert record["post_wait_s"] == pytest.approx(record["wait_return_ts"] - ended, abs=1e-6)
        assert record["reward_calc_s"] >= 0.003  # what the reward function sleeps


def inside(intervals: list[tuple[float, float]], seen: list[Any]) -> bool:
    """Whether each interval that the program read itself lies in one of these, in some order."""
    return len(intervals) == len(seen) and any(
        all(a - SLACK <= c and d <= b + SLACK for (a, b), (c, d) in zip(order, seen, strict=True))
        for order in itertools.permutations(intervals)
    )


def test_each_sample_of_a_group_lies_between_the_programs_own_readings(traced: Run) -> None:
    """Executions are around episodes, generations within calls, all between submission and return."""
    for number in range(3):
        query = f"group-{number}"
        seen, records = traced.facts[query], traced.records()[query]
        executions = [phases(record, "execution")[0] for record in records]
        assert inside(executions, seen["episodes"])
        assert inside(seen["generations"], [phases(record, "generate")[0] for record in records])
        for record in records:
            assert seen["before submit"][0] <= record["submit_ts"] <= record["enqueue_ts"]
            ((began, ended),) = phases(record, "execution")
            assert record["enqueue_ts"] <= began < ended <= record["wait_return_ts"] <= seen["after wait"][0]
            total = (
                record["queue_wait_s"]
                + record["runner_wait_s"]
                + record["execution_s"]
                + record["post_wait_s"]
            )
            assert total == pytest.approx(record["total_s"], abs=1e-6)


def test_a_reward_that_times_out_is_measured_with_all_its_tries(traced: Run) -> None:
    """It lies within the program's own readings, and is no shorter than what AReaL waits."""
    record, seen = traced.record("reward-hangs"), traced.facts["reward-hangs"]
    assert inside(seen["rewards"], phases(record, "reward"))
    assert record["reward_calc_s"] >= 0.1


def test_a_request_that_is_sent_again_is_one_generation(traced: Run) -> None:
    """With all its tries and what lies between them; each try is a request with the session's trace."""
    record, seen = traced.record("retried"), traced.facts["retried"]
    assert seen["refused"] == [1]
    assert record["status"] == "accepted"
    assert inside(seen["generations"], phases(record, "generate"))
    assert record["generate_s"] >= 1.0  # what AReaL waits before it asks again
    assert record["turns"] == 1
    assert record["output_tokens"] == seen["tokens"][0][1]


def test_the_parts_of_an_aborted_generation_lie_within_its_call(traced: Run) -> None:
    """One after another, the pause between them in none."""
    record, ((begun, ended),) = traced.record("aborted"), traced.facts["aborted"]["generations"]
    parts = phases(record, "generate")
    assert len(parts) > 1
    order = [begun, *(each for part in parts for each in part), ended]
    assert all(later - earlier > -SLACK for earlier, later in itertools.pairwise(order))
    assert record["generate_s"] <= ended - begun - 0.2 + SLACK  # what the program paused


def test_tokens_rewards_and_stats_are_areals_own(traced: Run) -> None:
    """Token counts are those of the response, the reward that of the trajectory, the stats those of the manager."""
    record = traced.record("plain-0")
    ((sent, received),) = traced.facts["plain-0"]["tokens"]
    assert (record["input_tokens"], record["output_tokens"], record["reward"]) == (sent, received, 1.0)
    assert record["workflow"] == "Stamped"
    assert record["rollout_stats"] == {"accepted": 1, "enqueued": 0, "rejected": 0, "running": 0}


@pytest.fixture(params=["its tracer on", "its tracer off"])
def either(request: pytest.FixtureRequest) -> Run:
    """A traced run of the program, with AReaL's own tracer on, and off."""
    run: Run = request.getfixturevalue("traced" if request.param == "its tracer on" else "traced_alone")
    return run


def test_what_areals_tracer_is_told_is_in_the_session(either: Run) -> None:
    """Phases, events, counters and scopes; a generation once, also where AReaL's own phase is around it."""
    record = either.record("events")
    assert len(phases(record, "toolcall")) == 2
    assert (
        len(phases(record, "think")) == len(phases(record, "look up")) == len(phases(record, "reward")) == 1
    )
    own, real = phases(record, "generate")
    assert own[1] - own[0] >= 0.005
    assert own[1] <= real[0]
    assert record["counters"] == {"retries": 2}
    assert len(phases(either.record("plain-0"), "generate")) == 1
    assert len(phases(either.record("plain-0"), "reward")) == 1


def test_an_aborted_generation_goes_on_as_the_same_turn(traced: Run) -> None:
    """Each request is a span, none of them holds the pause, and both versions of the weights are known."""
    record = traced.record("aborted")
    first, second = phases(record, "generate")
    assert second[0] - first[1] > 0.1  # AReaL waits while it is paused
    assert record["turns"] == 1
    ((_, received),) = traced.facts["aborted"]["tokens"]
    assert record["output_tokens"] == received
    (versions,) = traced.facts["aborted"]["versions"]
    assert {record["weight_version_min"], record["weight_version_max"]} == set(versions) == {0, 7}


def test_turns_are_counted(traced: Run) -> None:
    """A workflow of several turns, in which AReaL's tracer sees no phase at all, has each of them."""
    record = traced.record("multi-turn")
    assert record["turns"] == len(phases(record, "generate")) == len(phases(record, "reward")) == 2


def test_each_sample_of_a_group_is_a_session(traced: Run) -> None:
    """They share the group, no two groups do, and each has its own phases."""
    records = traced.records()
    names = []
    for query in (f"group-{number}" for number in range(3)):
        one, other = records[query]
        assert one["group_id"] == other["group_id"]
        assert len(phases(one, "generate")) == len(phases(other, "generate")) == 1
        names.append(one["group_id"])
    assert len(set(names)) == 3


def test_a_group_in_which_one_fails_says_which(traced: Run) -> None:
    """AReaL throws all of the group away; only one has failed."""
    outcomes = Counter(
        (r["status"], r.get("rejection_reason"), r.get("error_type")) for r in traced.records()["one-raises"]
    )
    assert outcomes == {
        ("failed", "workflow_exception", "ArithmeticError"): 1,
        ("dropped", "group_failed", None): 2,
    }
    outcomes = Counter((r["status"], r.get("rejection_reason")) for r in traced.records()["one-none"])
    assert outcomes == {("accepted", None): 2, ("rejected", "workflow_returned_none"): 1}


def test_ids_that_repeat_between_engines_are_kept_apart(traced: Run) -> None:
    """The train and the eval engine of a process give out the same task ids."""
    spans = {s.attributes.get("rl.sample.task.id"): s for t in kept(traced.directory).values() for s in t[:1]}
    train, evaluation = spans["train"], spans["eval"]
    assert train.attributes["areal.task_id"] == evaluation.attributes["areal.task_id"] == 77
    assert (train.attributes["areal.is_eval"], evaluation.attributes["areal.is_eval"]) == (False, True)
    assert train.trace_id != evaluation.trace_id


def test_a_batch_consumes_what_it_returns(traced: Run) -> None:
    """`prepare_batch` leaves what it does not need to the next one: that is accepted, and not consumed."""
    steps = [r for query, records in traced.records().items() for r in records if query.startswith("step-")]
    consumed = [record for record in steps if "wait_return_ts" in record]
    assert len(consumed) == sum(traced.facts["results"]["batches"]) == 8
    assert all(record["status"] == "accepted" for record in consumed)
    assert {r["status"] for r in steps if "wait_return_ts" not in r} <= {"accepted", "rejected", "dropped"}


def test_what_is_lost_with_its_batch_is_dropped(traced: Run) -> None:
    """`prepare_batch` is interrupted when two of its four have arrived: nobody will ever see them."""
    found = Counter(
        (record["status"], record["rejection_reason"])
        for query, records in traced.records().items()
        for record in records
        if query.startswith("lost-")
    )
    cancelled = found.pop(("dropped", "cancelled"))
    assert cancelled >= 4
    assert found == {("dropped", "batch_failed"): 2, ("rejected", "workflow_returned_none"): 2}


def test_the_trainers_steps_are_traced_and_linked_to(traced: Run) -> None:
    """AReaL's scopes are spans of the step whose number they say, and sessions link to the steps that had them."""
    steps = {
        spans[0].attributes["rollout.step"]: spans
        for spans in kept(traced.directory).values()
        if spans[0].name == "step"
    }
    assert sorted(steps) == [0, 1]
    for spans in steps.values():
        root, *rest = spans
        named = {span.name: span for span in rest}
        assert set(named) == {
            *("train.rollout", "workflow_executor.prepare_batch", "train.update_weights", "train.done"),
        }
        assert named["train.rollout"].attributes["rollout.category"] == "compute"
        assert named["workflow_executor.prepare_batch"].parent_id == named["train.rollout"].span_id
        assert named["train.update_weights"].parent_id == root.span_id
        assert root.attributes["rollout.step.consumed"] == 4
    records = [r for query, found in traced.records().items() for r in found if query.startswith("step-")]
    consumed = Counter(r["links"]["consume_step"] for r in records if "wait_return_ts" in r)
    assert consumed == {0: 4, 1: 4}
    assert {r["links"]["dispatch_step"] for r in records} == {0, 1}


def test_all_is_found_in_jaeger_down_to_the_servers_spans(traced: Run, jaeger: Jaeger) -> None:
    """Each session is one unbroken trace, and each span of the server for it hangs below a `generate` of it."""
    ours = [span for spans in kept(traced.directory).values() for span in spans]
    generations = [(span.trace_id, span.span_id) for span in ours if "server.address" in span.attributes]
    number = len(ours) + len(generations)  # the server makes one for each
    shown: list[SpanData] = []

    def complete() -> bool:
        shown[:] = [span for spans in jaeger.traces(traced.service).values() for span in spans]
        return len(shown) >= number

    wait_until(complete, f"all of {number} spans to reach Jaeger")
    served = [span for span in shown if span.name == "POST /generate"]
    assert sorted((span.trace_id, span.parent_id) for span in served) == sorted(generations)
    rest = [span for span in shown if span.name != "POST /generate"]
    assert sorted(map(exact, rest)) == sorted(map(exact, ours))
    known = {(span.trace_id, span.span_id) for span in shown}
    assert len(known) == number
    assert all((span.trace_id, span.parent_id) in known for span in shown if span.parent_id)
    assert len({span.trace_id for span in shown}) == sum(span.parent_id == 0 for span in shown)


def test_prompts_and_messages_stay_where_they_are(traced: Run) -> None:
    """Neither the tokens nor the texts of exceptions are in what was recorded."""
    for path in traced.directory.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert b"3 1 2" not in content
            assert b"a workflow that fails" not in content

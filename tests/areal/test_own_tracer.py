"""What AReaL's own session tracer says of the same rollouts, in the same run: docs/areal.md has a line for each."""

from __future__ import annotations

from collections import Counter

from tests.areal.conftest import Run


def test_its_sessions_begin_when_they_run(traced: Run) -> None:
    """Its `submit_ts` is taken when the sample starts, so that no wait is in it; ours is that of the submission."""
    for query in ("plain-0", "plain-1", "plain-2"):
        (theirs,) = traced.areals_own(query)
        ours, seen = traced.record(query), traced.facts[query]
        assert theirs["submit_ts"] > seen["episode begins"][0] - 1e-6
        assert ours["submit_ts"] < seen["after submit"][0]
        assert "queue_wait_s" in ours
        assert not any(name.endswith("wait_s") for name in theirs)


def test_its_generation_holds_the_pause(traced: Run) -> None:
    """While weights are updated nothing is generated: its one interval goes on, ours are two with a gap."""
    (theirs,) = traced.areals_own("aborted")
    ours = traced.record("aborted")
    assert len(theirs["phases"]["generate"]) == 1
    assert len(ours["phases"]["generate"]) == 2
    assert theirs["generate_s"] > ours["generate_s"] + 0.1


def test_it_does_not_see_workflows_that_do_not_call_it(traced: Run) -> None:
    """AReaL's MultiTurnWorkflow makes none of its calls."""
    assert traced.areals_own("multi-turn") == []
    assert traced.record("multi-turn")["turns"] == 2


def test_its_cancelled_sessions_stay_pending(traced: Run) -> None:
    """Those that run when the executor is destroyed; those that wait then are not there at all."""
    theirs = [record["status"] for n in range(6) for record in traced.areals_own(f"cut-off-{n}")]
    assert Counter(theirs) == {"pending": 4}
    ours = [(r["status"], r["rejection_reason"]) for r in (traced.record(f"cut-off-{n}") for n in range(6))]
    assert Counter(ours) == {("dropped", "cancelled"): 6}


def test_it_keeps_no_exception(traced: Run) -> None:
    """A failed session says `workflow_exception`, and nowhere which."""
    (theirs,) = traced.areals_own("reward-raises")
    assert (theirs["status"], theirs["reason"]) == ("failed", "workflow_exception")
    assert "LookupError" not in str(theirs)
    assert traced.record("reward-raises")["error_type"] == "LookupError"


def test_one_failure_is_charged_to_the_others_of_its_group(traced: Run) -> None:
    """The sample that was done is failed, the one that runs on is pending for ever, the one that failed is not there."""
    assert Counter(record["status"] for record in traced.areals_own("one-raises")) == {
        "failed": 1,
        "pending": 1,
    }
    assert Counter(r["status"] for r in traced.records()["one-raises"]) == {"failed": 1, "dropped": 2}


def test_its_ids_repeat_between_engines(traced: Run) -> None:
    """Two engines of a process number their tasks alike, so two rollouts stand under one id."""
    assert len(traced.areals_own("train")) == 2
    assert traced.record("train")["trace_id"] != traced.record("eval")["trace_id"]

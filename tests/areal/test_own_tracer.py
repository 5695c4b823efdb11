"""What AReaL's own session tracer says of the same rollouts, in the same run: docs/areal.md has a line for each."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from click.testing import CliRunner

from rollspan.cli.main import main
from tests.areal.conftest import Run, environment
from tests.faults.jobs import in_file
from tests.perf import reading


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


class Killed(NamedTuple):
    """What was left of a program that told AReaL's tracer of scopes and parallel phases, and was killed."""

    session: dict[str, Any]
    scopes: list[dict[str, Any]]
    folder: Path
    at: float


@pytest.fixture(scope="module")
def killed(installed: None, tmp_path_factory: pytest.TempPathFactory) -> Killed:
    """Both tracers on, of the same calls; ours recovered."""
    folder = tmp_path_factory.mktemp("killed")
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("tracer_program.py")), str(folder / "areal")],
        env=environment(ROLLSPAN_ENABLED="1", ROLLSPAN_DIR=str(folder / "data")),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == -9, done.stderr
    assert CliRunner().invoke(main, ["recover", str(folder / "data")]).exit_code == 0
    (sessions,), (traces,) = (
        list((folder / "areal").rglob(f"{kind}-r0.jsonl")) for kind in ("sessions", "traces")
    )
    (session,) = map(json.loads, sessions.read_text().splitlines())
    scopes = [event for event in map(json.loads, traces.read_text().splitlines()) if event["ph"] == "X"]
    return Killed(session, scopes, folder, float(done.stdout.splitlines()[-1]))


def test_its_parallel_phases_are_lost(killed: Killed) -> None:
    """Of three tool calls at once it keeps one open slot: five intervals, two without an end, a wrong sum."""
    theirs = killed.session
    assert len(theirs["phases"]["toolcall"]) == 5
    assert sum(span["end_ts"] is None for span in theirs["phases"]["toolcall"]) == 2
    assert theirs["toolcall_s"] < 0.2
    (ours,) = in_file(killed.folder / "data")
    assert len(ours["phases"]["toolcall"]) == 3
    assert ours["toolcall_s"] == pytest.approx(0.7, abs=0.15)
    assert ours["toolcall_wall_s"] == pytest.approx(0.3, abs=0.15)


def test_its_scopes_die_with_the_process(killed: Killed) -> None:
    """Those since the last `save`; ours are there."""
    assert [scope["args"]["global_step"] for scope in killed.scopes] == [0]
    found = [e for e in reading.events(killed.folder / "data/perf-r0.json") if e["name"] == "forward"]
    assert [event["args"]["global_step"] for event in found] == [0, 1]


def test_its_scopes_count_from_each_process_own_beginning(killed: Killed) -> None:
    """So those of two ranks cannot be put beside one another; ours are times of the epoch."""
    (scope,) = killed.scopes
    assert scope["ts"] < 60e6  # microseconds since the tracer was made
    ours = [e for e in reading.events(killed.folder / "data/perf-r0.json") if e["name"] == "forward"]
    assert ours[-1]["ts"] == pytest.approx(killed.at * 1e6, abs=0.5e6)

"""`rollspan demo` as a user runs it: a real run, its records, its ends."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import pytest
from click.testing import CliRunner

from rollspan import view
from rollspan.cli.main import main
from rollspan.record import Record

CLEAN = {
    k: v for k, v in os.environ.items() if not k.startswith(("ROLLSPAN_", "OTEL_", "RANK", "WORLD_SIZE"))
}
COMMAND = [sys.executable, "-m", "rollspan.cli.main", "demo"]
EVERY_ENDING = {
    ("accepted", None),
    ("rejected", "should_accept_false"),
    ("rejected", "workflow_returned_none"),
    ("failed", "workflow_exception"),
    ("dropped", "input_queue_full"),
    ("dropped", "timeout"),
    ("dropped", "cancelled"),
    ("dropped", "stale_weight"),
    ("dropped", "group_filtered"),
}


@dataclass(frozen=True)
class Run:
    """What one run of the command left."""

    out: Path
    shown: str
    records: list[Record]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One run with the default settings: the slow part of these tests."""
    out = tmp_path_factory.mktemp("demo") / "out"
    done = subprocess.run(
        [*COMMAND, "--out", str(out)], env=CLEAN, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return Run(out, done.stdout, view.load(out))


def test_every_status_and_every_reason_occurs(run: Run) -> None:
    """A default run ends rollouts in every way there is, short of a process that dies."""
    endings = {(record["status"], record.get("rejection_reason")) for record in run.records}
    assert endings == EVERY_ENDING


def test_some_accepted_rollouts_are_left_over(run: Run) -> None:
    """Most accepted rollouts are consumed; those ready when training ends are not."""
    accepted = [record for record in run.records if record["status"] == "accepted"]
    left = [record for record in accepted if "wait_return_ts" not in record]
    assert 0 < len(left) < len(accepted) / 2


def test_the_policy_learns(run: Run) -> None:
    """The reward of what the last steps consumed is far above that of the first."""
    by_step: dict[int, list[float]] = {}
    for record in run.records:
        if "consume_step" in record.get("links", {}):
            by_step.setdefault(record["links"]["consume_step"], []).append(record["reward"])
    assert sorted(by_step) == list(range(40))
    first = mean(reward for step in range(5) for reward in by_step[step])
    last = mean(reward for step in range(35, 40) for reward in by_step[step])
    assert last > 2 * first
    assert last > 0.35


def test_records_hold_what_happened(run: Run) -> None:
    """Waits, phases, tokens, weight versions and links stand in the record of a consumed rollout."""
    consumed = [record for record in run.records if "wait_return_ts" in record]
    for record in consumed:
        assert {"queue_wait_s", "runner_wait_s", "execution_s", "post_wait_s", "generate_s"} <= record.keys()
        assert record["phases"].keys() >= {"execution", "generate", "reward"}
        assert record["output_tokens"] > 0
        assert 0 <= record["reward"] <= 1
        assert record["links"]["consume_step"] - record["weight_version_min"] <= 2
        assert record["links"]["consume_step"] >= record["links"]["dispatch_step"]
    assert any(record["weight_version_max"] > record["weight_version_min"] for record in consumed)
    assert any("toolcall" in record["phases"] for record in consumed)
    failed = [record for record in run.records if record["status"] == "failed"]
    assert {record["error_type"] for record in failed} == {"ValueError"}
    groups = Counter(record["group_id"] for record in run.records)
    assert {record["links"]["dispatch_step"] for record in run.records} <= set(range(40))
    assert set(groups.values()) == {1, 8}  # evaluation, and training


def test_generations_cut_off_by_an_update_are_no_new_turns(run: Run) -> None:
    """A rollout has at most two turns (before and after the tool), however often its generation was resumed."""
    assert max(record["turns"] for record in run.records if "turns" in record) == 2
    paused = [record for record in run.records if "generate_paused_s" in record]
    assert paused
    assert all(0 <= record["generate_paused_s"] <= record["generate_s"] for record in paused)


def test_each_rollout_has_one_record(run: Run) -> None:
    """No rollout is missing and none is there twice."""
    numbers = sorted(record["request_id"] for record in run.records)
    assert numbers == list(range(len(numbers)))
    finished = re.findall(r"(\d+) finished", run.shown)
    assert len({record["group_id"] for record in run.records}) >= int(finished[-1])


def test_the_end_shows_table_waterfall_curve_and_what_to_do_next(run: Run) -> None:
    """The last page has the figures, the slowest rollout, the reward curve, the files and the way to Jaeger."""
    (slowest,) = view.slowest(run.records, 1)
    for part in (
        "step 40/40",
        f"{len(run.records):,} rollouts",
        "queue_wait",
        f"rollout {slowest['session_id']}",
        "reward of each step",
        str(run.out / "sessions-r0.jsonl"),
        f"http://localhost:16686/trace/{slowest['trace_id']}",
    ):
        assert part in run.shown.replace("\n", " ") or part in run.shown
    assert "replay" in run.shown


def test_the_timeline_shows_rollouts_beside_the_training(run: Run, tmp_path: Path) -> None:
    """While the policy learns in one thread, rollouts of later steps are being generated; each step has its scopes."""
    out = tmp_path / "timeline.json"
    made = CliRunner().invoke(main, ["timeline", str(run.out), "-o", str(out)])
    assert made.exit_code == 0, made.output
    events = json.loads(out.read_text())["traceEvents"]
    slices = [event for event in events if event["ph"] == "X"]
    learning = [(event["ts"], event["ts"] + event["dur"]) for event in slices if event["name"] == "learn"]
    begun: dict[tuple[str, str], float] = {}
    beside = 0
    for event in events:
        key = str(event.get("id2")), event["name"]
        if event["ph"] == "b" and event["name"] == "generate":
            begun[key] = event["ts"]
        elif event["ph"] == "e" and event["name"] == "generate":
            start = begun.pop(key)
            beside += any(start < end and event["ts"] > at for at, end in learning)
    assert len(learning) > 20
    assert beside > len(learning)
    names = {event["name"] for event in slices}
    assert {"step 0", "collect", "learn", "forward", "backward", "optimizer", "update_weights"} <= names


def test_turned_off_the_same_program_leaves_nothing(tmp_path: Path) -> None:
    """Without rollspan turned on the trainer trains all the same, and writes no file."""
    program = tmp_path / "program.py"
    program.write_text(
        "import sys\n"
        "from rollspan.demo.config import DemoConfig\n"
        "from rollspan.demo.run import run\n"
        "if __name__ == '__main__':\n"
        "    done = run(DemoConfig(steps=2), lambda report: print(report.step, report.reward))\n"
        "    print(done, any(name.startswith('opentelemetry') for name in sys.modules))\n"
    )
    empty = tmp_path / "empty"
    empty.mkdir()
    done = subprocess.run(
        [sys.executable, str(program)], cwd=empty, env=CLEAN, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    *steps, last = done.stdout.splitlines()
    assert [line.split()[0] for line in steps] == ["0", "1"]
    assert last == "True False"
    assert list(empty.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_shows_what_was_recorded(tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C ends every process and every rollout, and what was recorded is shown."""
    marked = {**CLEAN, "DEMO_TEST_MARK": f"{tmp_path}"}
    out = tmp_path / "out"
    process = subprocess.Popen(
        [*COMMAND, "--steps", "1000", "--out", str(out)],
        env={**marked, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("step 1/1000"):
            break
    os.killpg(process.pid, number)  # as a terminal does: the whole foreground group
    shown, complaints = process.communicate(timeout=60)
    assert (process.returncode, complaints) == (130, "")
    assert "Interrupted" in shown
    assert "reward of each step" in shown
    records = view.load(out)
    assert records
    assert {record["status"] for record in records} <= {"accepted", "rejected", "failed", "dropped"}
    assert not processes_with(f"DEMO_TEST_MARK={tmp_path}")


def processes_with(variable: str) -> list[str]:
    """Processes that still run with this in their environment (none known where there is no /proc)."""
    found = []
    for environment in Path("/proc").glob("[0-9]*/environ"):
        try:
            if variable.encode() in environment.read_bytes():
                found.append(environment.parent.name)
        except OSError:
            continue
    return found


@pytest.mark.parametrize("name", ["torch", "httpx"])
def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    """Without torch or httpx the command says what to install, and writes nothing."""
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, ["demo"])
    assert done.exit_code == 2
    assert name in done.output
    assert "pip install '/path/to/rollspan[demo]'" in done.output
    assert list(tmp_path.iterdir()) == []

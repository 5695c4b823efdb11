"""`rollspan replay`: which runs it sends, and what it says of them."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from rollspan.cli.main import main
from rollspan.testing import OtlpReceiver

Run = Callable[..., "subprocess.CompletedProcess[str]"]
KEPT = {"ROLLSPAN_JOURNAL_KEEP": "1"}


@pytest.fixture
def two_runs(run_program: Run, tmp_path: Path) -> Path:
    """A data directory with the kept journals of the runs `first` and `second`, of one rollout each."""
    for run in ("first", "second"):
        source = f"import rollspan\nwith rollspan.session(task_id={run!r}): pass\n"
        run_program(source, env={**KEPT, "ROLLSPAN_RUN_ID": run})
    return tmp_path / "data"


def replay(directory: Path, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["replay", str(directory), *arguments])


def sent(receiver: OtlpReceiver) -> list[str]:
    return sorted(str(record["task_id"]) for record in receiver.records())


def test_all_kept_runs_are_sent_and_named(two_runs: Path, receiver: OtlpReceiver) -> None:
    """Without a choice every run that is kept goes out, and their ids are told."""
    result = replay(two_runs, "--endpoint", receiver.endpoint)
    assert result.exit_code == 0
    assert "first, second\n" in result.stdout
    assert sent(receiver) == ["first", "second"]


def test_one_run_is_chosen_by_how_its_id_begins(two_runs: Path, receiver: OtlpReceiver) -> None:
    """`--run` sends that run alone."""
    result = replay(two_runs, "--endpoint", receiver.endpoint, "--run", "sec")
    assert result.exit_code == 0
    assert "first" not in result.stdout
    assert sent(receiver) == ["second"]


def test_a_run_that_is_not_there_is_told_with_those_that_are(two_runs: Path, receiver: OtlpReceiver) -> None:
    """An id that fits none sends nothing, exits 1 and lists what there is."""
    result = replay(two_runs, "--endpoint", receiver.endpoint, "--run", "third")
    assert result.exit_code == 1
    assert "'third'; there are: first, second" in result.stderr
    assert sent(receiver) == []


def test_what_is_running_is_not_sent(run_program: Run, receiver: OtlpReceiver) -> None:
    """A live process's rollouts are not sent as if it had died with them."""
    source = f"""
import subprocess, sys, rollspan
session = rollspan.start_session(task_id="mine")
rollspan.flush()
command = [sys.executable, "-m", "rollspan", "replay", "--endpoint", {receiver.endpoint!r}]
done = subprocess.run(command, capture_output=True, text=True)
print(done.returncode, done.stderr)
session.mark_accepted()
"""
    assert run_program(source, env=KEPT).stdout.startswith("1 No journal")
    assert sent(receiver) == []


@pytest.mark.parametrize("name", ["replay", "recover"])
def test_a_wrong_endpoint_is_wrong_use(tmp_path: Path, name: str) -> None:
    """An address that is none is answered, and not passed over for another one."""
    result = CliRunner().invoke(main, [name, str(tmp_path), "--endpoint", "nonsense"])
    assert result.exit_code == 2
    assert "'nonsense': expected an address such as http://localhost:4318" in result.stderr


def test_help_says_what_repeats() -> None:
    """That records, unlike spans, arrive again is said where one decides to send them again."""
    text = " ".join(CliRunner().invoke(main, ["replay", "--help"]).stdout.split())
    assert "spans" in text
    assert "has them twice" in text

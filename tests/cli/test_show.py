"""`rollspan show`: what it prints, where, and how it exits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from rollspan.cli.main import main
from rollspan.cli.show import command

BEGIN = 1_760_000_000.0


def a_record(number: int, total_s: float, **changes: Any) -> dict[str, Any]:
    return {
        "request_id": number,
        "rank": 0,
        "status": "accepted",
        "submit_ts": BEGIN,
        "wait_return_ts": BEGIN + total_s,
        "total_s": total_s,
        "generate_s": total_s,
        "phases": {"generate": [{"start_ts": BEGIN, "end_ts": BEGIN + total_s}]},
        "session_id": f"{number:x}" * 32,
        "trace_id": f"{number:x}" * 32,
        **changes,
    }


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A directory with three rollouts of 1, 3 and 2 s."""
    records = [a_record(10, 1.0), a_record(11, 3.0), a_record(12, 2.0, status="failed", wait_return_ts=None)]
    (tmp_path / "sessions-r0.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return tmp_path


def show(*arguments: str | Path, **options: Any) -> Result:
    return CliRunner().invoke(command, list(map(str, arguments)), **options)


def test_the_table_and_the_slowest_come_first(run_dir: Path) -> None:
    """Without options: the figures of all, and the waterfall of the slowest one."""
    result = show(run_dir)
    assert result.exit_code == 0
    assert result.stdout.startswith("3 rollouts")
    assert [line for line in result.stdout.splitlines() if line.startswith("rollout ")] == [
        f"rollout {'b' * 32}"
    ]
    assert result.stderr == ""


def test_slowest_chooses_how_many(run_dir: Path) -> None:
    """`--slowest 2` gives two waterfalls in order, `--slowest 0` the table alone."""
    heads = [
        line[8] for line in show(run_dir, "--slowest", "2").stdout.splitlines() if line.startswith("rollout ")
    ]
    assert heads == ["b", "c"]
    assert "rollout " not in show(run_dir, "--slowest", "0").stdout.replace("rollouts ", "")


def test_session_shows_one(run_dir: Path) -> None:
    """`--session` with the beginning of an id gives that waterfall and no table."""
    result = show(run_dir, "--session", "cc")
    assert result.exit_code == 0
    assert result.stdout.startswith(f"rollout {'c' * 32}\nfailed")
    assert "rollouts" not in result.stdout


def test_an_unknown_session_is_not_found(run_dir: Path) -> None:
    """An id that fits nothing exits 1 and says what was looked for and where."""
    result = show(run_dir, "--session", "zz")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "'zz'" in result.stderr
    assert str(run_dir) in result.stderr


def test_an_ambiguous_session_lists_what_fits(tmp_path: Path) -> None:
    """A beginning that several ids share exits 1 and names them."""
    records = [a_record(1, 1.0, session_id=f"run-{n}") for n in range(12)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    result = show(tmp_path / "a.jsonl", "--session", "run")
    assert result.exit_code == 1
    assert "12 rollouts fit 'run'" in result.stderr
    assert "run-9\n  and 2 more" in result.stderr


def test_json_is_for_programs(run_dir: Path) -> None:
    """`--json` prints the figures; with a choice of rollouts, their records, one a line."""
    assert json.loads(show(run_dir, "--json").stdout)["sessions"] == 3
    lines = show(run_dir, "--json", "--slowest", "2").stdout.splitlines()
    assert [json.loads(line)["request_id"] for line in lines] == [11, 12]
    assert json.loads(show(run_dir, "--json", "--session", "aa").stdout) == a_record(10, 1.0)


def test_damage_is_told_apart_from_the_output(run_dir: Path) -> None:
    """Damaged lines go to stderr and make it exit 1; what is whole is shown."""
    with (run_dir / "sessions-r0.jsonl").open("a") as file:
        file.write('{"status": "acc')
    result = show(run_dir, "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["sessions"] == 3
    assert "sessions-r0.jsonl:4: left out" in result.stderr


def test_an_empty_directory_says_what_to_do(tmp_path: Path) -> None:
    """Nothing found exits 1, and tells what was looked for and how records come to be."""
    result = show(tmp_path)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "sessions-r*.jsonl" in result.stderr
    assert "ROLLSPAN_ENABLED=1" in result.stderr


def test_the_directory_comes_from_the_environment(run_dir: Path) -> None:
    """Without an argument, it is the directory that runs write to."""
    assert show(env={"ROLLSPAN_DIR": str(run_dir)}).exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["no-such-place"], "No such file or directory: no-such-place"),
        (["no-such-place"], "ROLLSPAN_ENABLED=1"),
        ([".", "--open", "--session", "a"], "--session and --open exclude each other"),
        ([".", "--slowest", "-1"], "--slowest"),
        (["-", "--open"], "--open looks at a running job's directory"),
    ],
)
def test_wrong_use_exits_2(arguments: list[str], says: str) -> None:
    """A wrong call is answered with what is wrong in it."""
    result = show(*arguments)
    assert result.exit_code == 2
    assert says in result.stderr


def test_many_damaged_lines_are_counted(run_dir: Path) -> None:
    """The first few are named, and the number of the others is right."""
    with (run_dir / "sessions-r0.jsonl").open("a") as file:
        file.write("damaged\n" * 500)
    result = show(run_dir)
    assert result.exit_code == 1
    assert result.stderr.count("left out") == 10
    assert "and 490 more like these" in result.stderr


def test_standard_input_is_read_and_left_open(run_dir: Path) -> None:
    """`-` reads records from a pipe."""
    data = (run_dir / "sessions-r0.jsonl").read_bytes()
    result = show("-", "--json", input=data)
    assert result.exit_code == 0
    assert json.loads(result.stdout)["sessions"] == 3


JOB = """
import sys, rollspan
session = rollspan.start_session(task_id="slow one")
session.mark_enqueued()
with session.execution():
    print("running", flush=True)
    sys.stdin.read()
session.mark_accepted()
session.mark_consumed()
"""


def test_open_shows_what_runs_in_another_process(tmp_path: Path) -> None:
    """`--open` finds a rollout that a live process has begun, and nothing once it has ended."""
    pytest.importorskip("rollspan.recovery")
    settings = {"ROLLSPAN_ENABLED": "1", "ROLLSPAN_DIR": str(tmp_path), "ROLLSPAN_CHECKPOINT_INTERVAL": "0.1"}
    with subprocess.Popen(
        [sys.executable, "-c", JOB], env=os.environ | settings, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as job:
        assert job.stdout is not None
        assert job.stdout.readline() == b"running\n"
        result = show(tmp_path, "--open", "--json")
        for _ in range(100):
            if result.exit_code == 0:
                break
            time.sleep(0.1)
            result = show(tmp_path, "--open", "--json")
        found = [json.loads(line) for line in result.stdout.splitlines()]
        text = show(tmp_path, "--open").stdout
        job.communicate()
    assert [(one["task_id"], one["status"], one["pid"]) for one in found] == [
        ("slow one", "pending", job.pid)
    ]
    assert text.startswith("1 open rollout\n")
    assert "slow one" in text
    result = show(tmp_path, "--open")
    assert result.exit_code == 1
    assert "no rollout is open" in result.stderr


LEFT_OPEN = "import os, rollspan; rollspan.start_session(task_id='lost'); os._exit(1)"


def run(source: str, data: Path) -> None:
    settings = {"ROLLSPAN_ENABLED": "1", "ROLLSPAN_DIR": str(data), "ROLLSPAN_EXIT_TIMEOUT": "0.1"}
    subprocess.run([sys.executable, "-c", source], env=os.environ | settings, check=False)


def test_open_tells_what_a_dead_process_left(tmp_path: Path) -> None:
    """What was open when its process was killed is not shown as running; the exit code is as ever."""
    run(LEFT_OPEN, tmp_path)
    result = show(tmp_path, "--open")
    assert result.exit_code == 0
    assert result.stdout.startswith("1 rollout left open by processes that died\n")
    assert "lost" in result.stdout
    assert f"rollspan recover {tmp_path}" in result.stdout.replace("\n", "")
    assert CliRunner().invoke(main, ["recover", str(tmp_path)]).exit_code == 0
    assert show(tmp_path, "--open").exit_code == 1


@pytest.mark.parametrize("above", [False, True])
def test_what_is_to_be_recovered_is_hinted_at(tmp_path: Path, above: bool) -> None:
    """After a kill the rollouts that are there are shown, and one line says how to get the others."""
    data = tmp_path / "data"
    run("import rollspan\nwith rollspan.session(): pass", data)
    assert show(data).stderr == ""
    run(LEFT_OPEN, data)
    result = show(tmp_path if above else data)
    assert result.exit_code == 0
    assert result.stdout.startswith("1 rollout")
    (said,) = result.stderr.splitlines()
    assert f"`rollspan recover {data}`" in said
    assert CliRunner().invoke(main, ["recover", str(data)]).exit_code == 0
    assert show(data, "--all-runs").stderr == ""


@pytest.mark.parametrize("above", [1, 2, 5])
def test_the_runs_below_are_named(tmp_path: Path, above: int) -> None:
    """Somebody who is some folders too high is not told that nothing is open, or that there is nothing to recover."""
    data = tmp_path.joinpath(*"abcde"[:above])
    run(LEFT_OPEN, data)
    (tmp_path / "session_tracer").mkdir()
    (tmp_path / "session_tracer/sessions-r0.jsonl").touch()  # not ours
    opened = show(tmp_path, "--open")
    recovered = CliRunner().invoke(main, ["recover", str(tmp_path)])
    assert (opened.exit_code, recovered.exit_code) == (1, 2)
    for result in (opened, recovered):
        assert f"{tmp_path} is no run's folder. Below it are: {data}\n" in result.stderr
        assert "Nothing to recover" not in result.output
        assert "no rollout is open" not in result.output

"""Records as people see them: loading, figures, the tables."""

from __future__ import annotations

import gzip
import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from rollspan import view
from rollspan.view.figures import quantile

from .view_records import BEGIN, a_record, rendered


def write_lines(path: Path, records: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


# Loading


def test_a_directory_gives_all_files_of_records_below_it(tmp_path: Path) -> None:
    """Files of all ranks, in folders below, rotated and packed ones count; other files do not."""
    write_lines(tmp_path / "sessions-r0.jsonl", [a_record(session_id="a")])
    write_lines(tmp_path / "deep" / "sessions-r1.host.42.jsonl", [a_record(session_id="b")])
    write_lines(tmp_path / "sessions-r0.jsonl.1", [a_record(session_id="c")])
    (tmp_path / "sessions-r2.jsonl.gz").write_bytes(
        gzip.compress(json.dumps(a_record(session_id="d")).encode())
    )
    write_lines(tmp_path / "other.jsonl", [a_record(session_id="e")])
    problems: list[str] = []
    assert {record["session_id"] for record in view.load(tmp_path, problems)} == {"a", "b", "c", "d"}
    assert problems == []


def test_a_session_counts_once(tmp_path: Path) -> None:
    """Of records with the same session id, also across files, the first is kept."""
    write_lines(tmp_path / "sessions-r0.jsonl", [a_record(request_id=1), a_record(request_id=2)])
    write_lines(tmp_path / "sessions-r0.h.1.jsonl", [a_record(request_id=3)])
    assert len(view.load(tmp_path)) == 1


def test_records_of_others_without_session_ids_are_all_kept(tmp_path: Path) -> None:
    """Where no id tells records apart, none is taken for a repetition."""
    path = write_lines(tmp_path / "old.jsonl", [a_record(session_id=None), a_record(session_id=None)])
    assert len(view.load(path)) == 2


def test_damaged_lines_are_left_out_and_named(tmp_path: Path) -> None:
    """What is no JSON, no record, or torn is reported with file and line, the rest is loaded."""
    path = tmp_path / "sessions-r0.jsonl"
    path.write_text(json.dumps(a_record()) + '\nnonsense\n\n[1]\n{"a": 1}\n{"status": "acc')
    problems: list[str] = []
    assert len(view.load(path, problems)) == 1
    assert [problem.removeprefix(str(path)).split(":")[1] for problem in problems] == ["2", "4", "5", "6"]
    assert "torn" in problems[-1]


def test_endless_problems_are_shortened(tmp_path: Path) -> None:
    """A file that is something else altogether does not fill the screen."""
    path = tmp_path / "log.txt"
    path.write_text("no record\n" * 500)
    problems: list[str] = []
    assert view.load(path, problems) == []
    assert len(problems) == 11
    assert "490 more" in problems[-1]


def test_a_missing_path_is_an_error(tmp_path: Path) -> None:
    """Loading what is not there raises, and names it."""
    with pytest.raises(FileNotFoundError, match="nothing-here"):
        view.load(tmp_path / "nothing-here")


def test_a_truncated_gzip_file_gives_what_it_has(tmp_path: Path) -> None:
    """A packed file that ends early is a problem, not a crash."""
    path = tmp_path / "sessions-r0.jsonl.gz"
    lines = "".join(json.dumps(a_record(session_id=f"{n:032x}")) + "\n" for n in range(3000))
    path.write_bytes(gzip.compress(lines.encode())[:-5000])
    problems: list[str] = []
    assert 0 < len(view.load(path, problems)) < 3000
    assert "cannot be read to its end" in problems[-1]


# Finding


def test_find_prefers_the_exact_id() -> None:
    """An id that is the beginning of others is found alone; a mere beginning finds all that begin so."""
    short, long = (
        a_record(session_id="run", trace_id="1" * 32),
        a_record(session_id="run2", trace_id="2" * 32),
    )
    assert view.find([long, short], "run") == [short]
    assert view.find([long, short], "ru") == [long, short]
    assert view.find([long, short], "22") == [long]
    assert view.find([long, short], "3") == [long, short]  # request_id
    assert view.find([long, short], "") == []


def test_slowest_comes_first() -> None:
    """The slowest are sorted by total time, which is derived where the field is absent."""
    fast, slow = a_record(total_s=0.5), a_record(total_s=None, wait_return_ts=BEGIN + 9)
    assert view.slowest([fast, slow, fast], 2) == [slow, fast]
    assert view.slowest([fast], 0) == []


# Text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (2.5e-8, "25.0 ns"),
        (1.234e-5, "12.3 µs"),
        (0.0009996, "1.00 ms"),
        (0.431, "431 ms"),
        (0.9996, "1.00 s"),
        (9.996, "10.0 s"),
        (59.96, "1 min 00 s"),
        (125, "2 min 05 s"),
        (3599.7, "1 h 00 min"),
        (5400, "1 h 30 min"),
        (90000, "1 d 01 h"),
        (-0.5, "-500 ms"),
    ],
)
def test_durations_read_well_and_round_into_the_next_unit(seconds: float, text: str) -> None:
    """Three digits, the unit that fits, and no `1000 ms` or `60.0 s`."""
    assert view.duration(seconds) == text


@given(st.text(), st.integers(1, 50))
def test_safe_text_fits_and_steers_nothing(text: str, width: int) -> None:
    """Whatever the name, no control or direction character is left and the width is kept."""
    result = view.safe(text, width)
    assert cell_len(result) <= width
    assert not {unicodedata.category(character) for character in result} & {"Cc", "Cf", "Cs", "Zl", "Zp"}


# Figures and table


def test_quantiles_are_linear_between_neighbours() -> None:
    """The median of two lies between them; the quantiles of one are that one."""
    assert quantile([1.0, 3.0], 0.5) == 2.0
    assert quantile([5.0], 0.95) == 5.0
    assert quantile([float(n) for n in range(101)], 0.95) == 95.0


def test_the_summary_counts_endings_and_times() -> None:
    """Sessions by status and reason, and each wait and phase under the name of the phase."""
    records = [
        a_record(),
        a_record(queue_wait_s=0.3, total_s=1.2),
        a_record(status="accepted", wait_return_ts=None, post_wait_s=None, total_s=0.7),
        a_record(status="failed", rejection_reason="workflow_exception", wait_return_ts=None),
    ]
    figures = view.summary(records)
    assert [(row["status"], row["reason"], row["count"], row["consumed"]) for row in figures["statuses"]] == [
        ("accepted", None, 3, 2),
        ("failed", "workflow_exception", 1, 0),
    ]
    times = figures["durations"]
    assert list(times) == [
        "queue_wait", "runner_wait", "post_wait", "execution", "generate", "reward", "total", "unattributed",
    ]  # fmt: skip
    assert times["queue_wait"]["max_s"] == 0.3
    assert times["queue_wait"]["p50_s"] == pytest.approx(0.1)
    assert times["post_wait"]["count"] == 3
    assert times["reward"]["p50_s"] == pytest.approx(0.05, abs=1e-6)
    assert json.loads(json.dumps(figures)) == figures


def test_the_summary_has_what_the_records_have() -> None:
    """Tokens, rewards, weight versions, steps and counters show up where there are any, else not at all."""
    assert not {"reward", "weight_versions", "steps", "input_tokens", "counters"} & set(
        view.summary([a_record()])
    )
    figures = view.summary(
        [
            a_record(reward=1.0, input_tokens=5, output_tokens=7, weight_version_min=3, weight_version_max=5),
            a_record(reward="NaN", links={"dispatch_step": 2, "consume_step": 4}, counters={"retries": 2}),
        ]
    )
    assert figures["reward"]["count"] == 1
    assert figures["weight_versions"] == {"count": 1, "min": 3, "max": 5, "mixed": 1, "widest": 2}
    assert figures["steps"] == {"count": 1, "first": 2, "last": 4, "mean_lag": 2.0, "max_lag": 2}
    assert figures["counters"] == {"retries": 2}


def test_rewards_that_are_no_numbers_are_counted() -> None:
    """NaN and infinities are in no average, and stand beside it, or alone where there is no other reward."""
    bad = [a_record(reward=reward) for reward in ("NaN", "NaN", "-Infinity", ["NaN"])]
    assert view.summary(bad)["rewards_not_finite"] == {"NaN": 2, "-Infinity": 1}
    text = rendered(view.summary_table([a_record(reward=1.0), *bad]), 120)
    assert "reward  1 on average, from 1 to 1, 1 scored, 2 not a number, 1 -Infinity\n" in text
    assert "reward  2 not a number, 1 -Infinity\n" in rendered(view.summary_table(bad), 120)


def test_phases_with_taken_names_stay_apart() -> None:
    """A phase called total or queue_wait counts beside the session's own, not in its place."""
    phase = [{"start_ts": BEGIN, "end_ts": BEGIN + 0.25}]
    times = view.summary([a_record(phases={"total": phase, "queue_wait": phase}, total__s=0.25)])["durations"]
    assert times["queue_wait"]["sum_s"] == 0.1
    assert times["queue_wait_"]["sum_s"] == 0.25
    assert times["total"] | {"kind": "phase", "sum_s": 0.25} == times["total"]
    assert times["total of the session"]["sum_s"] == 1.0


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_table_fits_and_lines_up(width: int) -> None:
    """No line is wider than the console, and each column of numbers ends in one place."""
    text = rendered(
        view.summary_table([a_record(), a_record(status="dropped", rejection_reason="timeout")]), width
    )
    lines = [line.rstrip() for line in text.splitlines()]
    assert all(len(line) <= width for line in lines)
    times = [line for line in lines if line.startswith(("queue_wait", "generate", "total", "unattributed"))]
    assert len({len(line) for line in times}) == 1
    assert any(line.split() == ["dropped", "timeout", "1", "50.0", "%", "1"] for line in lines)


def test_an_empty_table_says_so() -> None:
    """No records give a word, not a crash."""
    assert rendered(view.summary_table([])) == "no rollouts\n"


def test_many_phases_do_not_flood_the_table() -> None:
    """Beyond thirty phases the rest is counted in one line."""
    phases = {f"phase{n}": [{"start_ts": BEGIN, "end_ts": BEGIN + 0.1}] for n in range(100)}
    record = a_record(phases=phases, execution_s=None, generate_s=None, reward_calc_s=None)
    assert "and 70 more phases" in rendered(view.summary_table([record]))


# What is open


def test_open_rollouts_are_listed_by_age() -> None:
    """The oldest comes first, with its innermost phase, how old that knowledge is, task, rank and process."""
    young = {"status": "pending", "age_s": 2.0, "rank": 1, "host": "b", "pid": 5, "session_id": "s2"}
    old = a_record(status="pending", age_s=75.0, host="a", pid=9, open_phases=["execution", "generate"])
    old["as_of_s"] = 0.5
    lines = [line.split() for line in rendered(view.open_table([young, old]), 120).splitlines()]
    assert lines[0] == ["2", "open", "rollouts"]
    assert lines[-2][:13] == [
        "1", "min", "15", "s", "pending", "generate", "500", "ms", "ago", "7", "-", "0", "a:9",
    ]  # fmt: skip
    assert lines[-1] == ["2.00", "s", "pending", "-", "-", "-", "-", "1", "b:5", "s2"]


@pytest.mark.parametrize(("as_of_s", "told"), [(0.5, False), (1.5, True)])
def test_knowledge_that_is_old_is_explained(as_of_s: float, told: bool) -> None:
    """Below a table with a phase known as of more than a second ago stands how often a job says more."""
    text = rendered(view.open_table([a_record(status="pending", age_s=75.0, as_of_s=as_of_s)]), 120)
    assert ("ROLLSPAN_CHECKPOINT_INTERVAL" in text) is told


def test_what_dead_processes_left_open_stands_apart() -> None:
    """Rollouts whose process died are counted and listed by themselves, with the command that delivers them."""
    live = a_record(status="pending", age_s=5.0, pid=1, alive=True)
    dead = [a_record(status="pending", age_s=99.0, as_of_s=90.0, pid=pid, alive=False) for pid in (2, 3)]
    lines = rendered(view.open_table([*dead, live], "runs/a"), 120).splitlines()
    apart = lines.index("2 rollouts left open by processes that died")
    assert lines[0] == "1 open rollout"
    assert [":1 " in line for line in lines[:apart]].count(True) == 1
    assert [":2 " in line or ":3 " in line for line in lines[apart:]].count(True) == 2
    assert "rollspan recover runs/a" in lines[-1]
    assert "CHECKPOINT" not in "".join(lines)  # a dead process says no more
    assert rendered(view.open_table(dead), 120).startswith("2 rollouts left open by processes that died\n")


def test_a_narrow_console_keeps_what_identifies_the_work() -> None:
    """At 80 columns age, status, phase, task, rank and process are whole; group and session id are left out."""
    session = a_record(status="accepted", age_s=9493.0, host="node-17", pid=4007, open_phases=["execution"])
    text = rendered(view.open_table([session | {"group_id": "g", "as_of_s": 8.0}]), 80)
    assert [line.split() for line in text.splitlines() if "4007" in line] == [[
        "2", "h", "38", "min", "accepted", "execution", "8.00", "s", "ago", "7", "0", "node-17:4007",
    ]]  # fmt: skip
    assert "abab" not in text

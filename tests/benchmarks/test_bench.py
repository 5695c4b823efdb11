"""The benchmark measures what it says it measures. How long anything takes is nowhere asserted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from rollspan.testing import OtlpReceiver

ROOT = Path(__file__).resolve().parents[2]
ROUNDS, SESSIONS = 2, 20
WITHOUT_AREAL = ("rollspan-file", "rollspan-otlp", "rollspan-python", "sdk-otlp")
PARENTS = {"rollout": None, "execution": "rollout", "generate": "execution", "reward": "execution"}


def bench(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run the program in small."""
    return subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks"),
            *("--rounds", str(ROUNDS), "--sessions", str(SESSIONS), *arguments),
        ],
        cwd=ROOT,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def one_round(name: str, folder: Path, endpoint: str, python: str = sys.executable) -> dict[str, Any]:
    """The answer of one contender's process to one round, by its line protocol."""
    done = subprocess.run(
        [python, "-m", "benchmarks.child", name, str(folder), endpoint],
        cwd=ROOT,
        input=f"round 0 {SESSIONS}\n",
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    ready, answer = map(json.loads, done.stdout.splitlines())
    assert ready["versions"]
    return answer


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    """One small run of all but AReaL: what it printed, and its JSON."""
    path = tmp_path_factory.mktemp("bench") / "bench.json"
    done = bench("--skip", "areal", "--json", str(path))
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(path.read_text())


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The module, which is imported from the checkout and not from an installation."""
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks import report

    yield report


def test_the_table_has_a_ratio_for_each_contender(small: tuple[str, dict[str, Any]]) -> None:
    """Without AReaL everybody is compared with the SDK."""
    printed, measured = small
    assert measured["reference"] == "sdk-otlp"
    assert set(measured["ratios"]) == set(WITHOUT_AREAL)
    for name, by in measured["ratios"].items():
        (row,) = (line for line in printed.splitlines() if line.split()[:1] == [name])
        for measure in ("hot", "total"):
            assert f"{by[measure]['median']:.2f}" in row


def test_every_round_is_in_the_json(small: tuple[str, dict[str, Any]]) -> None:
    """Each round has each contender once, with its two costs."""
    _, measured = small
    assert measured["sessions"] == SESSIONS
    assert len(measured["rounds"]) == ROUNDS
    for each in measured["rounds"]:
        assert sorted(each["order"]) == sorted(each["results"]) == sorted(WITHOUT_AREAL)
        assert all(result["hot"] > 0 and result["total"] > 0 for result in each["results"].values())


def test_the_output_says_what_it_ran_on(small: tuple[str, dict[str, Any]]) -> None:
    """The machine and the versions stand below the table and in the JSON."""
    printed, measured = small
    assert {"cpu", "cpus", "python"} <= set(measured["machine"])
    said = " ".join(printed.split())
    for name, version in measured["versions"].items():
        assert f"{name} {version}" in said


@pytest.mark.parametrize(
    ("name", "lines", "spans", "records"),
    [("rollspan-file", 1, 0, 0), ("rollspan-otlp", 1, 4, 1), ("sdk-otlp", 0, 4, 0)],
)
def test_everything_arrives(
    small: tuple[str, dict[str, Any]], name: str, lines: int, spans: int, records: int
) -> None:
    """In every round every session has its line in the file and its spans and record at the endpoint."""
    for each in small[1]["rounds"]:
        result = each["results"][name]
        arrived = (result["lines"], result["spans"], result["records"])
        assert arrived == (lines * SESSIONS, spans * SESSIONS, records * SESSIONS)
        assert bool(result["requests"]) == bool(result["bytes"]) == bool(spans)


def expected(root: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The attributes of one rollout's spans by name, given those of its root: two of them are made up."""
    number = root["rollout.request_id"]
    return {
        "rollout": {
            "session.id": root["session.id"],
            "rl.run.id": root["rl.run.id"],
            "rollout.phase": "session",
            "rollout.request_id": number,
            "rollout.rank": 0,
            "rl.sample.task.id": number,
            "rollout.group.id": str(number // 8),
            "rollout.workflow": "math",
            "rollout.status": "accepted",
            "rollout.consumed": True,
        },
        "execution": {},
        "generate": {
            "gen_ai.operation.name": "text_completion",
            "gen_ai.request.model": "tiny",
            "gen_ai.provider.name": "sglang",
            "gen_ai.usage.input_tokens": 400 + number,
            "gen_ai.usage.output_tokens": 200 + number,
            "gen_ai.response.finish_reasons": ["stop"],
        },
        "reward": {"rl.reward.score": number % 11 / 7},
    }


@pytest.mark.parametrize("name", ["rollspan-otlp", "sdk-otlp"])
def test_the_workload_is_the_same(name: str, tmp_path: Path) -> None:
    """Root, execution, generate and reward with the same seventeen attributes; rollspan's worker adds its own."""
    with OtlpReceiver() as receiver:
        one_round(name, tmp_path, receiver.endpoint)
        spans = receiver.spans()
    roots = {span["trace_id"]: span for span in spans if span["name"] == "rollout"}
    names = {span["span_id"]: span["name"] for span in spans}
    assert len(roots) == SESSIONS
    assert len(names) == SESSIONS * len(PARENTS)
    for span in spans:
        wanted = expected(roots[span["trace_id"]]["attributes"])
        assert sum(map(len, wanted.values())) == 17
        attributes = span["attributes"]
        assert wanted[span["name"]].items() <= attributes.items()
        assert name == "rollspan-otlp" or attributes == wanted[span["name"]]
        assert names.get(span["parent_id"]) == PARENTS[span["name"]]


def test_areal_traces_each_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own tracer has both phases and the verdict of each session in its file."""
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks import areal_environment

    python = areal_environment.ready()
    if python is None:
        pytest.skip("AReaL's tracer has not been installed: the first run of the benchmark does that")
    one_round("areal", tmp_path, "", str(python))
    (path,) = tmp_path.rglob("sessions-r0.jsonl")
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert [record["session_id"] for record in records] == list(range(SESSIONS))
    for record in records:
        assert record["status"] == "accepted"
        assert record["task_id"] == record["session_id"]
        assert {name: len(each) for name, each in record["phases"].items()} == {"generate": 1, "reward": 1}


def test_areal_that_cannot_be_installed_is_explained(tmp_path: Path) -> None:
    """Without a network the program ends with a word on what to do, and does not trace back."""
    env = {"XDG_CACHE_HOME": str(tmp_path), "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path)}
    done = bench(env=env)
    assert done.returncode == 1
    assert "To be downloaded" in done.stderr
    assert "--skip areal" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_check_needs_both_sides() -> None:
    """Bounds that compare with AReaL cannot be checked without it."""
    done = bench("--check", "--skip", "areal")
    assert done.returncode == 2
    assert "--check" in done.stderr


def test_a_profile_shows_the_calls_of_a_contender() -> None:
    """Its own functions are listed, with how often they were called."""
    done = bench("--profile", "rollspan-file")
    assert done.returncode == 0, done.stderr
    assert any(line.split()[:1] == [str(SESSIONS)] and "finish" in line for line in done.stdout.splitlines())


def test_a_ratio_is_taken_within_a_round(report: ModuleType) -> None:
    """A round in which the machine was slow for everybody changes no ratio."""
    from benchmarks.driver import Round

    def both(ours: float, theirs: float) -> dict[str, dict[str, float]]:
        return {
            "rollspan-otlp": {"hot": ours, "total": 2 * ours},
            "areal": {"hot": theirs, "total": theirs},
        }

    order = ["rollspan-otlp", "areal"]
    rounds = [Round(order, both(*each)) for each in ((10, 20), (500, 1000), (30, 60))]
    found = report.ratios(rounds, "areal")
    assert found["rollspan-otlp"]["hot"] == (0.5, 0.5, 0.5)
    assert found["rollspan-otlp"]["total"] == (1.0, 1.0, 1.0)
    assert [holds for _, _, holds in report.verdicts(found)] == [True, True]
    slower = [*rounds, *[Round(order, both(40, 20))] * 5]
    assert [holds for _, _, holds in report.verdicts(report.ratios(slower, "areal"))] == [False, False]

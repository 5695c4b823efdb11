"""The examples as a user runs them: real programs with their presets, and the records that they leave."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from types import ModuleType
from typing import Any

import pytest

from rollspan import view
from rollspan.record import Record
from tests.demo.test_demo import CLEAN, processes_with
from tests.needs import need

for module in ("torch", "httpx", "yaml", "transformers", "PIL"):
    need(importlib.util.find_spec(module), f"{module} is not installed: pip install 'rollspan[examples]'")

EXAMPLES = Path(__file__).parents[2] / "examples"
TRAINING = ("grpo_tiny", "multi_turn_tools", "vision_rlvr")
PROGRAMS = (*TRAINING, "vllm_or_sglang")


@dataclass(frozen=True)
class Run:
    """What one run of an example left."""

    shown: str
    rewards: list[float]
    """Of each step."""
    records: list[Record]

    @property
    def consumed(self) -> list[Record]:
        """The records of the rollouts that were trained on."""
        return [record for record in self.records if "wait_return_ts" in record]


def command(name: str, *changes: str) -> list[str]:
    """How an example is started."""
    return [sys.executable, str(EXAMPLES / f"{name}.py"), *changes]


def run(
    name: str, folder: Path, *changes: str, code: int = 0, **environ: str
) -> subprocess.CompletedProcess[str]:
    """An example's run in `folder`, which has to end with this exit code."""
    done = subprocess.run(
        command(name, *changes),
        cwd=folder,
        env={**CLEAN, **environ},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


def traced(name: str, folder: Path, *changes: str) -> Run:
    """A run with rollspan turned on, that has nothing to complain about."""
    data = folder / "data"
    done = run(name, folder, *changes, ROLLSPAN_ENABLED="1", ROLLSPAN_DIR=str(data))
    assert done.stderr == ""
    rewards = [float(found) for found in re.findall(r"^step .* reward ([\d.]+)$", done.stdout, re.MULTILINE)]
    return Run(done.stdout, rewards, view.load(data))


@pytest.fixture(scope="module", params=TRAINING)
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Run]:
    """Each example that trains, with its preset."""
    return request.param, traced(request.param, tmp_path_factory.mktemp(request.param))


def test_an_example_trains_step_by_step_and_every_rollout_has_a_record(trained: tuple[str, Run]) -> None:
    """Each step of the preset tells its reward; statuses, phases, versions and links stand in the records."""
    name, run = trained
    settings = example_settings().load(module_of(name).Settings, EXAMPLES / f"{name}.yaml")
    steps = range(settings.steps)
    assert len(run.rewards) == settings.steps
    numbers = sorted(record["request_id"] for record in run.records)
    assert numbers == list(range(len(numbers)))
    assert {record["status"] for record in run.records} <= {"accepted", "rejected", "dropped"}
    by_step = Counter(record["links"]["consume_step"] for record in run.consumed)
    assert by_step == dict.fromkeys(steps, settings.batch_size * settings.group_size)
    for record in run.consumed:
        assert record["status"] == "accepted"
        assert {"queue_wait_s", "runner_wait_s", "execution_s", "post_wait_s", "generate_s"} <= record.keys()
        assert record["phases"].keys() >= {"execution", "generate", "reward"}
        assert (record["input_tokens"] > 0, record["output_tokens"] > 0) == (True, True)
        assert 0 <= record["reward"] <= 1
        links = record["links"]
        assert 0 <= links["dispatch_step"] <= links["consume_step"]
        assert 0 <= links["consume_step"] - record["weight_version_min"] <= settings.max_staleness
    assert len({record["weight_version_max"] for record in run.consumed}) > len(steps) / 2
    assert any(record["weight_version_max"] < record["links"]["consume_step"] for record in run.consumed)


def test_what_is_trained_on_are_whole_groups(trained: tuple[str, Run]) -> None:
    """All rollouts of a task together; where groups that teach nothing are rejected, rewards differ in the others."""
    name, run = trained
    settings = example_settings().load(module_of(name).Settings, EXAMPLES / f"{name}.yaml")
    groups: dict[str, list[Record]] = {}
    for record in run.consumed:
        groups.setdefault(record["group_id"], []).append(record)
    for group in groups.values():
        assert len(group) == settings.group_size
        assert len({record["task_id"] for record in group}) == 1
        assert name == "vision_rlvr" or len({record["reward"] for record in group}) > 1
    rejected = [record for record in run.records if record["status"] == "rejected"]
    assert {record["rejection_reason"] for record in rejected} <= {"should_accept_false"}
    assert name != "vision_rlvr" or not rejected


def test_the_reward_rises(trained: tuple[str, Run]) -> None:
    """What is sampled at the end of the preset's steps is better than at its beginning."""
    name, run = trained
    if name != "multi_turn_tools":  # which begins with what it was taught, and has few steps
        assert mean(run.rewards[-4:]) > 1.8 * mean(run.rewards[:4])


def test_tools_are_called_and_turns_counted(trained: tuple[str, Run]) -> None:
    """Chats of the tool's example call it, mostly once, and answer in another turn; the others have one turn."""
    name, run = trained
    calls = [len(record["phases"].get("toolcall", [])) for record in run.consumed]
    turns = [record["turns"] for record in run.consumed]
    if name != "multi_turn_tools":
        assert (set(calls), set(turns)) == ({0}, {1})
        return
    assert sum(count > 0 for count in calls) > 0.8 * len(calls)
    assert set(turns) <= {1, 2, 3}
    assert all(turn > count for turn, count in zip(turns, calls, strict=True))
    right = [record for record in run.consumed if record["reward"] == 1]
    assert {record["turns"] for record in right} <= {1, 2, 3}
    assert any("toolcall" in record["phases"] and record["turns"] == 2 for record in right)


def test_a_checkpoint_is_gone_on_from(tmp_path: Path) -> None:
    """A second run begins behind the first one's last step; no task is trained on twice, none is left out."""
    (tmp_path / "first").mkdir()
    (tmp_path / "second").mkdir()
    changes = (f"checkpoint={tmp_path / 'run.pt'}", "batch_size=4")
    first = traced("grpo_tiny", tmp_path / "first", "steps=2", *changes)
    second = traced("grpo_tiny", tmp_path / "second", "steps=4", *changes)
    assert (len(first.rewards), len(second.rewards)) == (2, 2)
    assert second.shown.startswith("goes on after step 2 with ")
    assert "step 3/4" in second.shown
    assert {record["links"]["consume_step"] for record in second.consumed} == {2, 3}
    assert min(record["weight_version_min"] for record in second.consumed) == 2
    trained = [{record["task_id"] for record in run.consumed} for run in (first, second)]
    assert not trained[0] & trained[1]
    under_way = {r["task_id"] for r in first.records if r["status"] != "rejected"} - trained[0]
    again = {record["task_id"] for record in second.records}
    accepted_unseen = {r["task_id"] for r in first.records if r["status"] == "accepted"} - trained[0]
    assert accepted_unseen <= again
    assert under_way & again


def test_without_rollspan_turned_on_an_example_leaves_nothing(tmp_path: Path) -> None:
    """It trains all the same, and writes no file."""
    done = run("grpo_tiny", tmp_path, "steps=1", "batch_size=2")
    assert (done.stdout.startswith("step 1/1  reward "), done.stderr) == (True, "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", TRAINING)
def test_ctrl_c_ends_an_example_and_all_its_processes(tmp_path: Path, name: str) -> None:
    """One line instead of a traceback; the server and the processes of rewards are gone, rollouts have their records."""
    data = tmp_path / "data"
    process = subprocess.Popen(
        command(name, "steps=1000"),
        cwd=tmp_path,
        env={**CLEAN, "ROLLSPAN_ENABLED": "1", "ROLLSPAN_DIR": str(data), "EXAMPLE_MARK": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith("step 1/1000 ")
    assert len(processes_with(f"EXAMPLE_MARK={tmp_path}")) > 1 or not Path("/proc/self/environ").exists()
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the whole foreground group
    _, complaints = process.communicate(timeout=60)
    assert (process.returncode, complaints) == (130, "Interrupted.\n")
    assert not processes_with(f"EXAMPLE_MARK={tmp_path}")
    records = view.load(data)
    assert {record["status"] for record in records} <= {"accepted", "rejected", "dropped"}
    assert {record.get("rejection_reason") for record in records} >= {"cancelled"}


# A server that was there before.


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The address of a server with the chat policy of an example, and the folder of its tokenizer."""
    from rollspan.demo.serving import serving

    chat = module_of("multi_turn_tools")
    folder = tmp_path_factory.mktemp("tokenizer")
    chat.tiny_tokenizer(chat.WORDS).save_pretrained(folder)
    sys.path.insert(0, str(EXAMPLES))  # where the server finds it
    try:
        with serving(policy="multi_turn_tools:Policy", config={"hidden_size": 16}, model="tiny") as url:
            yield url, folder
    finally:
        sys.path.remove(str(EXAMPLES))


@pytest.mark.parametrize("backend", ["vllm", "sglang", "openai"])
def test_a_server_that_is_there_is_asked_in_each_protocol(
    tmp_path: Path, served: tuple[str, Path], backend: str
) -> None:
    """Rewards, numbers of tokens and weight versions are shown for every question; each answer has a record."""
    url, folder = served
    changes = ['questions=["1+2", "3+0", "4+4"]', 'answers=["3", "3", "8"]', "max_new_tokens=6", "model=tiny"]
    shown = traced(
        *("vllm_or_sglang", tmp_path, "--backend", backend, "--address", url),
        *(f"tokenizer={folder}", *changes),
    )
    lines = shown.shown.splitlines()
    assert [line for line in lines if not line.startswith(" ")] == [
        repr(f"<|user|>{question}<|end|><|assistant|>") for question in ("1+2", "3+0", "4+4")
    ]
    for what in ("rewards", "tokens"):
        found = [line.removeprefix(f"  {what} ") for line in lines if line.startswith(f"  {what} ")]
        values = [ast.literal_eval(text) for text in found]
        assert [len(value) for value in values] == [4, 4, 4]
        if what == "tokens":
            tokens = [number for value in values for number in value]
            assert all(1 <= number <= 6 for number in tokens)
            answers = [record for record in shown.consumed if record["task_id"] != "try-out"]
            assert sorted(tokens) == sorted(record["output_tokens"] for record in answers)
    assert lines.count("  weight versions [0]") == 3
    assert {(record["status"], record["turns"]) for record in shown.records} == {("accepted", 1)}
    assert Counter(record["task_id"] for record in shown.records) == {"try-out": 1, 0: 4, 1: 4, 2: 4}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["--address", "127.0.0.1:9"], r"no server at 127\.0\.0\.1:9 \(.+\); expected one of vllm that runs"),
        (["address=127.0.0.1:9", "tokenizer=/no/such/folder"], r"no server at 127\.0\.0\.1:9 "),
        (["--backend", "tgi"], "backend is 'tgi'; expected vllm, sglang or openai"),
        (["backend=openai"], "model is ''; expected the name"),
        (["model=other"], r"refused a generation \(.*model is 'other'; this server has 'tiny'"),
        (["tokenizer=/no/such/folder"], "/no/such/folder"),
        (["max_new_tokens=0"], "max_new_tokens is 0; expected a whole number of at least 1"),
        (["answers=[]"], "there are 2 questions and 0 answers"),
    ],
)
def test_what_is_wrong_with_a_server_is_told(
    tmp_path: Path, served: tuple[str, Path], changes: list[str], said: str
) -> None:
    """One line says what was expected, without a traceback."""
    url, folder = served
    given = [f"tokenizer={folder}", "retries=0", f"address={url}", *changes]
    done = run("vllm_or_sglang", tmp_path, *given, code=1)
    assert re.match(said, done.stderr) or re.search(said, done.stderr)
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


# Settings.


def module_of(name: str) -> ModuleType:
    """An example as a module."""
    sys.path.insert(0, str(EXAMPLES))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(EXAMPLES))


def example_settings() -> Any:
    """The examples' module of settings."""
    return module_of("settings")


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_preset_has_every_setting_and_explains_it(name: str) -> None:
    """The file beside a program can be loaded, and each of its keys has a comment."""
    preset = EXAMPLES / f"{name}.yaml"
    loaded = example_settings().load(module_of(name).Settings, preset)
    lines = [line for line in preset.read_text().splitlines() if re.match(r"\w", line)]
    assert [line.partition(":")[0] for line in lines] == list(loaded.__dataclass_fields__)
    assert [line for line in lines if not re.search(r"  # .{5}", line)] == []


@dataclass(frozen=True)
class Small:
    """A few settings of every type."""

    count: int
    rate: float
    name: str | None = None
    words: list[str] = ()  # type: ignore[assignment]
    is_on: bool = False


GOOD = "count: 3\nrate: 1\nname: null\nwords: [a, b]\nis_on: true\n"


def test_settings_are_of_the_file_and_then_of_the_command_line(tmp_path: Path) -> None:
    """A whole number may stand for a number, and `8e-3`, which YAML 1.1 takes for a text, is one."""
    path = tmp_path / "small.yaml"
    path.write_text(GOOD)
    load = example_settings().load
    assert load(Small, path) == Small(3, 1.0, None, ["a", "b"], True)
    assert load(Small, path, ["rate=8e-3", "name=x", "words=[]"]) == Small(3, 0.008, "x", [], True)


@pytest.mark.parametrize(
    ("text", "changes", "said"),
    [
        (GOOD + "counts: 4\n", [], "counts is 4 in {path}: there is no such setting; expected count, rate"),
        (GOOD, ["cuont=4"], "cuont is 4 in the command line: there is no such setting"),
        (GOOD.replace("3", "3.5"), [], "count is 3.5 in {path}; expected a whole number"),
        (GOOD, ["count=true"], "count is True in the command line; expected a whole number"),
        (GOOD, ["rate=fast"], "rate is 'fast' in the command line; expected a finite number"),
        (GOOD, ["rate=.nan"], "rate is nan in the command line; expected a finite number"),
        (GOOD, ["rate=true"], "rate is True in the command line; expected a finite number"),
        (GOOD, ["name=5"], "name is 5 in the command line; expected a text or null"),
        (GOOD, ["words=[a, 1]"], "words is ['a', 1] in the command line; expected a list of texts"),
        (GOOD, ["is_on=1"], "is_on is 1 in the command line; expected true or false"),
        (GOOD, ["count"], "'count' on the command line is no setting; expected key=value"),
        (GOOD, ["words=[a"], "'words=[a' on the command line is no YAML: "),
        ("count: 3\n", [], "rate, name, words, is_on missing in {path}; expected every setting"),
        ("- 3\n", [], "{path} holds a list; expected lines of key: value"),
        ("a: [", [], "{path} is no YAML: "),
        (None, [], "{path} cannot be read: "),
    ],
)
def test_settings_that_make_no_sense_are_told(
    tmp_path: Path, text: str | None, changes: list[str], said: str
) -> None:
    """The message names the setting, its value, where it stands, and what was expected."""
    path = tmp_path / "small.yaml"
    if text is not None:
        path.write_text(text)
    settings = example_settings()
    with pytest.raises(settings.SettingsError, match="^" + re.escape(said.format(path=path))):
        settings.load(Small, path, changes)


WHOLE = "in the command line; expected a whole number of at least"


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        (
            "grpo_tiny",
            "staleness=2",
            "staleness is 2 in the command line: there is no such setting; expected ",
        ),
        ("grpo_tiny", "steps=0", f"steps is 0 {WHOLE} 1\n"),
        ("multi_turn_tools", "steps=-1", f"steps is -1 {WHOLE} 1\n"),
        ("vision_rlvr", "max_staleness=-1", f"max_staleness is -1 {WHOLE} 0\n"),
        (
            "grpo_tiny",
            "rollout_timeout=0",
            "rollout_timeout is 0 in the command line; expected a finite number above 0\n",
        ),
        ("vllm_or_sglang", "max_concurrent_rollouts=0", f"max_concurrent_rollouts is 0 {WHOLE} 1\n"),
        (
            "grpo_tiny",
            "checkpoint=/nodir/x.pt",
            "checkpoint is '/nodir/x.pt'; expected a file in a folder that",
        ),
        ("grpo_tiny", "checkpoint=/", "checkpoint is '/'; expected a file in a folder that"),
    ],
)
def test_a_wrong_setting_ends_a_program_before_it_begins(
    tmp_path: Path, name: str, change: str, said: str
) -> None:
    """One line on standard error, exit code 2."""
    done = run(name, tmp_path, change, code=2)
    assert done.stderr.startswith(said)
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""

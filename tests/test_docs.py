"""README and docs: every example runs and does what it shows, links lead somewhere, tables equal the code."""

from __future__ import annotations

import os
import re
import runpy
import shlex
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import NamedTuple

import pytest

import rollspan
from rollspan import config, semconv, view
from rollspan.cli.main import COMMANDS
from rollspan.testing import OtlpReceiver, Recording
from tests.faults.protections import PROTECTIONS
from tests.perf.reading import events

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]

# What the examples of a page come to: its rollouts by status.
STATUSES = {
    "README.md": {"accepted": 2},
    "concepts.md": {"accepted": 1, "failed": 1, "rejected": 1},
    "configuration.md": {"accepted": 1},
    "performance-tracing.md": {"accepted": 2},
    "rollouts.md": {"accepted": 480},
    "getting-started.md": {"accepted": 6, "dropped": 1, "failed": 1},
    "specification.md": {"accepted": 1},
    "timeline.md": {"accepted": 4},
}
GOES_ON_WITHOUT_END = {
    "rollouts.md"
}  # what is under way when it ends is one more or less: consumed ones are counted
TURNED_ON_BY_THEMSELVES = {"configuration.md"}  # by configure(), so ROLLSPAN_ENABLED has no say

# What may stand in a block marked `console`; anything else belongs into one marked `text`, which is not run.
PROGRAMS = {"python", "rollspan", "opentelemetry-instrument"}
FOUND_SOMETHING = {"doctor"}  # commands for which exit code 1 is an answer about the machine
ENDPOINT = "http://localhost:4318"


class Block(NamedTuple):
    """A fenced block: the language it is marked with, the number of its first line (from 1), its lines."""

    language: str
    line: int
    lines: list[str]


def name(page: Path) -> str:
    """A page's name, for parameters of tests."""
    return page.name


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page."""
    current: Block | None = None
    for number, line in enumerate(page.read_text().splitlines(), 1):
        if current is None:
            if line.startswith("```"):
                current = Block(line[3:].strip(), number + 1, [])
        elif line.startswith("```"):
            yield current
            current = None
        else:
            current.lines.append(line)
    assert current is None, f"{page.name}: a block is not closed"


def prose(page: Path) -> list[str]:
    """The lines of a page that are in no block."""
    lines = page.read_text().splitlines()
    for block in blocks(page):
        for number in range(block.line - 2, block.line + len(block.lines)):
            lines[number] = ""
    return lines


def programs(page: Path) -> dict[str, str]:
    """All Python of a page by file: `train.py`, but for blocks that begin with the name of another one.

    Every line has the number that it has in the page.
    """
    length, found = len(page.read_text().splitlines()), defaultdict[str, list[str]](list)
    for block in blocks(page):
        if block.language == "python":
            named = re.fullmatch(r"# (\w+\.py)", block.lines[0])
            lines = found[named[1] if named else "train.py"]
            lines += [""] * (length - len(lines))
            lines[block.line - 1 : block.line - 1 + len(block.lines)] = block.lines
    return {file: "\n".join(lines) + "\n" for file, lines in found.items()}


def write_programs(page: Path, folder: Path) -> None:
    """Each in its file."""
    for file, text in (programs(page) or {"train.py": ""}).items():
        (folder / file).write_text(text)


def commands(page: Path) -> list[str]:
    """The commands of a page's console blocks."""
    found = []
    for block in blocks(page):
        if block.language == "console":
            for line in block.lines:
                assert line.startswith("$ "), f"{page.name}: a console block has commands alone: {line!r}"
                found.append(line[2:].partition("  #")[0].strip())
    return found


def environment(**more: str) -> dict[str, str]:
    """The environment of these tests, with this Python first on the path, and no settings."""
    kept = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("ROLLSPAN_", "OTEL_", "SLURM_", "RANK", "WORLD_SIZE"))
    }
    path = f"{Path(sys.executable).parent}{os.pathsep}{kept.get('PATH', '')}"
    return {**kept, "PATH": path, "PYTHONWARNINGS": "default", **more}


def run(command: list[str], folder: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a command in `folder`."""
    return subprocess.run(
        command, cwd=folder, env=environment(**env), capture_output=True, text=True, timeout=120, check=False
    )


def records(folder: Path) -> list[view.Record]:
    """All records below a folder, of rollouts that were counted more than once only one."""
    return view.load(folder)


def statuses(page: Path, folder: Path) -> Counter[str]:
    """How many of the page's rollouts have each status."""
    counted = records(folder)
    if page.name in GOES_ON_WITHOUT_END:
        counted = [record for record in counted if "wait_return_ts" in record]
    return Counter(record["status"] for record in counted)


def files(folder: Path) -> set[str]:
    """What is below a folder, but for the program and Python's own."""
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if "__pycache__" not in path.parts}
    return found - {"train.py", "ask.py", "own_engine.py"}


def test_every_page_with_python_is_expected_to_do_something() -> None:
    """No page gets examples whose effect nobody looks at."""
    with_python = {page.name for page in PAGES if any(b.language == "python" for b in blocks(page))}
    assert with_python == set(STATUSES)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_blocks_are_run_or_marked_as_text(page: Path) -> None:
    """A block is Python or a console's and is run, or says that it is text."""
    wrong = [(b.line, b.language) for b in blocks(page) if b.language not in ("python", "console", "text")]
    assert wrong == []


@pytest.mark.parametrize("page", [p for p in PAGES if p.name in STATUSES], ids=name)
def test_python_runs_and_is_recorded(page: Path, tmp_path: Path) -> None:
    """A page's Python is one program, which runs without a warning and gives the records it speaks of."""
    write_programs(page, tmp_path)
    done = run(
        [sys.executable, "train.py"], tmp_path, ROLLSPAN_ENABLED="1", ROLLSPAN_DIR=str(tmp_path / "data")
    )
    assert done.returncode == 0, done.stderr
    assert "rollspan:" not in done.stderr
    assert statuses(page, tmp_path) == STATUSES[page.name]


def test_the_page_about_rollouts_says_how_many_there_are() -> None:
    """It is the number that its first program, alone, comes to."""
    said = re.findall(
        r"ROLLSPAN_ENABLED=1 python train\.py +# (\d+) rollouts", (ROOT / "docs/rollouts.md").read_text()
    )
    assert list(map(int, said)) == [sum(STATUSES["rollouts.md"].values())]


def test_the_second_program_about_rollouts_runs_beside_the_first(tmp_path: Path) -> None:
    """It has what it needs in its own file and in `train.py`, and is recorded."""
    write_programs(ROOT / "docs/rollouts.md", tmp_path)
    done = run(
        [sys.executable, "ask.py"], tmp_path, ROLLSPAN_ENABLED="1", ROLLSPAN_DIR=str(tmp_path / "data")
    )
    assert (done.returncode, done.stderr) == (0, "")
    found = records(tmp_path)
    assert [(record["status"], "toolcall" in record["phases"]) for record in found] == [
        ("accepted", True)
    ] * 2


def test_the_engine_of_ones_own_generates_for_sessions(tmp_path: Path) -> None:
    """What it opens and records is in the records; its versions are those that the executor said."""
    write_programs(ROOT / "docs/rollouts.md", tmp_path)
    done = run(
        [sys.executable, "own_engine.py"], tmp_path, ROLLSPAN_ENABLED="1", ROLLSPAN_DIR=str(tmp_path / "data")
    )
    assert done.returncode == 0, done.stderr
    consumed = [record for record in records(tmp_path) if "wait_return_ts" in record]
    assert len(consumed) == 7
    assert all(record["generate_s"] > 0 and record["output_tokens"] in (1, 2) for record in consumed)
    assert consumed[-1]["weight_version_max"] == 3


def test_scopes_of_the_page_about_them_are_in_their_file(tmp_path: Path) -> None:
    """Each step with its scopes, once."""
    write_programs(ROOT / "docs/performance-tracing.md", tmp_path)
    run([sys.executable, "train.py"], tmp_path, ROLLSPAN_ENABLED="1", ROLLSPAN_DIR=str(tmp_path / "data"))
    scopes = ["load_batch", "train_batch", "forward", "backward", "weights_saved"]
    found = [event["name"] for event in events(tmp_path / "data/perf-r0.json") if event["ph"] in "Xi"]
    assert sorted(found) == sorted([*scopes * 2, "step 0", "step 1"])


@pytest.mark.parametrize("page", [p for p in PAGES if p.name in STATUSES], ids=name)
def test_python_runs_turned_off(page: Path, tmp_path: Path) -> None:
    """The same program runs without rollspan turned on, and then leaves no file."""
    if page.name in TURNED_ON_BY_THEMSELVES:
        pytest.skip("it turns rollspan on itself")
    write_programs(page, tmp_path)
    done = run([sys.executable, "train.py"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert files(tmp_path) == set()


@pytest.mark.parametrize("page", [p for p in PAGES if commands(p)], ids=name)
def test_commands_run_and_do_what_they_say(page: Path, tmp_path: Path) -> None:
    """A page's commands, in order and in one folder with its program, succeed, record and send."""
    write_programs(page, tmp_path)
    with OtlpReceiver() as receiver:
        for command in commands(page):
            words = shlex.split(command)
            while "=" in words[0]:
                words.pop(0)
            assert words[0] in PROGRAMS, f"{page.name}: mark a block with {words[0]!r} as text; it is not run"
            receiver.clear()
            files_before = files(tmp_path)
            before = sum(statuses(page, tmp_path).values())
            done = run(["bash", "-c", command.replace(ENDPOINT, receiver.endpoint)], tmp_path)
            said = f"{command}\n{done.stdout}{done.stderr}"
            allowed = (0, 1) if words[0] == "rollspan" and words[1] in FOUND_SOMETHING else (0,)
            assert done.returncode in allowed, said
            if "train.py" in words:
                is_on = "ROLLSPAN_ENABLED=1" in command or words[0] == "opentelemetry-instrument"
                recorded = sum(statuses(page, tmp_path).values()) - before
                assert recorded == (sum(STATUSES[page.name].values()) if is_on else 0), said
                assert is_on or files(tmp_path) == files_before
            else:
                assert done.stdout.strip(), said
            if ENDPOINT in command:
                assert receiver.spans() and receiver.records(), said


def test_the_picture_is_of_the_rollout_shown_as_text() -> None:
    """README's picture and its text are of one rollout, and the picture needs nothing from elsewhere."""
    (text,) = (b for b in blocks(ROOT / "README.md") if b.lines[0].startswith("rollout "))
    session_id = text.lines[0].split()[1]
    picture = (ROOT / "docs/images/rollout.svg").read_text()
    drawn = "".join(ET.fromstring(picture).itertext())
    assert session_id in drawn
    for phase in ("queue_wait", "runner_wait", "execution", "generate", "toolcall", "reward", "post_wait"):
        assert phase in drawn
        assert any(line.strip().startswith(phase) for line in text.lines)
    assert re.findall(r"https?://\S+", picture) == ['http://www.w3.org/2000/svg">']


def test_the_picture_of_a_rollouts_life_has_every_end() -> None:
    """It is what its script draws, names each status, reason and phase of the code, and needs nothing from elsewhere."""
    drawn = (ROOT / "docs/images/rollout-life.svg").read_text()
    assert drawn == runpy.run_path(str(ROOT / "docs/images/life.py"))["picture"]()
    said = list(ET.fromstring(drawn).itertext())
    reasons = (
        semconv.SHOULD_ACCEPT_FALSE,
        semconv.WORKFLOW_RETURNED_NONE,
        semconv.WORKFLOW_EXCEPTION,
        semconv.INPUT_QUEUE_FULL,
        semconv.TIMEOUT,
        semconv.CANCELLED,
        semconv.STALE_WEIGHT,
        semconv.GROUP_FILTERED,
        semconv.PROCESS_DIED,
    )
    statuses = (semconv.ACCEPTED, semconv.REJECTED, semconv.FAILED, semconv.DROPPED)
    phases = (*semconv.WAITS, "execution", "generate", "toolcall", "reward")
    assert {*reasons, *statuses, *phases} <= set(said)
    assert drawn.count("http") == drawn.count("http://www.w3.org/2000/svg") == 1


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, made as GitHub makes them."""
    titles = [line.lstrip("#").strip() for line in prose(page) if re.match(r"#+ ", line)]
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    """Every link to a file of the repository has its file, and the heading where it names one."""
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", "\n".join(prose(page))):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    assert broken == []


def test_every_page_can_be_reached_from_readme() -> None:
    """README links to all pages of docs."""
    text = (ROOT / "README.md").read_text()
    assert [page.name for page in PAGES[1:] if f"{page.name})" not in text] == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_named_tests_exist(page: Path) -> None:
    """Every test that a page names is there, under that name."""
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page.read_text())
    gone = [f"{file}::{test}" for file, test in named if f"def {test}(" not in (ROOT / file).read_text()]
    assert gone == []


def test_every_failure_mode_is_shown_by_a_test_that_can_fail() -> None:
    """Each line of failure modes names tests, and for each of these it is known what has to be taken out."""
    rows = [line for line in prose(ROOT / "docs/failure-modes.md") if re.match(r"\| (?!fault|---)", line)]
    shown = {test for row in rows for test in re.findall(r"`(tests/[\w/]+\.py::\w+)`", row.split("|")[3])}
    assert len(shown) == len(rows) > 30
    assert shown == {protection.test.partition("[")[0] for protection in PROTECTIONS}


def test_configuration_lists_every_setting_and_its_default() -> None:
    """The page has one row for each setting, with its variables, its argument and its default."""
    rows = {}
    for line in prose(ROOT / "docs/configuration.md"):
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 4 and re.fullmatch(r"`[a-z_]+`", cells[1]):
            rows[cells[1].strip("`")] = (re.findall(r"`(\w+)`", cells[0]), cells[2].strip("`"))
    defaults = {field.name: config.shown(field.name, field.default) for field in fields(config.Settings)}
    defaults["run_id"] = "made"
    expected = {
        setting: ([v for v in spec.environment if v not in config.INTERNAL], defaults[setting])
        for setting, spec in config.VARIABLES.items()
    }
    assert rows == expected


def test_configuration_names_every_variable_that_the_code_asks_for() -> None:
    """A variable of OpenTelemetry's or ours that stands in the source is explained."""
    source = "\n".join(path.read_text() for path in (ROOT / "src").rglob("*.py"))
    asked = set(re.findall(r"""["'](OTEL_[A-Z_]*[A-Z]|ROLLSPAN_[A-Z_]*[A-Z])["']""", source))
    page = (ROOT / "docs/configuration.md").read_text()
    for signal in ("TRACES", "LOGS", "METRICS"):
        asked.discard(f"OTEL_EXPORTER_OTLP_{signal}_PROTOCOL")  # explained together
    assert "ROLLSPAN_DIR" in asked
    assert sorted(variable for variable in asked if f"`{variable}`" not in page) == []


def test_specification_has_every_name_on_the_wire() -> None:
    """Attributes, phases, statuses and reasons of the code stand in the specification."""
    page = (ROOT / "docs/specification.md").read_text()
    names = {value for key, value in vars(semconv).items() if key.isupper() and isinstance(value, str)}
    assert "rollout.status" in names
    assert sorted(value for value in names if not re.search(rf"`[^`\n]*\b{re.escape(value)}", page)) == []


def test_specification_has_every_field_of_a_full_record(rec: Recording) -> None:
    """No field of a record with everything in it is missing in the specification."""
    with rollspan.step(1):
        session = rollspan.start_session(task_id=1, group_id="1", workflow="w")
        session.mark_enqueued()
        with session.execution():
            with rollspan.phase("generate", input_tokens=1, output_tokens=2, weight_version=3):
                pass
            with rollspan.phase("toolcall"), rollspan.phase("reward", score=1.0):
                rollspan.count("calls")
        session.mark_accepted(stats=rollspan.RolloutStats(accepted=1))
        session.mark_consumed()
        failed = rollspan.start_session()
        failed.mark_failed(ValueError())
    page = (ROOT / "docs/specification.md").read_text()
    seen = {field for record in rec.records() for field in record}
    assert {"links", "counters", "rollout_stats", "error_type", "rejection_reason"} <= seen
    assert sorted(field for field in seen if f"`{field}`" not in page) == []


def test_architecture_places_every_module() -> None:
    """Every module and package has its place on the page, and none is named there that does not exist."""
    page = (ROOT / "docs/architecture.md").read_text()
    source = ROOT / "src/rollspan"
    modules = {path.name for path in source.glob("*.py")}
    packages = {f"{path.parent.name}/" for path in source.glob("*/__init__.py")}
    assert sorted(m for m in modules | packages if f"`{m}`" not in page) == []
    named = set(re.findall(r"`((?:\w+/)?\w+\.py)`", page))
    assert sorted(m for m in named if not (source / m).exists()) == []
    assert set(re.findall(r"`(\w+\.[ch])`", page)) == {path.name for path in (ROOT / "native").glob("*.[ch]")}


def test_commands_are_documented() -> None:
    """Every command of `rollspan` is mentioned on some page for users."""
    text = "\n".join(page.read_text() for page in PAGES if page.name != "CHANGELOG.md")
    assert [c for c in COMMANDS if f"rollspan {c}" not in text] == []


def test_changelog_has_this_version() -> None:
    """The newest entry of the changelog is this version's."""
    (newest, *_) = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest == rollspan.__version__

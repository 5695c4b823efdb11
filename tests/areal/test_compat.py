"""The drop-in for AReaL's tracer beside AReaL's own: names, files, AReaL's tools, and AReaL's executor on it."""

from __future__ import annotations

import importlib
import inspect
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any

import pytest

from tests.areal.conftest import PROGRAM, environment
from tests.conftest import CLEAN

HERE = Path(__file__).parent
OURS = "rollspan.compat.areal.perf_tracer"
NOT_IN_ITS_ALL = {"is_configured", "profiler", "CategoryLike"}  # used by its other modules, or by programs


@pytest.fixture(scope="module")
def both(installed: None) -> tuple[Any, Any]:
    """AReaL's module and ours."""
    return importlib.import_module("areal.utils.perf_tracer"), importlib.import_module(OURS)


def surface(of: Any) -> dict[str, Any]:
    """The parameters of what can be called, and the members of what can be chosen from."""
    if inspect.isclass(of) and issubclass(of, Enum):
        return {member.name: member.value for member in of}
    if inspect.isclass(of):
        names = [name for name in dir(of) if not name.startswith("_")] + ["__init__"]
        return {name: surface(inspect.getattr_static(of, name)) for name in names}
    if isinstance(of, property):
        return {"property": True}
    if not inspect.isfunction(of):
        return {}
    found = inspect.signature(of).parameters.values()
    return {p.name: (p.kind, p.default) for p in found}


def test_every_name_and_signature_is_there(both: tuple[Any, Any]) -> None:
    """What its `__all__` has, and what is used of it besides."""
    theirs, ours = both
    names = set(theirs.__all__) | NOT_IN_ITS_ALL
    assert [name for name in sorted(names) if not hasattr(ours, name)] == []
    assert names - {"profiler", "is_configured"} <= {*ours.__all__, "CategoryLike"}
    for name in names:
        mine, its = surface(getattr(ours, name)), surface(getattr(theirs, name))
        if inspect.isclass(getattr(theirs, name)):
            mine = {key: mine.get(key) for key in its}  # more methods do no harm
        assert mine == its, name
    assert theirs.profiler is ours.profiler


def test_attributes_that_areal_itself_uses_are_there(both: tuple[Any, Any], tmp_path: Path) -> None:
    """Its own code and its tests look at these."""
    from areal.api.cli_args import PerfTracerConfig, SessionTracerConfig

    config = PerfTracerConfig("e", "t", str(tmp_path), session_tracer=SessionTracerConfig(enabled=True))
    theirs, ours = (module.PerfTracer(config, rank=1, role="actor") for module in both)
    ours.session_tracer.close()
    for name in ("_rank", "_role", "_pid", "enabled", "_save_interval"):
        assert getattr(ours, name) == getattr(theirs, name)
    assert ours.session_tracer._role == theirs.session_tracer._role == "actor"


def run(folder: Path, *command: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """A program, which must end well."""
    root = HERE.parents[1]
    done = subprocess.run(
        [sys.executable, *command],
        env={**CLEAN, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{root}:{root / 'src'}", **environ},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done


@pytest.fixture(scope="module")
def small(installed: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """What the small program left: with AReaL's module, and with the import replaced."""
    folders = tmp_path_factory.mktemp("theirs"), tmp_path_factory.mktemp("ours")
    run(folders[0], str(HERE / "small_program.py"), str(folders[0]))
    run(folders[1], str(HERE / "small_program.py"), str(folders[1]), OURS)
    return folders


def files(root: Path) -> dict[str, list[dict[str, Any]]]:
    """AReaL's files below a folder."""
    return {
        str(path.relative_to(root)): [json.loads(line) for line in path.read_text().splitlines()]
        for path in root.rglob("*.jsonl")
        if "rollspan" not in path.relative_to(root).parts
    }


def shape(value: Any) -> Any:
    """A value without its numbers; nothing of what leads to rollspan's trace."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items() if key not in ("trace_id", "span_id")}
    if isinstance(value, list):
        return [shape(item) for item in value]
    return value if isinstance(value, str) else type(value)


def test_files_have_the_same_places_and_fields(small: tuple[Path, Path]) -> None:
    """And the same values, but for times and ids."""
    theirs, ours = map(files, small)
    assert set(theirs) == set(ours)
    (sessions,) = [name for name in theirs if "session_tracer" in name]
    assert list(map(shape, theirs[sessions])) == list(map(shape, ours[sessions]))
    (perf,) = [name for name in theirs if "perf_tracer" in name]

    def events(found: list[dict[str, Any]]) -> list[tuple[str, Any]]:
        return sorted((e["name"], sorted(shape(e).items(), key=str)) for e in found if e["ph"] != "M")

    assert str(events(theirs[perf])) == str(events(ours[perf]))


def test_durations_are_the_same(small: tuple[Path, Path]) -> None:
    """Of the same pauses; ours are never longer than what holds them."""
    theirs, ours = map(files, small)
    for name in theirs:
        if "session_tracer" in name:
            for one, other in zip(theirs[name], ours[name], strict=True):
                assert (one["task_id"], one["session_id"]) == (other["task_id"], other["session_id"])
                for duration in ("total_s", "generate_s", "toolcall_s", "reward_s"):
                    assert other[duration] == pytest.approx(one[duration], abs=0.1)
                parts = other["generate_s"] + other["toolcall_s"] + other["reward_s"]
                assert parts <= other["total_s"] + 1e-6
        else:
            for event in ("train", "load", "fails"):
                one, other = (
                    [e["dur"] for e in found[name] if e["name"] == event] for found in (theirs, ours)
                )
                assert other == pytest.approx(one, abs=100_000)


def test_its_converter_reads_the_files(small: tuple[Path, Path]) -> None:
    """It keeps our threads' names, where it loses those of AReaL's own files."""
    converted = []
    for folder in small:
        (source,) = folder.rglob("perf_tracer")
        run(folder, "-m", "areal.tools.perf_trace_converter", str(source), "traces.json")
        found = json.loads((folder / "traces.json").read_text())["traceEvents"]
        converted.append(Counter(event["name"] for event in found if event.get("ph") in ("X", "i")))
    assert converted[0] == converted[1]
    names = [event["args"]["name"] for event in found if event["name"] in ("process_name", "thread_name")]
    assert "MainThread" in names
    assert "[actor] Rank 3, Process" in names


READS = """
import json, sys
from pathlib import Path
from unittest.mock import MagicMock

import areal
drawing = ("pandas", "plotly", "plotly.colors", "plotly.graph_objects", "plotly.subplots")
sys.modules.update({name: MagicMock() for name in drawing})
from areal.tools import plot_session_trace as plotter
(source,) = plotter._resolve_record_files(sys.argv[1])
names = ("TIMESTAMP_COLUMNS", "DURATION_COLUMNS", "DEFAULT_PHASE_ORDER")
Path("read.json").write_text(json.dumps([plotter._load_records(source), *(getattr(plotter, name) for name in names)]))
"""


def test_its_plotter_finds_and_reads_the_files(small: tuple[Path, Path]) -> None:
    """The part that reads, without the packages that draw: what it looks for in a record is there."""
    for folder in small:
        (path,) = folder.rglob("session_tracer/actor")
        run(folder, "-c", READS, str(path))
        records, times, durations, phases = json.loads((folder / "read.json").read_text())
        assert len(records) == 6
        for record in records:
            assert {*times, *durations} <= set(record)
            assert set(phases) == set(record["phases"])


def test_its_plotter_draws_them(small: tuple[Path, Path]) -> None:
    """With pandas and plotly, which AReaL asks for."""
    for name in ("pandas", "plotly"):
        pytest.importorskip(name)
    (path,) = small[1].rglob("session_tracer/actor")
    done = run(small[1], "-m", "areal.tools.plot_session_trace", str(path), "-B", "1", "-L")
    assert "Lifecycle visualization includes all 6 sessions" in done.stdout
    assert (path / "sessions-lifecycle-r3.html").stat().st_size > 1000


# Installed, under AReaL's own executor.


@pytest.fixture(scope="module")
def address(installed: None) -> Iterator[str]:
    """The demo's inference server."""
    process = subprocess.Popen(
        [sys.executable, "-m", "rollspan.demo.server"],
        env={**CLEAN, "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    yield f"127.0.0.1:{json.loads(process.stdout.readline())['port']}"
    process.stdin.close()
    process.wait(30)
    process.stdout.close()


@pytest.fixture(scope="module", params=["turned on by the tracer", "turned on by the environment"])
def executed(request: pytest.FixtureRequest, address: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the program that knows nothing of rollspan left, with our module in the place of AReaL's."""
    folder = tmp_path_factory.mktemp("executed")
    on = {"ROLLSPAN_ENABLED": "1"} if "environment" in request.param else {}
    facts = str(folder / "facts.json")
    run(folder, str(HERE / "installed.py"), str(PROGRAM), address, facts, str(folder / "areal"), **on)
    return folder


def own_records(folder: Path) -> list[dict[str, Any]]:
    """Rollspan's."""
    (path,) = [path for path in folder.rglob("sessions-r0.jsonl") if "session_tracer" not in path.parts]
    return [json.loads(line) for line in path.read_text().splitlines()]


def areals(folder: Path, kind: str) -> list[dict[str, Any]]:
    """What is in the one file of that kind."""
    (found,) = [lines for name, lines in files(folder / "areal").items() if kind in name]
    return found


def test_each_session_is_there_once(executed: Path) -> None:
    """In AReaL's file and in rollspan's; as many as the program submitted."""
    records = {record["trace_id"]: record for record in own_records(executed)}
    lines = areals(executed, "session_tracer")
    assert len(lines) == len({line["session_id"] for line in lines}) == len(records)
    assert {line["trace_id"] for line in lines} == set(records)
    per_item = Counter(record["task_id"] for record in records.values())
    singles = [f"plain-{n}" for n in range(3)] + [
        "refused",
        "raises",
        "none",
        "events",
        "multi-turn",
        "own-id",
    ]
    assert {item: per_item[item] for item in singles} == dict.fromkeys(singles, 1)
    assert {item: per_item[item] for item in ("group-0", "one-raises", "one-none")} == {
        "group-0": 2,
        "one-raises": 3,
        "one-none": 3,
    }
    for line in lines:
        record = records[line["trace_id"]]
        assert line["status"] == record["status"]
        assert line.get("generate_s") == record.get("generate_s")
        assert line["total_s"] <= record["total_s"] + 1e-6


def test_what_areals_own_tracer_gets_wrong_is_right(executed: Path) -> None:
    """See tests/areal/test_own_tracer.py for what it says of the same program."""
    items = {record["trace_id"]: record["task_id"] for record in own_records(executed)}
    lines: dict[str, list[dict[str, Any]]] = {}
    for line in areals(executed, "session_tracer"):
        lines.setdefault(items[line["trace_id"]], []).append(line)
    assert len(lines["multi-turn"][0]["phases"]["generate"]) == 2
    assert len(lines["aborted"][0]["phases"]["generate"]) == 2
    assert Counter(line["status"] for line in lines["one-raises"]) == {"failed": 1, "dropped": 2}
    cut_off = [(line["status"], line["reason"]) for n in range(6) for line in lines[f"cut-off-{n}"]]
    assert cut_off == [("dropped", "cancelled")] * 6
    facts = json.loads((executed / "facts.json").read_text())
    for item in ("plain-0", "plain-1", "plain-2"):
        assert facts[item]["before submit"][0] < lines[item][0]["submit_ts"] < facts[item]["after submit"][0]
        assert facts[item]["episode ends"][0] < lines[item][0]["finalized_ts"] < facts[item]["after wait"][0]
    (events,) = lines["events"]
    assert events["counters"] == {"retries": 2}
    assert {name: len(spans) for name, spans in events["phases"].items()} == {
        "generate": 2,
        "reward": 1,
        "toolcall": 2,
        "think": 1,
        "look up": 1,
    }


def test_scopes_of_the_trainer_are_there_and_its_steps_are_linked(executed: Path) -> None:
    """AReaL's file has the scopes; in the records are the steps that the scopes tell of."""
    names = Counter(event["name"] for event in areals(executed, "perf_tracer"))
    assert names["train.rollout"] == names["train.update_weights"] == names["train.done"] == 2
    assert names["look up"] == 1
    assert names["workflow_executor.prepare_batch"] >= 2
    consumed = [record["links"] for record in own_records(executed) if record["task_id"] == "step-0"]
    assert consumed == [{"dispatch_step": 0, "consume_step": 0}]


INSTALL = """
import sys
import rollspan.compat.areal
{before}
rollspan.compat.areal.install()
rollspan.compat.areal.install()
import areal.utils
from areal.utils import perf_tracer
from areal.utils.perf_tracer import trace_scope
import areal.utils.perf_tracer as third
from rollspan.compat.areal import perf_tracer as ours
assert perf_tracer is third is areal.utils.perf_tracer is sys.modules["areal.utils.perf_tracer"] is ours
import areal.infra.workflow_executor as executor
assert executor.perf_tracer is ours
assert getattr(executor.trace_session_event, "__wrapped__", executor.trace_session_event) is ours.trace_session_event
assert not hasattr(ours.trace_scope, "__wrapped__")
"""


@pytest.mark.parametrize("enabled", ["", "1"])
def test_installing(enabled: str, installed: None, tmp_path: Path) -> None:
    """Every way of importing AReaL's tracer gives ours, and the instrumentor does not wrap it."""
    run(tmp_path, "-c", INSTALL.format(before=""), ROLLSPAN_ENABLED=enabled, ROLLSPAN_DIR=str(tmp_path))


def test_installing_too_late_is_said(installed: None, tmp_path: Path) -> None:
    """Modules may have copied AReaL's functions by then."""
    source = INSTALL.format(before="import areal")
    done = subprocess.run(
        [sys.executable, "-c", source],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1
    assert "before anything of AReaL is imported" in done.stderr.splitlines()[-1]

"""torch's profiler by setting and by scope; its files on the timeline."""

from __future__ import annotations

import gzip
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from rollspan import config, perf
from rollspan.testing import recording

torch = pytest.importorskip("torch")


def profiles(folder: Path) -> dict[str, dict[str, Any]]:
    """Profiles by the end of their names."""
    found = {}
    for path in folder.glob("profile-r0.*.json.gz"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        found[path.name.partition(f".{os.getpid()}.")[2]] = json.loads(gzip.decompress(path.read_bytes()))
    return found


def work() -> None:
    with perf.trace_scope("matmul", category="compute"):
        torch.ones(8, 8) @ torch.ones(8, 8)


def test_chosen_steps_are_profiled(tmp_path: Path) -> None:
    """Those whose numbers were given, whole, in a block or not; what asks for it inside is in that one."""
    with recording(tmp_path, profile_steps="1,3-4", rank=0, role="trainer"):
        for number in range(3):
            with perf.step(number), perf.trace_scope("inner", enable_profiler=True):
                work()
        with perf.trace_scope("outside", args={"global_step": 3}):
            work()
        perf.save()
        with perf.trace_scope("nowhere", enable_profiler=True):
            work()
    found = profiles(tmp_path)
    assert found.keys() == {"step-1.json.gz", "step-3.json.gz"}
    for profile in found.values():
        assert (
            profile["rollspan_process"].items() >= {"pid": os.getpid(), "rank": 0, "role": "trainer"}.items()
        )
        assert "aten::matmul" in {event["name"] for event in profile["traceEvents"]}


def test_scopes_that_ask_for_it_are_profiled(tmp_path: Path) -> None:
    """Each time, where no steps were chosen; the arguments are torch's; async and decorated ones too."""

    @perf.trace_scope("decorated", enable_profiler=True)
    def decorated() -> None:
        work()

    with recording(tmp_path):
        with (
            perf.step(2),
            perf.trace_scope("a/b", enable_profiler=True, profiler_args={"record_shapes": True}),
        ):
            work()
        decorated()
        decorated()
    found = profiles(tmp_path)
    assert found.keys() == {"step-2-a-b.json.gz", "decorated.json.gz", "decorated-2.json.gz"}
    shapes = [e["args"] for e in found["step-2-a-b.json.gz"]["traceEvents"] if e["name"] == "aten::matmul"]
    assert shapes[0]["Input Dims"] == [[8, 8], [8, 8]]


def test_what_torch_does_not_take_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The scope goes on, and the next one is profiled."""
    with recording(tmp_path):
        with perf.trace_scope("x", enable_profiler=True, profiler_args={"nonsense": 1}):
            work()
        with perf.trace_scope("w", enable_profiler=True, profiler_args=[1]):  # type: ignore[arg-type]
            work()
        with perf.trace_scope("y", enable_profiler=True):
            work()
    assert "x is not profiled" in caplog.text
    assert "nonsense" in caplog.text
    assert profiles(tmp_path).keys() == {"y.json.gz"}


def test_a_place_that_cannot_be_written_loses_the_profile_alone(tmp_path: Path, caplog: Any) -> None:
    """The program goes on, and is told."""
    blocked = tmp_path / "data"
    with recording(tmp_path / "data", journal_dir=tmp_path / "journal"):
        blocked.write_text("a file")
        with perf.trace_scope("x", enable_profiler=True):
            work()
        blocked.unlink()
    assert "the profile of x is lost" in caplog.text


def test_a_profiler_of_the_programs_own_is_left_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A second one would take its events."""
    with recording(tmp_path, profile_steps=[1]), torch.profiler.profile() as own, perf.step(1):
        work()
    assert "aten::matmul" in {event.name for event in own.events()}
    assert "a profiler of its own" in caplog.text
    assert profiles(tmp_path) == {}


def test_off_nothing_is_profiled() -> None:
    """No profiler is begun for nobody."""
    with perf.trace_scope("x", enable_profiler=True) as span:
        assert not torch.autograd._profiler_enabled()
    assert not span


@pytest.mark.parametrize(
    ("given", "steps"),
    [
        ("5,10-12", (5, 10, 11, 12)),
        (" 3 , 1-1,3", (1, 3)),
        ([2, 1], (1, 2)),
        (7, (7,)),
        ("none", ()),
    ],
)
def test_steps_are_read(given: Any, steps: tuple[int, ...]) -> None:
    """Numbers and ranges, in any order."""
    assert config.resolve({}, profile_steps=given).settings.profile_steps == steps


@pytest.mark.parametrize(
    "given", ["5-3", "-1", "a", "1,,2", "1.5", "none,1", "0-999999999", [1.5], True, [-1]]
)
def test_wrong_steps_are_told(given: Any) -> None:
    """What they are, and what was expected."""
    resolved = config.resolve({}, profile_steps=given)
    assert resolved.settings.profile_steps == ()
    (problem,) = resolved.problems
    assert "whole numbers from 0" in problem.expected

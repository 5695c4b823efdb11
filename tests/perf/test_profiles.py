"""Profiles that torch wrote, on the timeline of their process."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.perf.chrome_trace import end, ns
from tests.perf.perf_files import BEGIN, a_process, a_scope, write_perf
from tests.perf.perfetto import complaints
from tests.perf.test_timeline import loaded, made, timeline, where

PROGRAM = """
import json, os, sys, time
import torch
from torch.profiler import ProfilerActivity, profile, record_function

with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as prof:
    begun = time.time()
    with record_function("work"):
        x = torch.ones(64, 64, requires_grad=True)
        (x @ x).sum().backward()
    length = time.time() - begun
prof.export_chrome_trace(sys.argv[1])
print(json.dumps([os.getpid(), begun, length]))
"""


@pytest.fixture(scope="module")
def torchs(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], int, float, float]:
    """A real profile, the process that it was made in, and when the profiled work was done."""
    pytest.importorskip("torch", reason="needs the extra rollspan[demo]")
    path = tmp_path_factory.mktemp("torch") / "profile.json"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(path)], capture_output=True, text=True, timeout=120, check=True
    )
    return json.loads(path.read_text()), *json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def profiled(tmp_path: Path, torchs: tuple[dict[str, Any], int, float, float]) -> Path:
    """The profile as we leave it, and the scope of the process that it was made in."""
    profile, pid, begun, length = torchs
    said = {"host": "a", "pid": pid, "rank": 0, "role": "trainer"}
    text = json.dumps({**profile, "rollspan_process": said}).encode()
    (tmp_path / "profile-r0.step3.json.gz").write_bytes(gzip.compress(text))
    scope = a_scope("around", begun - BEGIN, length, 1, pid=pid)
    write_perf(tmp_path / "perf-r0.json", a_process(pid), [scope])
    return tmp_path


def test_a_profile_is_on_the_threads_it_was_made_on(profiled: Path) -> None:
    """Operations are on our thread of the same number, below the scope around them; all else gets its own."""
    assert "1 scope, 1 profile:" in timeline(profiled, "-o", profiled / "t.json").stdout
    events = made(profiled)
    (around,) = (event for event in events if event["name"] == "around")
    (inner,) = (event for event in events if event["name"] == "work")
    assert (inner["pid"], inner["tid"]) == (around["pid"], around["tid"])
    assert ns(around) <= ns(inner) <= end(inner) <= end(around)
    (track,) = where(events, "PyTorch Profiler (0)")
    assert track.startswith("rank 0 trainer (a, ") and " / torch: " in track
    assert [e["args"]["name"] for e in events if e["name"] == "process_name"] == [track.partition(" / ")[0]]


def test_flows_of_a_profile_arrive(profiled: Path) -> None:
    """Torch's flows from forward to backward keep both ends, on the lanes where these are."""
    flows = [e for e in loaded_events(profiled) if e["ph"] in "sf"]
    assert flows
    assert {e["id"] for e in flows if e["ph"] == "s"} == {e["id"] for e in flows if e["ph"] == "f"}
    assert complaints(profiled / "t.json") == []


def loaded_events(folder: Path) -> list[dict[str, Any]]:
    timeline(folder, "-o", folder / "t.json")
    events: list[dict[str, Any]] = loaded(folder / "t.json")["traceEvents"]
    return events


def test_two_profiles_keep_their_flows_apart(profiled: Path) -> None:
    """Each profile numbers its flows from one; together they are as many as before."""
    before = {e["id"] for e in loaded_events(profiled) if e["ph"] == "s"}
    (profile,) = profiled.glob("profile-*")
    (profiled / "profile-r0.step4.json.gz").write_bytes(profile.read_bytes())
    assert len({e["id"] for e in loaded_events(profiled) if e["ph"] == "s"}) == 2 * len(before)


def test_a_profile_alone_gives_a_timeline(profiled: Path) -> None:
    """Without our files, and without what says whose it is, a profile is shown below its file's rank."""
    (path,) = profiled.glob("profile-*")
    profile = json.loads(gzip.decompress(path.read_bytes()))
    del profile["rollspan_process"]
    (profiled / "alone").mkdir()
    (profiled / "alone/profile-r3.json").write_text(json.dumps(profile))
    (track,) = where(made(profiled / "alone"), "work")
    assert track.startswith(f"rank 3 ({profile['host_name']}) / torch: ")


def test_streams_of_a_gpu_are_tracks(tmp_path: Path) -> None:
    """Streams, whose numbers are those of no thread, are named after their device; clocks of old torch are known."""
    at = BEGIN * 1e6
    events = [
        {"name": "process_labels", "ph": "M", "pid": 0, "tid": 0, "ts": at, "args": {"labels": "GPU 0"}},
        {"name": "thread_name", "ph": "M", "pid": 0, "tid": 7, "ts": at, "args": {"name": "stream 7"}},
        {"name": "launch", "cat": "cuda_runtime", "ph": "X", "pid": 10, "tid": 10, "ts": at, "dur": 5},
        {"name": "kernel", "cat": "kernel", "ph": "X", "pid": 0, "tid": 7, "ts": at + 10, "dur": 50},
        {"name": "ac2g", "cat": "ac2g", "ph": "s", "id": 4, "pid": 10, "tid": 10, "ts": at},
        {"name": "ac2g", "cat": "ac2g", "ph": "f", "id": 4, "pid": 0, "tid": 7, "ts": at + 10, "bp": "e"},
    ]
    said = {"host": "a", "pid": 10, "rank": 0, "role": "trainer"}
    (tmp_path / "profile-r0.json").write_text(json.dumps({"traceEvents": events, "rollspan_process": said}))
    found = made(tmp_path)
    assert where(found, "kernel") == ["rank 0 trainer (a, 10) / torch: GPU 0 stream 7"]
    assert where(found, "launch") == ["rank 0 trainer (a, 10) / torch: 10"]
    assert complaints(tmp_path / "t.json") == []

"""Steps of optimizers and collectives of two real processes (gloo)."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import orjson
import pytest
from click.testing import CliRunner

from rollspan.cli.timeline import command
from tests.conftest import CLEAN

from . import reading

pytest.importorskip("torch")

PROGRAM = """
import os, sys
import torch
import torch.distributed as dist
from torch.distributed import broadcast
import rollspan
from rollspan import perf

dist.init_process_group("gloo", init_method=f"file://{sys.argv[1]}/store", rank=int(os.environ["RANK"]), world_size=2)
torch.manual_seed(0)
model = torch.nn.Linear(4, 1)
optimizer = torch.optim.AdamW(model.parameters())
for number in range(2):
    with perf.step(number), perf.trace_scope("train_batch", category="compute"):
        dist.barrier()
        model(torch.ones(2, 4)).sum().backward()
        for p in model.parameters():
            dist.all_reduce(p.grad)
        optimizer.step()
broadcast(torch.ones(3), 0)
try:
    optimizer.step(closure=lambda: 1 / 0)
except ZeroDivisionError:
    pass
optimizer.step()
dist.destroy_process_group()
"""


def run_two(tmp_path: Path, program: str = PROGRAM, **env: str) -> Path:
    """The program as two ranks; gives the folder of what they recorded."""
    (tmp_path / "program.py").write_text(program)
    ranks = [
        subprocess.Popen(
            [sys.executable, str(tmp_path / "program.py"), str(tmp_path)],
            env={
                **CLEAN,
                "ROLLSPAN_ENABLED": "1",
                "ROLLSPAN_DIR": str(tmp_path / "data"),
                "ROLLSPAN_RUN_ID": "two",
                "RANK": str(rank),
                "WORLD_SIZE": "2",
                "OMP_NUM_THREADS": "1",
                "GLOO_SOCKET_IFNAME": "lo",
                **env,
            },
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    said = [rank.communicate(timeout=120)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], said
    assert "rollspan" not in "".join(said)
    return tmp_path / "data"


def test_two_ranks_time_their_steps_and_collectives(tmp_path: Path) -> None:
    """Each its own, below its scope; a step that raised is over with the next one; barriers anchor the clocks."""
    folder = run_two(tmp_path, ROLLSPAN_TORCH_SCOPES="optimizer,distributed")
    for rank in range(2):
        events = reading.events(folder / f"perf-r{rank}.json")
        scopes = [event for event in events if event["ph"] in "Xi"]
        names = Counter(event["name"] for event in scopes)
        assert names["dist.barrier"] == names["clock.anchor"] == 2
        assert names["dist.all_reduce"] == 4
        assert names["dist.broadcast"] == 1
        assert names["optimizer.step"] == 4
        by_id = {event["args"]["span_id"]: event for event in scopes}
        reduced = [event for event in scopes if event["name"] == "dist.all_reduce"]
        assert {by_id[event["args"]["parent_id"]]["name"] for event in reduced} == {"train_batch"}
        assert sorted(event["args"]["bytes"] for event in reduced) == [4, 4, 16, 16]
        assert {event["cat"] for event in reduced} == {"comm"}
        steps = [event for event in scopes if event["name"] == "optimizer.step"]
        assert {event["args"]["optimizer"] for event in steps} == {"AdamW"}
        inside = [
            event
            for event in scopes
            if event["args"].get("parent_id") in {s["args"]["span_id"] for s in steps}
        ]
        assert inside == []


def test_both_ranks_are_on_one_timeline(tmp_path: Path) -> None:
    """With the second rank's clock an hour ahead, as by another host, the barriers bring them together."""
    folder = run_two(tmp_path, ROLLSPAN_TORCH_SCOPES="distributed")
    path = folder / "perf-r1.json"
    lines = path.read_bytes().splitlines(keepends=True)
    ahead = [lines[0]]
    for line in lines[1:]:
        events = orjson.loads(b"[%b]" % line.rstrip(b",\n"))
        for event in events:
            if "ts" in event:
                event["ts"] += 3600e6
            elif event["name"] == "rollspan_process":
                event["args"]["host"] = "another"
        ahead.append(b",".join(map(orjson.dumps, events)) + b",\n")
    path.write_bytes(b"".join(ahead))
    out = tmp_path / "timeline.json"
    result = CliRunner().invoke(command, [str(folder), "-o", str(out)])
    assert result.exit_code == 0, result.output
    assert "another" in result.output
    events = orjson.loads(out.read_bytes())["traceEvents"]
    barriers = [event["ts"] + event["dur"] for event in events if event["name"] == "dist.barrier"]
    assert len(barriers) == 4
    assert max(barriers) - min(barriers) < 60e6


def test_without_the_setting_torch_is_left_alone(tmp_path: Path) -> None:
    """Its functions are its own, and what is timed is what the program times."""
    check = "import sys\nassert not [name for name in sys.modules if name.startswith('rollspan.instrumentation.torch')]\n"
    folder = run_two(tmp_path, PROGRAM + check)
    names = {event["name"] for event in reading.events(folder / "perf-r0.json") if event["ph"] in "Xi"}
    assert names == {"step 0", "step 1", "train_batch"}


def test_turned_on_in_code_after_torch(tmp_path: Path, run_program: Any) -> None:
    """`configure(torch_scopes=...)` reaches a torch that is there; off again it times nothing."""
    source = """
import torch, rollspan
import torch.distributed as dist
model = torch.nn.Linear(2, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
optimizer.step()
rollspan.configure(torch_scopes=["optimizer"])
optimizer.step()
rollspan.configure()
optimizer.step()
from rollspan.instrumentation import torch as ours
assert dist.all_reduce.__module__ and hasattr(dist.all_reduce, "__wrapped__")
assert dist.all_reduce is dist.distributed_c10d.all_reduce
ours.disable()
"""
    run_program(source, env={"ROLLSPAN_ENABLED": ""})
    names = Counter(
        event["name"] for event in reading.events(tmp_path / "data/perf-r0.json") if event["ph"] == "X"
    )
    assert names == {"optimizer.step": 1}

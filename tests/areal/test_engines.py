"""AReaL's training engines: a real job of two processes on CPU. Megatron's and Archon's need what a CPU has not got."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from tests.areal.conftest import environment
from tests.needs import need
from tests.perf import reading

PROGRAM = Path(__file__).with_name("engine_program.py")


@pytest.fixture(autouse=True)
def _installed(installed: None) -> None:
    """Skips where AReaL is not there."""


def free_port() -> int:
    """A port that nobody listens on."""
    import socket

    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def below(events: list[dict[str, Any]], above: str = "") -> dict[str, Any]:
    """Names of scopes by what they are in, without how often."""
    children = defaultdict(list)
    for event in events:
        children[event["args"].get("parent_id", "")].append(event)

    def tree(parent: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for event in sorted(children[parent], key=lambda event: event["ts"]):
            found.setdefault(event["name"], {}).update(tree(event["args"]["span_id"]))
        return found

    return tree(above)


def test_a_real_job_of_two_ranks_is_timed(tmp_path: Path) -> None:
    """Its engine's methods, AReaL's own scopes inside of them, optimizer and collectives; each rank on its own."""
    need(importlib.util.find_spec("peft"), "needs peft, which AReaL's FSDP engine imports")
    shared = {
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "GLOO_SOCKET_IFNAME": "lo",
        "OMP_NUM_THREADS": "1",
        "ROLLSPAN_ENABLED": "1",
        "ROLLSPAN_DIR": str(tmp_path / "data"),
        "ROLLSPAN_RUN_ID": "two",
        "ROLLSPAN_TORCH_SCOPES": "optimizer,distributed",
    }
    ranks = [
        subprocess.Popen(
            [sys.executable, str(PROGRAM), str(tmp_path)],
            env=environment(**shared, RANK=str(rank), LOCAL_RANK=str(rank)),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    said = [rank.communicate(timeout=240)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], said
    assert "rollspan:" not in "".join(said)
    anchors = [
        [
            e["ts"]
            for e in reading.events(tmp_path / f"data/perf-r{rank}.json")
            if "connect_engine" in str(e["args"].get("key"))
        ]
        for rank in range(2)
    ]
    assert [len(each) for each in anchors] == [1, 1]
    assert abs(anchors[0][0] - anchors[1][0]) < 2e6  # microseconds: they have left one barrier
    for rank in range(2):
        events = [e for e in reading.events(tmp_path / f"data/perf-r{rank}.json") if e["ph"] == "X"]
        tree = below(events)
        assert tree.keys() >= {"step 0", "step 1"}
        assert tree["step 1"].keys() == {"train.update", "train.save"}
        batch = tree["step 1"]["train.update"]["fsdp_engine.train_batch"]
        assert {"fsdp_engine.forward_backward_batch", "fsdp_engine.optimizer_step"} <= batch.keys()
        inside = batch["fsdp_engine.forward_backward_batch"]
        assert {"fsdp_engine.forward", "fsdp_engine.backward"} <= inside.keys()
        assert "optimizer.step" in batch["fsdp_engine.optimizer_step"]["fsdp_engine.step"]
        assert "dist.all_reduce" in str(batch)
        assert "fsdp_engine.save" in tree["step 1"]["train.save"]


def test_engines_are_put_back() -> None:
    """Of those that can be imported here."""
    need(importlib.util.find_spec("peft"), "needs peft, which AReaL's FSDP engine imports")
    source = (
        "from areal.engine.fsdp_engine import FSDPEngine\n"
        "before = dict(vars(FSDPEngine))\n"
        "from rollspan.instrumentation import areal\n"
        "areal.enable()\n"
        "print(sorted(n for n, v in vars(FSDPEngine).items() if before[n] is not v))\n"
        "areal.disable()\n"
        "print([n for n, v in vars(FSDPEngine).items() if before[n] is not v])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", source],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    wrapped, left = done.stdout.splitlines()[-2:]
    assert "'train_batch', 'update_weights'" in wrapped
    assert left == "[]"

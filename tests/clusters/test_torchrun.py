"""Ranks that torchrun started: with gloo and a real all_reduce, on one node and on two, and killed."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from collections import Counter

import pytest

from rollspan.testing import OtlpReceiver
from tests.clusters.jobs import Job, by_file, records, run_ids, said, writers
from tests.needs import need

FOUR = ("--nproc-per-node", "4")

RANKS = """
import multiprocessing, os
from concurrent.futures import ProcessPoolExecutor
import rollspan

@rollspan.phase("reward")
def score(summed):
    rollspan.record_reward(summed)
    return os.getpid()

def main():
    import torch, torch.distributed as dist
    dist.init_process_group("gloo")
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as plain:
        pool = rollspan.TracedExecutor(plain)
        for i in range(3):
            with rollspan.session(task_id=dist.get_rank(), workflow=str(os.getpid())):
                with rollspan.phase("generate"):
                    share = torch.tensor([float(dist.get_rank())])
                    dist.all_reduce(share)
                assert pool.submit(score, share.item()).result() != os.getpid()
    dist.destroy_process_group()

if __name__ == "__main__":
    main()
"""


@pytest.fixture(autouse=True)
def _torch() -> None:
    need(importlib.util.find_spec("torch"), "torch is not installed: pip install 'rollspan[demo]'")


def check_four_ranks(job: Job, runs: int = 1) -> None:
    """Each rank's three sessions are in its own file, whole, and all are of one run."""
    files = by_file(job.data)
    assert set(files) == {f"sessions-r{rank}.jsonl" for rank in range(4)}
    for rank in range(4):
        rows = files[f"sessions-r{rank}.jsonl"]
        assert [(r["rank"], r["task_id"], r["status"], r["reward"]) for r in rows] == [
            (rank, rank, "accepted", 6.0)
        ] * 3
        assert all(set(r["phases"]) == {"generate", "reward"} for r in rows)
    assert all(len(pids) == 1 for pids in writers(job.data).values())
    assert len(set.union(*writers(job.data).values())) == 4
    assert len(run_ids(records(job.data))) == runs
    assert list((job.data / "journal").iterdir()) == []


def torchrun(job: Job, *options: str, **environ: str) -> subprocess.Popen[str]:
    """Start a launcher and its ranks."""
    return job.start(sys.executable, "-m", "torch.distributed.run", *options, **environ)


@pytest.mark.parametrize("named_by", ["torchrun", "rollspan"])
def test_four_ranks_are_one_run(job: Job, free_port: int, named_by: str) -> None:
    """ROLLSPAN_ENABLED=1 before torchrun is enough: one run, a file for each rank, rewards of spawned pools in it.

    The run has the id that torchrun makes. With a port for its rendezvous it makes none; then the ranks inherit the
    one that rollspan made in the launcher.
    """
    rendezvous = () if named_by == "torchrun" else ("--master-port", str(free_port))
    said(torchrun(job, *FOUR, *rendezvous, job.program(RANKS), ROLLSPAN_ENABLED="1"))
    check_four_ranks(job)
    (run_id,) = run_ids(records(job.data))
    made = re.fullmatch(r"\d{8}-\d{6}-[0-9a-f]{6}", run_id)
    assert bool(made) == (named_by == "rollspan")


def nodes(job: Job, *options: str, **environ: str) -> str:
    """Run four ranks under two launchers that meet at a port of this machine; what they say."""
    program = job.program(RANKS)
    two = ("--nnodes", "2", "--nproc-per-node", "2", *options)
    launchers = [
        torchrun(job, *(option.format(node=node) for option in two), program, **environ) for node in range(2)
    ]
    return "".join(said(launcher) for launcher in launchers)


def test_two_nodes_that_meet_are_one_run(job: Job, free_port: int) -> None:
    """Two launchers under one --rdzv-id are one run, named by it; each rank's resource has the size of the world."""
    with OtlpReceiver() as receiver:
        output = nodes(
            job, "--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{free_port}", "--rdzv-id", "two-nodes",
            ROLLSPAN_ENABLED="1", OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint,
        )  # fmt: skip
        check_four_ranks(job)
        assert "rollspan:" not in output
        assert run_ids(records(job.data)) == {"two-nodes"}
        told = {
            (log["attributes"]["rank"], log["resource"]["rl.run.id"], log["resource"]["rollout.world_size"])
            for log in receiver.logs()
        }
        assert told == {(rank, "two-nodes", 4) for rank in range(4)}
        assert len({log["resource"]["service.instance.id"] for log in receiver.logs()}) == 4


STATIC = ("--node-rank", "{node}", "--master-addr", "127.0.0.1", "--master-port")


def test_nodes_without_a_common_name_are_told(job: Job, free_port: int) -> None:
    """Two launchers that share no name make two runs, each of two ranks, and one process of the job says so, once."""
    output = nodes(job, *STATIC, str(free_port), ROLLSPAN_ENABLED="1")
    check_four_ranks(job, runs=2)
    assert output.count("rollspan:") == output.count("rollspan: ROLLSPAN_RUN_ID=") == 1


@pytest.mark.parametrize("by", ["rollspan env", "SLURM_JOB_ID"])
def test_nodes_with_a_common_name(job: Job, free_port: int, by: str) -> None:
    """Where torchrun has no --rdzv-id, what `rollspan env` prints, or Slurm's job id, makes one run of the nodes."""
    named = {"ROLLSPAN_ENABLED": "1", "SLURM_JOB_ID": "by-hand"}
    if by == "rollspan env":
        named = json.loads(job.rollspan("env", "--format", "json", "--run-id", "by-hand"))
    output = nodes(job, *STATIC, str(free_port), **named)
    check_four_ranks(job)
    assert "rollspan:" not in output
    assert run_ids(records(job.data)) == {"by-hand"}


KILLED = """
import os, signal
import torch.distributed as dist
import rollspan

rank, life = int(os.environ["RANK"]), os.environ["TORCHELASTIC_RESTART_COUNT"]

def start(name):
    session = rollspan.start_session(task_id=f"{rank}.{life}.{name}")
    session.mark_enqueued()
    return session

for i in range(5):
    session = start(i)
    with session.execution(), rollspan.phase("generate"):
        pass
    session.mark_accepted(reward=1.0)
    session.mark_consumed()
waiting = start("waiting")
with waiting.execution():
    pass
waiting.mark_accepted(reward=1.0)
running = start("running")
with running.execution(), rollspan.phase("generate"):
    if life == "0":  # a restarted gloo would look for the dead ranks' ports in the launcher's store
        dist.init_process_group("gloo")
        dist.barrier()
        if rank == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        signal.pause()  # the launcher ends the others as soon as it sees the dead one
running.mark_accepted(reward=1.0)
running.mark_consumed()
"""


Fates = Counter[tuple[str, str, str, bool]]
DONE = ("accepted", "", True)


def left(life: int, running: tuple[str, str, bool]) -> Fates:
    """What four ranks come to: names, statuses, reasons and whether consumed, where `running` is one's last."""
    fates = {**{str(i): DONE for i in range(5)}, "waiting": ("accepted", "", False), "running": running}
    return Counter((f"{rank}.{life}.{name}", *fate) for rank in range(4) for name, fate in fates.items())


def fates(job: Job) -> Fates:
    """What the records say, in the form of `left`."""
    return Counter(
        (r["task_id"], r["status"], r.get("rejection_reason", ""), "wait_return_ts" in r)
        for r in records(job.data)
    )


def test_a_killed_rank_takes_nothing_with_it(job: Job) -> None:
    """One rank is killed, the launcher ends the others: `rollspan recover` brings each session, once, as it was."""
    said(torchrun(job, *FOUR, job.program(KILLED), ROLLSPAN_ENABLED="1"), fails=True)
    job.rollspan("recover")
    assert fates(job) == left(0, ("dropped", "process_died", False))
    assert set(by_file(job.data)) == {f"sessions-r{rank}.jsonl" for rank in range(4)}
    assert len(run_ids(records(job.data))) == 1
    assert "Nothing to recover" in job.rollspan("recover")
    assert fates(job) == left(0, ("dropped", "process_died", False))


def test_restarted_ranks_bring_what_the_dead_ones_had(job: Job) -> None:
    """With --max-restarts the new ranks deliver the old ones' sessions beside their own, in one run, each once."""
    again = ("--standalone", "--max-restarts", "1")
    said(torchrun(job, *FOUR, *again, job.program(KILLED), ROLLSPAN_ENABLED="1"))
    assert fates(job) == left(0, ("dropped", "process_died", False)) + left(1, DONE)
    assert len(run_ids(records(job.data))) == 1
    assert list((job.data / "journal").iterdir()) == []

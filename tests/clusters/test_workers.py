"""Ranks whose forked and spawned workers record sessions of their own, beside their rank's."""

from __future__ import annotations

import importlib.util
import json
import re
import socket
import sys

import pytest

from tests.clusters.jobs import Job, by_file, records, run_ids, writers
from tests.needs import need

RANK = """
import json, multiprocessing, os, sys
import rollspan

def work(i):
    with rollspan.session(task_id=i, workflow=str(os.getpid())), rollspan.phase("generate"):
        return os.getpid()

def main():
    work("before")
    rollspan.flush()  # the rank has its file now; a worker that is quicker would take it, and let go of it at its end
    workers = [multiprocessing.get_context(sys.argv[1]).Process(target=work, args=(i,)) for i in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    work("after")
    about = {"rank": int(os.environ["RANK"]), "pid": os.getpid(), "workers": [w.pid for w in workers]}
    with open(f"rank{about['rank']}.json", "w") as file:
        json.dump(about, file)

if __name__ == "__main__":
    main()
"""


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_each_worker_has_a_file_of_its_rank_to_itself(job: Job, method: str) -> None:
    """A rank writes sessions-r<rank>.jsonl, each worker sessions-r<rank>.<host>.<pid>.jsonl: one process a file."""
    need(importlib.util.find_spec("torch"), "torch is not installed: pip install 'rollspan[demo]'")
    job.run(
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", job.program(RANK), method,
        ROLLSPAN_ENABLED="1", PYTHONWARNINGS="ignore",
    )  # fmt: skip
    host = re.sub(r"[^A-Za-z0-9_-]+", "-", socket.gethostname())
    expected: dict[str, set[str]] = {}
    for rank in range(2):
        about = json.loads((job.folder / f"rank{rank}.json").read_text())
        expected[f"sessions-r{rank}.jsonl"] = {str(about["pid"])}
        expected |= {f"sessions-r{rank}.{host}.{pid}.jsonl": {str(pid)} for pid in about["workers"]}
    assert writers(job.data) == expected
    for name, rows in by_file(job.data).items():
        assert {f"r{row['rank']}" for row in rows} == {name.split("-")[1].split(".")[0]}
        assert len(rows) == (2 if name.count(".") == 1 else 1)
    assert len(run_ids(records(job.data))) == 1
    assert list((job.data / "journal").iterdir()) == []

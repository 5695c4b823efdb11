"""A Ray driver, its actors and its tasks: one run, sessions carried into actors, and actors that are killed."""

from __future__ import annotations

import importlib.util
import re
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator

import pytest

from rollspan.testing import OtlpReceiver
from tests.clusters.jobs import Job, by_file, lines, records, run_ids, writers
from tests.needs import need

RAY = (sys.executable, "-m", "ray.scripts.scripts")


@pytest.fixture
def ray(job: Job) -> Iterator[dict[str, str]]:
    """What keeps a Ray of a test to itself: the variables for its folder, which is short because sockets lie in it."""
    need(importlib.util.find_spec("ray"), "Ray is not installed: pip install 'rollspan[clusters]'")
    folder = tempfile.mkdtemp(prefix="ray-")
    yield {
        "RAY_TMPDIR": folder,
        "HOME": folder,
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "PYTHONWARNINGS": "ignore",
    }
    job.end()
    shutil.rmtree(folder)


ACTORS = """
import os, sys
import ray, rollspan

@ray.remote
def task(i):
    with rollspan.session(task_id=f"task {i}", workflow=str(os.getpid())), rollspan.phase("generate"):
        return os.getcwd(), os.environ["ROLLSPAN_DIR"]

@ray.remote
class Tool:
    def search(self, carrier, query):
        with rollspan.attach(carrier):
            with rollspan.phase("search"):
                return query.upper()

@ray.remote
class Rollouts:
    async def rollout(self, i):
        async with rollspan.session(task_id=f"actor {i}", workflow=str(os.getpid())):
            async with rollspan.phase("generate"):
                return i

def main():
    ray.init(num_cpus=4, include_dashboard=False)
    tool = Tool.remote()
    with rollspan.session(task_id="driver", workflow=str(os.getpid())), rollspan.phase("toolcall"):
        assert ray.get(tool.search.remote(rollspan.carrier(), "who?")) == "WHO?"
    actors = [
        Rollouts.options(runtime_env={"env_vars": {"RANK": str(rank), "WORLD_SIZE": "3"}}).remote()
        for rank in (1, 2)
    ]
    ray.get([actors[i % 2].rollout.remote(i) for i in range(8)])
    for seen in ray.get([task.remote(i) for i in range(8)]):
        assert seen == (os.getcwd(), os.path.join(os.getcwd(), "rollspan-data")), seen
    ray.shutdown()

if __name__ == "__main__":
    main()
"""


def test_driver_actors_and_tasks_are_one_run(job: Job, ray: dict[str, str]) -> None:
    """ROLLSPAN_ENABLED=1 for a driver reaches all it starts: one run and folder, ranks as given, no file shared."""
    with OtlpReceiver() as receiver:
        job.run(
            sys.executable, job.program(ACTORS), **ray, ROLLSPAN_ENABLED="1",
            OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint,
        )  # fmt: skip
        assert all(len(pids) == 1 for pids in writers(job.data).values())
        job.rollspan("recover")  # Ray ends its workers without their exit handlers
        found = records(job.data)
        kinds = Counter((r["task_id"].split()[0], r["rank"]) for r in found)
        assert kinds == {("driver", 0): 1, ("task", 0): 8, ("actor", 1): 4, ("actor", 2): 4}
        assert {r["status"] for r in found} == {"accepted"}
        assert len(run_ids(found)) == 1
        assert {"sessions-r0.jsonl", "sessions-r1.jsonl", "sessions-r2.jsonl"} <= set(by_file(job.data))

        (driver,) = (r for r in found if r["task_id"] == "driver")
        assert set(driver["phases"]) == {"toolcall"}
        trace = {s["name"]: s for s in receiver.spans() if s["trace_id"] == driver["trace_id"]}
        assert set(trace) == {"rollout", "toolcall", "search"}
        assert trace["search"]["parent_id"] == trace["toolcall"]["span_id"]
        assert trace["toolcall"]["parent_id"] == trace["rollout"]["span_id"]
        instance = {name: span["resource"]["service.instance.id"] for name, span in trace.items()}
        assert instance["rollout"] == instance["toolcall"] != instance["search"]
        assert {log["attributes"]["session_id"] for log in receiver.logs()} == {
            r["session_id"] for r in found
        }
        assert {s["resource"]["rl.run.id"] for s in receiver.spans()} == run_ids(found)


KILLED = """
import os, time
import ray, rollspan

@ray.remote
class Rollouts:
    def go(self, name):
        for i in range(20):
            with rollspan.session(task_id=f"{name} done"):
                pass
        session = rollspan.start_session(task_id=f"{name} waiting")
        session.mark_enqueued()
        with session.execution():
            pass
        session.mark_accepted()
        self.running = rollspan.start_session(task_id=f"{name} running").execution().__enter__()
        return os.getpid()

def main():
    ray.init(num_cpus=3, include_dashboard=False)
    killed, living, released = (Rollouts.remote() for _ in range(3))
    *_, pid = ray.get([killed.go.remote("killed"), living.go.remote("living"), released.go.remote("released")])
    del released  # the one that may end in good order
    while os.path.exists(f"/proc/{pid}"):
        time.sleep(0.05)
    ray.kill(killed)
    ray.shutdown()

if __name__ == "__main__":
    main()
"""


def test_a_killed_actor_takes_nothing_with_it(job: Job, ray: dict[str, str]) -> None:
    """After ray.kill, and after the driver's end, `rollspan recover` brings what actors held; a released one delivers."""
    job.run(sys.executable, job.program(KILLED), **ray, ROLLSPAN_ENABLED="1")
    job.rollspan("recover")
    found = records(job.data)
    told = Counter((r["task_id"], r["status"], r.get("rejection_reason")) for r in found)
    assert told == {
        (f"{actor} {what}", *fate): number
        for actor, reason in (
            ("killed", "process_died"),
            ("living", "process_died"),
            ("released", "cancelled"),
        )
        for what, fate, number in (
            ("done", ("accepted", None), 20),
            ("waiting", ("accepted", None), 1),
            ("running", ("dropped", reason), 1),
        )
    }
    assert len(run_ids(found)) == 1
    assert "Nothing to recover" in job.rollspan("recover")


@pytest.fixture
def cluster(job: Job, ray: dict[str, str]) -> Iterator[dict[str, str]]:
    """Variables for drivers of a cluster that is up before them, with a folder and a run of its own."""
    elsewhere = job.folder / "elsewhere"
    elsewhere.mkdir()
    dashboard = importlib.util.find_spec("aiohttp") is not None
    head = job.start(
        "env", "-C", str(elsewhere), *RAY, "start", "--head", "--block", "--num-cpus", "2", "--port", "0",
        f"--include-dashboard={dashboard}", "--dashboard-port", "0", "--dashboard-agent-listen-port", "0",
        **ray, ROLLSPAN_ENABLED="1",
    )  # fmt: skip
    said: list[str] = []
    for line in lines(head):
        said.append(line)
        if "will now block" in line:
            break
    (address,) = {a for line in said for a in re.findall(r"--address='(.+)'", line)}
    yield {**ray, "RAY_ADDRESS": address}


DRIVER = """
import json, os, subprocess
import ray, rollspan

@ray.remote
class Rollouts:
    def go(self):
        with rollspan.session(task_id="actor", workflow=str(os.getpid())):
            pass
        return os.getcwd(), rollspan.flush(30)

def main():
    runtime_env = json.loads(subprocess.check_output(["rollspan", "env", "--format", "ray"]))
    ray.init(runtime_env=runtime_env)
    actor = Rollouts.remote()
    with rollspan.session(task_id="driver", workflow=str(os.getpid())):
        cwd, delivered = ray.get(actor.go.remote())
        assert cwd.endswith("elsewhere") and delivered, (cwd, delivered)
    assert rollspan.flush(30)  # while the actor is there: one that has ended has let go of its file

if __name__ == "__main__":
    main()
"""


def test_rollspan_env_puts_a_cluster_s_workers_into_the_run(job: Job, cluster: dict[str, str]) -> None:
    """With what `rollspan env` prints as runtime_env, workers record into the driver's run and folder, no other."""
    job.run(sys.executable, job.program(DRIVER), **cluster, ROLLSPAN_ENABLED="1")
    found = records(job.data)
    assert {r["task_id"] for r in found} == {"driver", "actor"}
    assert len(run_ids(found)) == 1
    assert len(writers(job.data)) == 2
    assert not (job.folder / "elsewhere/rollspan-data").exists()


def test_a_submitted_job_is_in_the_run_that_rollspan_env_says(job: Job, cluster: dict[str, str]) -> None:
    """`ray job submit` with what `rollspan env` prints, as its help says: driver and actor are one run."""
    need(importlib.util.find_spec("aiohttp"), "`ray job` is not installed: pip install 'rollspan[clusters]'")
    program = job.program(DRIVER.replace("ray.init(runtime_env=runtime_env)", "ray.init()"))
    runtime_env = job.rollspan("env", "--format", "ray", "--run-id", "submitted")
    job.run(
        *RAY, "job", "submit", "--runtime-env-json", runtime_env, "--", sys.executable, program, **cluster
    )
    found = records(job.data)
    assert {r["task_id"] for r in found} == {"driver", "actor"}
    assert run_ids(found) == {"submitted"}

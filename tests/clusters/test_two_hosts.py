"""Two hosts with one folder between them, as by NFS, each with its own memory, and one receiver on the first."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from rollspan.place import RESERVING, file_system
from tests.backends.services import BINARIES, CONFIGURATIONS, wait_until
from tests.clusters.hosts import Host, connect
from tests.clusters.jobs import ROLLSPAN, by_file, lines, records, run_ids, said, written
from tests.needs import need

ENDPOINT = "http://10.0.0.1:4318"


class Hosts(NamedTuple):
    """Both machines, and the folder that both see."""

    a: Host
    b: Host
    folder: Path

    @property
    def data(self) -> Path:
        """The job's ROLLSPAN_DIR."""
        return self.folder / "data"

    def program(self, source: str) -> tuple[str, str]:
        """The command that runs a program, on either."""
        path = self.folder / "train.py"
        path.write_text(source)
        return sys.executable, str(path)


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    """Two hosts with a cable between them."""
    a = Host("host-a", tmp_path)
    try:
        b = Host("host-b", tmp_path)
        try:
            connect(a, b)
            yield Hosts(a, b, tmp_path)
        finally:
            b.end()
    finally:
        a.end()


RECEIVER = """
import gzip, json, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from google.protobuf.json_format import MessageToDict
from rollspan.testing_messages import REQUESTS

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        signal = self.path.rpartition("/")[2]
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        with open(f"{sys.argv[1]}/{signal.replace('logs', 'records')}.jsonl", "a") as file:
            file.write(json.dumps(MessageToDict(REQUESTS[signal].FromString(body))) + "\\n")
        self.send_response(200)
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args):
        pass

ThreadingHTTPServer(("10.0.0.1", 4318), Handler).serve_forever()
"""


class Received:
    """What a receiver wrote, as OTLP/JSON lines; both kinds of receiver write the same files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def items(self, name: str, *path: str) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        """Resources and items."""
        found = []
        file = self.folder / f"{name}.jsonl"
        groups, scopes, items = path
        for line in file.read_text().splitlines() if file.exists() else ():
            for group in json.loads(line)[groups]:
                resource = plain(group["resource"])
                found += [(resource, item) for scope in group[scopes] for item in scope[items]]
        return found

    def spans(self) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        """Spans, each with its resource."""
        return self.items("traces", "resourceSpans", "scopeSpans", "spans")

    def records(self) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        """The attributes of records, each with its resource."""
        found = self.items("records", "resourceLogs", "scopeLogs", "logRecords")
        return [(resource, plain(record)) for resource, record in found]

    def tasks(self) -> Counter[str]:
        """How often each task's record came."""
        return Counter(record["task_id"] for _, record in self.records())


def plain(item: dict[str, Any]) -> dict[str, Any]:
    """Attributes of an item of OTLP/JSON, their values as they stand there."""
    return {pair["key"]: next(iter(pair["value"].values()), None) for pair in item["attributes"]}


@pytest.fixture(params=["python", "collector"])
def received(request: pytest.FixtureRequest, hosts: Hosts) -> Received:
    """A receiver that listens on the first host: a few lines of Python, or the real Collector as we ship it."""
    into = hosts.folder / "received"
    into.mkdir()
    if request.param == "collector":
        binary = Path(os.environ.get("COLLECTOR_BINARY") or BINARIES / "otelcol")
        need(binary.exists(), f"no Collector at {binary}: make backends, or set COLLECTOR_BINARY")
        command = (str(binary), "--config", str(CONFIGURATIONS / "collector.yaml"))
        hosts.a.start(*command, COLLECTOR_HOST="10.0.0.1", COLLECTOR_DATA=str(into))
    else:
        (hosts.folder / "receiver.py").write_text(RECEIVER)
        hosts.a.start(sys.executable, str(hosts.folder / "receiver.py"), str(into))
    listens = ("bash", "-c", "until </dev/tcp/10.0.0.1/4318; do sleep 0.1; done")
    hosts.a.run("timeout", "60", *listens)
    return Received(into)


TWO = """
import json, os, socket, sys, time
from pathlib import Path
import rollspan

me, letter, answer = socket.gethostname(), Path(sys.argv[1], "letter"), Path(sys.argv[1], "answer")

def wait_for(path):
    while not path.exists():
        time.sleep(0.02)

for i in range(20):
    with rollspan.session(task_id=f"{me} {i}", workflow=me), rollspan.phase("generate"):
        pass
if me == "host-a":
    with rollspan.session(task_id="both", workflow=me), rollspan.phase("toolcall"):
        letter.with_suffix(".part").write_text(json.dumps(rollspan.carrier()))
        letter.with_suffix(".part").rename(letter)
        wait_for(answer)
else:
    wait_for(letter)
    with rollspan.attach(json.loads(letter.read_text())), rollspan.phase("search"):
        pass
    answer.touch()
assert rollspan.flush(60)
"""


def test_one_receiver_for_two_hosts(hosts: Hosts, received: Received) -> None:
    """Records and spans of both hosts arrive, each with its host's name, in one run; a session may visit the other."""
    asked = ("env", "--format", "json", "--dir", str(hosts.data), "--endpoint", ENDPOINT)
    common = json.loads(hosts.a.run(*ROLLSPAN, *asked))
    command = (*hosts.program(TWO), str(hosts.folder))
    jobs = [host.start(*command, **common, RANK=str(rank)) for rank, host in enumerate((hosts.a, hosts.b))]
    for job in jobs:
        said(job)

    expected = {f"{host} {i}" for host in ("host-a", "host-b") for i in range(20)} | {"both"}
    assert received.tasks() == Counter(expected)
    for resource, record in received.records():
        assert resource["rl.run.id"] == common["ROLLSPAN_RUN_ID"]
        assert resource["host.name"] == record["workflow"]
    traces: defaultdict[str, dict[str, Any]] = defaultdict(dict)
    for resource, span in received.spans():
        traces[span["traceId"]][span["name"]] = (resource["host.name"], span)
    (both,) = (trace for trace in traces.values() if "toolcall" in trace)
    assert {name: host for name, (host, _) in both.items()} == {
        "rollout": "host-a",
        "toolcall": "host-a",
        "search": "host-b",
    }
    (_, toolcall), (_, search) = both["toolcall"], both["search"]
    assert search["parentSpanId"] == toolcall["spanId"]
    assert int(toolcall["startTimeUnixNano"]) <= int(search["startTimeUnixNano"])
    assert int(search["endTimeUnixNano"]) <= int(toolcall["endTimeUnixNano"])

    found = by_file(hosts.data)
    assert {name: len(rows) for name, rows in found.items()} == {
        "sessions-r0.jsonl": 21,
        "sessions-r1.jsonl": 20,
    }
    assert run_ids(records(hosts.data)) == {common["ROLLSPAN_RUN_ID"]}


KILLED = """
import os, signal, sys, rollspan
for i in range(20):
    with rollspan.session(task_id=f"done {i}"), rollspan.phase("generate"):
        pass
waiting = rollspan.start_session(task_id="waiting")
with waiting.execution():
    pass
waiting.mark_accepted(reward=1.0)
rollspan.start_session(task_id="running").execution().__enter__()
print("up", flush=True)
sys.stdin.readline()
os.kill(os.getpid(), signal.SIGKILL)
"""
NEXT = (sys.executable, "-c", "import rollspan\nwith rollspan.session(task_id='next'): pass")
LEFT = {
    **{f"done {i}": ("accepted", None) for i in range(20)},
    "waiting": ("accepted", None),
    "running": ("dropped", "process_died"),
}


def fates(hosts: Hosts) -> dict[str, tuple[str, str | None]]:
    """Statuses and reasons by task."""
    return {r["task_id"]: (r["status"], r.get("rejection_reason")) for r in records(hosts.data)}


def test_what_died_on_a_host_is_recovered_there(hosts: Hosts) -> None:
    """`rollspan recover` elsewhere names the host whose memory has the sessions and writes nothing; there, all."""
    victim = hosts.b.start(*hosts.program(KILLED), ROLLSPAN_ENABLED="1", ROLLSPAN_DIR=str(hosts.data))
    assert next(lines(victim)) == "up"
    wait_until(lambda: written(hosts.data) == 20, "the file of records")
    recover = (*ROLLSPAN, "recover", str(hosts.data))
    assert "Nothing to recover" in hosts.a.run(*recover)  # a live process's sessions are nobody else's
    victim.communicate("die\n", timeout=60)

    elsewhere = hosts.a.run(*recover, fails=True)
    assert "part of it lies on host host-b" in elsewhere
    hosts.a.run(*NEXT, ROLLSPAN_ENABLED="1", ROLLSPAN_DIR=str(hosts.data), RANK="1")
    assert fates(hosts) == {
        **{f"done {i}": ("accepted", None) for i in range(20)},
        "next": ("accepted", None),
    }

    hosts.b.run(*recover)
    assert fates(hosts) == {**LEFT, "next": ("accepted", None)}
    for host in (hosts.a, hosts.b):
        assert "Nothing to recover" in host.run(*recover)
    assert list((hosts.data / "journal").iterdir()) == []


def test_a_journal_folder_outlives_its_host(hosts: Hosts) -> None:
    """With ROLLSPAN_JOURNAL_DIR on a disk that stays, as of a pod's node, the host that comes next brings it all."""
    kept = hosts.folder / "disk-of-the-node"
    environ = {
        "ROLLSPAN_ENABLED": "1",
        "ROLLSPAN_DIR": str(hosts.data),
        "ROLLSPAN_JOURNAL_DIR": str(kept),
        "ROLLSPAN_RUN_ID": "one",
    }
    need(file_system(hosts.folder) in RESERVING, f"journals cannot lie on {file_system(hosts.folder)}")
    victim = hosts.b.start(*hosts.program(KILLED), **environ)
    assert next(lines(victim)) == "up"
    hosts.b.end()
    hosts.a.run(*NEXT, **environ)
    assert fates(hosts) == {**LEFT, "next": ("accepted", None)}
    assert run_ids(records(hosts.data)) == {"one"}
    assert list((hosts.data / "journal").iterdir()) == []


ON = """
import sys, rollspan
sys.stderr = open(sys.argv[1], "w", buffering=1)  # where nothing comes between the answers
done = 0
for line in sys.stdin:
    if line == "record\\n":
        for done in range(done + 1, done + 101):
            with rollspan.session(task_id=done), rollspan.phase("generate"):
                pass
    print(rollspan.flush(60) if line == "flush\\n" else done, flush=True)
"""


class Talking(NamedTuple):
    """A job that does what it is told, and what it warns of."""

    process: subprocess.Popen[str]
    warnings: Path

    def tell(self, word: str) -> str:
        """Have it do something; its answer."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()
        return next(lines(self.process))

    def warned(self, words: str) -> bool:
        """Whether it has said so."""
        return words in self.warnings.read_text()


@pytest.fixture
def job(hosts: Hosts) -> Talking:
    """A job on the second host that sends to the first."""
    warnings = hosts.folder / "warnings"
    process = hosts.b.start(
        *hosts.program(ON), str(warnings), ROLLSPAN_ENABLED="1", ROLLSPAN_DIR=str(hosts.data),
        OTEL_EXPORTER_OTLP_ENDPOINT=ENDPOINT, OTEL_EXPORTER_OTLP_TIMEOUT="1", OTEL_METRICS_EXPORTER="none",
        ROLLSPAN_EXIT_TIMEOUT="1",
    )  # fmt: skip
    return Talking(process, warnings)


def cut(hosts: Hosts, job: Talking) -> None:
    """Pull the cable out at the receiver's end, after a hundred sessions; back when the job has noticed."""
    job.tell("record")
    assert job.tell("flush") == "True"
    hosts.a.ip("link", "set", "cable", "down")
    job.tell("record")
    wait_until(lambda: job.warned("cannot deliver"), "the job to notice")


def check_all_arrived(hosts: Hosts, received: Received, number: int) -> None:
    """Every record is in the file once; what came twice over the cable is the same to the last attribute."""
    assert [r["task_id"] for r in records(hosts.data)] == list(range(1, number + 1))
    arrived = received.records()
    assert {record["task_id"] for _, record in arrived} == {str(i) for i in range(1, number + 1)}
    once = {record["session_id"]: (resource, record) for resource, record in arrived}
    assert len(once) == number
    assert all(once[record["session_id"]] == (resource, record) for resource, record in arrived)


def test_a_cut_cable_stops_nothing(hosts: Hosts, received: Received, job: Talking) -> None:
    """While no packet goes the job records on and its file is complete; the receiver gets it all once the cable is in."""
    cut(hosts, job)
    for _ in range(4):
        job.tell("record")
    wait_until(lambda: written(hosts.data) == 600, "the file of records")
    assert len(received.tasks()) == 100
    hosts.a.ip("link", "set", "cable", "up")
    assert job.tell("flush") == "True"
    said(job.process)
    check_all_arrived(hosts, received, 600)
    assert "Nothing to recover" in hosts.b.run(*ROLLSPAN, "recover", str(hosts.data))


def test_a_job_that_ends_without_its_cable_is_recovered(
    hosts: Hosts, received: Received, job: Talking
) -> None:
    """A job ends although nobody takes its spans; `rollspan recover` on its host sends them when the cable is in."""
    cut(hosts, job)
    said(job.process)
    assert job.warned("not everything was delivered")
    assert len(records(hosts.data)) == 200
    assert len(received.tasks()) == 100
    hosts.a.ip("link", "set", "cable", "up")
    hosts.b.run(*ROLLSPAN, "recover", str(hosts.data))
    check_all_arrived(hosts, received, 200)
    assert "Nothing to recover" in hosts.b.run(*ROLLSPAN, "recover", str(hosts.data))


def test_what_lies_in_the_shared_folder_may_be_sent_from_any_host(
    hosts: Hosts, received: Received, job: Talking
) -> None:
    """What a job could not send at its end lies in its folder; a host that has it under another path sends it."""
    cut(hosts, job)
    said(job.process)
    here = hosts.folder / "mounted-here"
    here.mkdir()
    hosts.a.run("mount", "--bind", str(hosts.data), str(here))
    hosts.a.run(
        "mount", "-t", "tmpfs", "tmpfs", str(hosts.data)
    )  # the path that the job knew has nothing of it here
    hosts.a.run(*ROLLSPAN, "recover", str(here))
    check_all_arrived(hosts, received, 200)
    assert "Nothing to recover" in hosts.b.run(*ROLLSPAN, "recover", str(hosts.data))

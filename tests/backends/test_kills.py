"""The demo against the Collector, killed with SIGKILL again and again: no session that it began is lost."""

from __future__ import annotations

import random
import subprocess
import sys
import time
import uuid
from pathlib import Path

from tests.backends.comparing import by_id
from tests.backends.services import Collector, Jaeger, wait_until
from tests.conftest import CLEAN
from tests.faults.jobs import in_file

KILLS = 10
# Writes down each session when the demo has got it from rollspan's API, by nothing that rollspan has a part in.
BEGAN = """
import os, sys
import rollspan
from rollspan.cli.main import main

def write_down_in(path):
    began = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    start_session = rollspan.start_session
    def written_down(**given):
        session = start_session(**given)
        os.write(began, f"{session.session_id}\\n".encode())
        return session
    rollspan.start_session = written_down

if __name__ == "__main__":
    write_down_in(sys.argv.pop(1))
    main()
"""


def test_a_demo_killed_at_random_moments_loses_no_session(
    collector: Collector, jaeger: Jaeger, tmp_path: Path
) -> None:
    """Ten runs of the demo are killed and recovered: every session begun is in the file and in Jaeger, once."""
    service = f"killed-{uuid.uuid4().hex[:8]}"
    env = {**CLEAN, "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint, "OTEL_SERVICE_NAME": service}
    program = tmp_path / "program.py"
    program.write_text(BEGAN)
    moments = random.Random(uuid.uuid4().int)
    out = tmp_path / "out"
    began: set[str] = set()
    for run in range(KILLS):
        names = tmp_path / f"began-{run}"
        command = [sys.executable, program, names, "demo", "--steps", "100", "--out", out]
        with (tmp_path / "log").open("w") as log:
            process = subprocess.Popen(list(map(str, command)), env=env, stdout=log, stderr=log)
        try:
            wait_until(
                lambda f=names: f.exists() and f.stat().st_size > 0,
                "the demo's first rollout",  # type: ignore[misc]
            )
            time.sleep(moments.uniform(0.0, 5.0))
        finally:
            process.kill()
            process.wait()
        began |= set(names.read_text().split())
    done = subprocess.run(
        [sys.executable, "-m", "rollspan.cli.main", "recover", str(out)],
        env={**env, "ROLLSPAN_DIR": str(out)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    records = by_id(in_file(out))
    assert len(began) > 10 * KILLS
    assert records.keys() >= began
    assert len(records.keys() - began) <= KILLS  # begun, and killed before it could be written down
    assert {record["status"] for record in records.values()} <= {"accepted", "rejected", "failed", "dropped"}
    assert any(record.get("rejection_reason") == "process_died" for record in records.values())
    wait_until(lambda: jaeger.traces(service).keys() >= records.keys(), "every session to reach Jaeger")
    for trace_id, spans in jaeger.traces(service).items():
        assert len({span.span_id for span in spans}) == len(spans), f"{trace_id} has a span twice"

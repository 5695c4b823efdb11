"""What `rollspan timeline` says of what is in no file yet."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from rollspan.cli.main import main
from tests.conftest import CLEAN
from tests.perf.test_timeline import timeline

OPEN = """
import os, sys
import rollspan
from rollspan import perf
with perf.step(1), perf.trace_scope("done"):
    pass
with perf.step(2), perf.trace_scope("open"):
    with perf.trace_scope("inner"):
        pass
    perf.save(force=True)
    print("running", flush=True)
    sys.stdin.read() == "die" and os._exit(1)
"""


@pytest.mark.parametrize("above", [False, True])
def test_what_is_not_there_yet_is_told(tmp_path: Path, above: bool) -> None:
    """A run that goes on, and one that was killed, each say that something lacks, and how one sees or gets it."""
    data = tmp_path / "run/data"
    folder = tmp_path if above else data
    settings = {"ROLLSPAN_ENABLED": "1", "ROLLSPAN_DIR": str(data)}
    with subprocess.Popen(
        [sys.executable, "-c", OPEN], env=CLEAN | settings, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as job:
        assert job.stdout is not None
        assert job.stdout.readline() == b"running\n"
        going_on = timeline(folder)
        job.communicate(b"die")
    killed = timeline(folder)
    for result in (going_on, killed):
        assert result.exit_code == 0
        assert result.stdout.startswith("1 rank, 1 step, 0 sessions, 1 scope")
    (said,) = going_on.stderr.splitlines()
    assert said.startswith("rollspan timeline: 1 process still writes here: a step or session that is open")
    assert f"`rollspan show --open {data}`" in said
    (said,) = killed.stderr.splitlines()
    assert f"`rollspan recover {data}` delivers what is in there" in said
    assert CliRunner().invoke(main, ["recover", str(data)]).exit_code == 0
    assert timeline(folder).stdout.startswith("1 rank, 2 steps, 0 sessions, 3 scopes")
    assert timeline(folder).stderr == ""

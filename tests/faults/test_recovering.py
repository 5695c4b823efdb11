"""Recovery gives up nothing that an endpoint refused, and knows sessions by more than the ids that callers gave."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from rollspan.testing import OtlpReceiver
from rollspan.testing_receiver import Answer
from tests.faults.jobs import in_file, nothing_left, recover

Run = Callable[..., "subprocess.CompletedProcess[str]"]

DIES = """
import os, rollspan, sys
for i in range(10):
    with rollspan.session(session_id=f"own-{i}"):
        pass
if sys.argv[1] == "dies":
    os.kill(os.getpid(), 9)
"""
UNREACHABLE = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_METRICS_EXPORTER": "none"}


@pytest.mark.parametrize("status", [400, 401, 404])
def test_what_is_refused_in_recovery_stays(run_program: Run, tmp_path: Path, status: int) -> None:
    """A shell without the dead process's credentials costs nothing: the journal stays, and is delivered later."""
    data = tmp_path / "data"
    run_program(DIES, "dies", env=UNREACHABLE, check=False)
    with OtlpReceiver() as receiver:
        receiver.answer(Answer(status=status))
        refused = recover(data, "--endpoint", receiver.endpoint)
        assert refused.returncode == 1
        assert "to otlp" not in refused.stdout
        assert "something stays" in refused.stderr
        receiver.recover()
        assert recover(data, "--endpoint", receiver.endpoint).returncode == 0
        assert len(receiver.records()) == 10
    assert len(in_file(data)) == 10
    assert nothing_left(data)


def test_the_callers_ids_may_repeat_in_another_run(run_program: Run, tmp_path: Path) -> None:
    """Sessions of a killed run are recovered though an older run in the folder gave the same session ids."""
    run_program(DIES, "ends")
    run_program(DIES, "dies", check=False)
    assert recover(tmp_path / "data").returncode == 0
    assert len(in_file(tmp_path / "data")) == 20

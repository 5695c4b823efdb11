"""Every test records into a directory of its own; errors inside rollspan fail the test."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rollspan import health, switch
from rollspan.testing import OtlpReceiver, Recording, recording

CLEAN = {
    k: v
    for k, v in os.environ.items()
    if not k.startswith(("ROLLSPAN_", "OTEL_", "RANK", "WORLD_SIZE")) or k == "ROLLSPAN_NATIVE"
}


@pytest.fixture
def rec(tmp_path: Path) -> Iterator[Recording]:
    """Rollspan turned on below a temporary directory."""
    with recording(tmp_path / "data") as made:
        yield made


@pytest.fixture(autouse=True)
def _undecided() -> Iterator[None]:
    """No test inherits another's decision, counters, warnings, or what was handed on to children."""
    before = dict(os.environ)
    yield
    switch.undecide()
    health.reset()
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def receiver() -> Iterator[OtlpReceiver]:
    """A real OTLP receiver on the loopback."""
    with OtlpReceiver() as made:
        yield made


@pytest.fixture
def run_program(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run Python source as a program of its own, with ROLLSPAN_ENABLED=1 unless told otherwise."""

    def run(
        source: str,
        *arguments: str,
        env: dict[str, str] | None = None,
        launcher: tuple[str, ...] = (sys.executable,),
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        path = tmp_path / "program.py"
        path.write_text(source)
        environment = {
            **CLEAN,
            "ROLLSPAN_ENABLED": "1",
            "ROLLSPAN_DIR": str(tmp_path / "data"),
            "PYTHONWARNINGS": "default",
            **(env or {}),
        }
        done = subprocess.run(
            [*launcher, str(path), *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if check and done.returncode:
            raise AssertionError(f"exit {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    return run

"""A folder for the commands of a test, of which nothing is left running; a port."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.backends import services
from tests.clusters.jobs import Job


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    """A job in a folder of its own."""
    made = Job(tmp_path)
    try:
        yield made
    finally:
        made.end()


@pytest.fixture
def free_port() -> int:
    """A port that nobody listens on."""
    return services.free_port()

"""A receiver for each test, and an environment without any OTEL_ variable."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from rollspan import health
from rollspan.testing_receiver import OtlpReceiver

from .samples import KINDS, PROTOCOLS, endpoint


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No setting of the machine's, no counters of another test, and no error of ours that goes unseen."""
    for name in list(os.environ):
        if name.startswith(("OTEL_", "ROLLSPAN_")):
            monkeypatch.delenv(name)
    health.reset()
    monkeypatch.setattr(health, "raise_internal_errors", True)
    yield
    health.reset()


@pytest.fixture(params=PROTOCOLS)
def protocol(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=list(KINDS))
def signal(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def exporter(receiver: OtlpReceiver, protocol: str, signal: str) -> Any:
    return KINDS[signal](protocol=protocol, endpoint=endpoint(receiver, protocol))

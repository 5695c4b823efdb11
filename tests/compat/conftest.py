"""Each test has a tracer of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from rollspan import health
from rollspan.compat.areal import files, surface


@pytest.fixture(autouse=True)
def _own_tracer(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("ROLLSPAN_ENABLED", "ROLLSPAN_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(health, "raise_internal_errors", True)
    monkeypatch.setattr(files, "_waited_in_vain", False)
    yield
    surface.reset()

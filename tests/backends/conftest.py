"""One Collector and one Jaeger for a module of tests; both are real, see otel-collector/backends."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.backends.services import BINARIES, Collector, Jaeger
from tests.needs import need


@pytest.fixture(scope="session")
def built() -> None:
    """Skips where the binaries are not there."""
    missing = [name for name in ("otelcol", "jaeger") if not (BINARIES / name).exists()]
    need(not missing, f"{' and '.join(missing)} not built: make backends (needs Go)")


@pytest.fixture(scope="module")
def jaeger(built: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jaeger]:
    """A Jaeger that is up."""
    service = Jaeger(tmp_path_factory.mktemp("jaeger"))
    service.start()
    yield service
    service.stop()


@pytest.fixture(scope="module")
def collector(jaeger: Jaeger, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collector]:
    """A Collector in front of it, with the configuration that is shipped."""
    service = Collector(tmp_path_factory.mktemp("collector"), jaeger)
    service.start()
    yield service
    service.stop()

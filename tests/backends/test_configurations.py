"""The configurations that are shipped: valid, free of what loses data, and the same for Compose."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.backends.services import BINARIES, CONFIGURATIONS, ROOT, Collector, Jaeger


def loaded(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(path.read_text())
    return content


def test_the_collector_takes_its_configuration(built: None) -> None:
    """`otelcol validate` finds nothing wrong with collector.yaml."""
    command = [BINARIES / "otelcol", "validate", "--config", CONFIGURATIONS / "collector.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_nothing_in_it_loses_data_silently() -> None:
    """No batch processor, a queue on disk for what is sent, retries without an end, files that restarts keep."""
    config = loaded(CONFIGURATIONS / "collector.yaml")
    assert not any(name.startswith("batch") for name in config["processors"])
    for pipeline in config["service"]["pipelines"].values():
        assert pipeline["processors"][0] == "memory_limiter"
    sender = config["exporters"]["otlp_grpc/jaeger"]
    assert sender["sending_queue"]["storage"] in config["service"]["extensions"]
    assert sender["sending_queue"]["sizer"] == sender["sending_queue"]["batch"]["sizer"]
    assert sender["retry_on_failure"]["max_elapsed_time"] == 0
    files = [exporter for name, exporter in config["exporters"].items() if name.startswith("file/")]
    assert files
    assert all("rotation" in file and "append" not in file for file in files)


def test_names_are_those_of_this_version(built: None) -> None:
    """The binary that is built says the version that the pins and Compose name."""
    done = subprocess.run([BINARIES / "otelcol", "--version"], capture_output=True, text=True, check=True)
    version = done.stdout.split()[-1]
    assert version == loaded(CONFIGURATIONS / "backends" / "builder.yaml")["dist"]["version"]
    assert loaded(ROOT / "docker-compose.yml")["services"]["collector"]["image"].endswith(f":{version}")


def test_compose_fits_the_configuration(collector: Collector, jaeger: Jaeger) -> None:
    """Compose mounts collector.yaml, sets only variables that it has, and publishes the ports that it listens on."""
    services = loaded(ROOT / "docker-compose.yml")["services"]
    text = (CONFIGURATIONS / "collector.yaml").read_text()
    defaults = dict(re.findall(r"\$\{env:(\w+):-([^}]*)\}", text))
    ours: Mapping[str, str] = services["collector"]["environment"]
    assert ours.keys() <= defaults.keys()
    published = {port.split(":")[2].split()[0] for port in services["collector"]["ports"]}
    assert published == {value for name, value in defaults.items() if name.endswith("_PORT")}
    for service in services.values():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
        assert re.fullmatch(r"[\w./-]+:\d+\.\d+\.\d+", service["image"]), "images are pinned"
    mounted = [volume.split(":")[0] for volume in services["collector"]["volumes"]]
    assert (ROOT / mounted[0]).resolve() == (CONFIGURATIONS / "collector.yaml").resolve()
    assert ours["JAEGER_OTLP"].split(":")[0] in services


def test_the_queue_has_its_place_before_the_first_span(collector: Collector) -> None:
    """The Collector has made the folder of its queue when it says that it is healthy."""
    assert collector.healthy()
    assert any((collector.data / "queue").iterdir())


@pytest.mark.parametrize("name", ["collector.yaml", "jaeger.yaml"])
def test_every_setting_from_outside_has_a_default(name: str) -> None:
    """Each variable in a configuration may be left unset."""
    text = (CONFIGURATIONS / name).read_text()
    uses = re.findall(r"\$\{env:[^}]*\}", text)
    assert len(uses) > 3
    assert all(":-" in use for use in uses if "NAME" not in use)

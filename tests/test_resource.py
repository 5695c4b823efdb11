"""The resource attributes of a process."""

from __future__ import annotations

import os
import socket
import uuid
from typing import Any

import pytest

from rollspan import health, semconv
from rollspan.config import Settings
from rollspan.resource import DEFAULT_SERVICE_NAME, SERVICE_NAME, build_resource


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: Any) -> None:
    for name in list(os.environ):
        if name.startswith(("OTEL_", "ROLLSPAN_")):
            monkeypatch.delenv(name)


def test_the_sdks_own_attributes_are_there() -> None:
    """What `Resource.create()` finds is in it, with a service name that a backend can be searched for."""
    resource = build_resource(Settings())
    assert resource["telemetry.sdk.language"] == "python"
    assert resource[SERVICE_NAME] == DEFAULT_SERVICE_NAME


@pytest.mark.parametrize(
    "environ",
    [
        {"OTEL_SERVICE_NAME": "trainer"},
        {"OTEL_RESOURCE_ATTRIBUTES": "service.name=trainer"},
        {"OTEL_SERVICE_NAME": "trainer", "OTEL_RESOURCE_ATTRIBUTES": "service.name=other"},
    ],
)
def test_the_users_service_name_counts(environ: dict[str, str], monkeypatch: Any) -> None:
    """OTEL_SERVICE_NAME beats OTEL_RESOURCE_ATTRIBUTES, and both beat our default."""
    for name, text in environ.items():
        monkeypatch.setenv(name, text)
    assert build_resource(Settings())[SERVICE_NAME] == "trainer"


def test_the_users_attributes_are_kept(monkeypatch: Any) -> None:
    """OTEL_RESOURCE_ATTRIBUTES reaches the resource, decoded."""
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "team=rl%20core,deployment.environment.name=lab")
    resource = build_resource(Settings())
    assert resource["team"] == "rl core"
    assert resource["deployment.environment.name"] == "lab"


def test_the_host_is_named(monkeypatch: Any) -> None:
    """The resource has the host's name, so that backends tell hosts apart; a name that the user gives counts."""
    assert build_resource(Settings())["host.name"] == socket.gethostname()
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "host.name=pod-7")
    assert build_resource(Settings())["host.name"] == "pod-7"


def test_what_is_known_of_the_run_is_told_and_nothing_else() -> None:
    """Run, system, algorithm, world size and role stand in it where they are known, else not at all."""
    known = build_resource(
        Settings(run_id="r1", system="trl", algorithm="grpo", world_size=8, role="actor"),
    )
    assert known["rl.run.id"] == "r1"
    assert known["rl.system"] == "trl"
    assert known["rl.algorithm"] == "grpo"
    assert known["rollout.world_size"] == 8
    assert known["rollout.role"] == "actor"
    unknown = build_resource(Settings())
    assert not [key for key in unknown if key.startswith(("rl.", "rollout."))]
    assert None not in unknown.values()


def test_each_call_gives_a_new_instance() -> None:
    """A process and a forked child that asks again differ in nothing but `service.instance.id`."""
    first, second = build_resource(Settings(run_id="r")), build_resource(Settings(run_id="r"))
    assert uuid.UUID(str(first[semconv.INSTANCE_ID])) != uuid.UUID(str(second[semconv.INSTANCE_ID]))
    assert first | {semconv.INSTANCE_ID: ""} == second | {semconv.INSTANCE_ID: ""}


def test_an_instance_id_of_the_user_begins_each_processes_own(monkeypatch: Any) -> None:
    """All processes inherit the user's id, so each one adds to it."""
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.instance.id=pod%207")
    first, second = (str(build_resource(Settings())[semconv.INSTANCE_ID]) for _ in range(2))
    assert first.startswith("pod 7-")
    assert second.startswith("pod 7-")
    assert first != second


def test_the_jobs_random_stream_is_not_advanced() -> None:
    """Building a resource takes nothing from `random`."""
    import random

    state = random.getstate()
    build_resource(Settings())
    assert random.getstate() == state


def test_a_failing_detector_costs_its_attributes_alone(monkeypatch: Any) -> None:
    """When the SDK cannot build a resource, service, instance and run are still told."""

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("detector")

    health.reset()
    monkeypatch.setattr("rollspan.resource.Resource.create", fail)
    monkeypatch.setattr(health, "raise_internal_errors", False)
    resource = build_resource(Settings(run_id="r"))
    assert resource[SERVICE_NAME] == DEFAULT_SERVICE_NAME
    assert resource["rl.run.id"] == "r"
    assert health.counters()["internal_errors"] == 1
    health.reset()

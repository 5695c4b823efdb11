"""Who is speaking: the resource attributes of this process, the same on its spans, records and metrics."""

from __future__ import annotations

import os
import socket
import uuid
from typing import TYPE_CHECKING

from opentelemetry.sdk.resources import OTELResourceDetector, Resource

from . import health, semconv

if TYPE_CHECKING:
    from .config import Settings
    from .spandata import AttributeValue

SERVICE_NAME = "service.name"
DEFAULT_SERVICE_NAME = "rollspan"
"""The service's name where OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES give none."""


def build_resource(settings: Settings) -> dict[str, AttributeValue]:
    """Attributes of this process, with a `service.instance.id` that is new in every call.

    Call it once for each process, and again in a forked child: processes under one instance id overwrite
    each other's metrics. An id given in OTEL_RESOURCE_ATTRIBUTES, which all processes of a job inherit,
    stays as the beginning of each one's own.
    """
    attributes = _standard()
    if str(attributes.get(SERVICE_NAME, "")).partition(":")[0] in ("", "unknown_service"):
        attributes[SERVICE_NAME] = DEFAULT_SERVICE_NAME
    attributes.setdefault("host.name", socket.gethostname())
    attributes[semconv.PROCESS_ID] = os.getpid()
    attributes[semconv.INSTANCE_ID] = _instance_id(attributes.get(semconv.INSTANCE_ID))
    ours: dict[str, AttributeValue | None] = {
        semconv.RUN_ID: settings.run_id or None,
        semconv.SYSTEM: settings.system,
        semconv.ALGORITHM: settings.algorithm,
        semconv.WORLD_SIZE: settings.world_size,
        semconv.ROLE: settings.role,
    }
    attributes.update({key: value for key, value in ours.items() if value is not None})
    return attributes


def _standard() -> dict[str, AttributeValue]:
    """What the SDK finds out by itself and in OTEL_RESOURCE_ATTRIBUTES and OTEL_SERVICE_NAME."""
    try:
        found = Resource.create().attributes
    except Exception as error:  # noqa: BLE001 - a detector that the user asked for and that fails costs its attributes alone
        is_ending = isinstance(error, RuntimeError) and "shutdown" in str(error)  # then no thread is started
        if not is_ending:
            health.internal_error("resource")
        found = OTELResourceDetector().detect().attributes
    return {
        key: list(value) if isinstance(value, tuple | list) else value  # type: ignore[misc]
        for key, value in found.items()
        if key
    }


def _instance_id(given: AttributeValue | None) -> str:
    # Not uuid.uuid4(), which a job's own tests may have replaced.
    own = str(uuid.UUID(bytes=os.urandom(16), version=4))
    pairs = (part.partition("=") for part in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "").split(","))
    by_user = any(key.strip() == semconv.INSTANCE_ID and value.strip() for key, _, value in pairs)
    return f"{given}-{own[:8]}" if by_user and given else own

"""Where finished sessions go. Importing this loads no network library and no OpenTelemetry SDK."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from rollspan import health
from rollspan.spandata import AttributeValue

from . import third_party
from .base import Exporter, MetricsSink
from .files import DataFiles
from .otlp import RecordExporter, TraceExporter, protocol_of
from .third_party import ThirdPartyExporter, UnknownExporterError

_OTLP_PROTOCOLS = {"otlp": None, "otlp_proto_http": "http/protobuf", "otlp_proto_grpc": "grpc"}


class ExporterSettings(Protocol):
    """What is read of the settings."""

    @property
    def traces_exporters(self) -> tuple[str, ...]: ...
    @property
    def records_exporters(self) -> tuple[str, ...]: ...
    @property
    def metrics_exporters(self) -> tuple[str, ...]: ...
    @property
    def endpoint(self) -> str | None: ...
    @property
    def dir(self) -> Path: ...
    @property
    def rank(self) -> int: ...
    @property
    def file_mode(self) -> int: ...
    @property
    def file_max_bytes(self) -> int: ...


def build(settings: ExporterSettings) -> list[Exporter]:
    """The files, and an exporter for each name in the settings. A name nobody knows is reported once."""
    file = DataFiles(settings.dir, settings.rank, mode=settings.file_mode, max_bytes=settings.file_max_bytes)
    built: list[Exporter] = [file]
    for signal, names in (("traces", settings.traces_exporters), ("records", settings.records_exporters)):
        for name in names:
            try:
                built.append(make(name, signal, settings.endpoint))
            except UnknownExporterError as error:
                health.warn_once(f"exporters.unknown.{signal}.{name}", "rollspan: %s", error)
    return built


class Further(NamedTuple):
    """An exporter that a process has beside those of its settings."""

    name: str
    make: Callable[[], Exporter]
    about: Callable[[], Any]
    """What whoever recovers this process has to know of it, fit for JSON; nothing where it has nothing to write."""


_further: list[Further] = []
_FURTHER = {"areal": "rollspan.compat.areal.files"}
"""By name, the module whose `left(about)` makes the exporter of a dead process."""


def also(further: Further) -> None:
    """Have this process deliver to one more exporter, from now on. It is made anew where delivering begins anew."""
    _further.append(further)


def further(after: int) -> list[Exporter]:
    """Those of `also`, but for the first `after`."""
    return [each.make() for each in _further[after:]]


def about_further() -> dict[str, Any]:
    """What is to be known of all of them."""
    return {each.name: about for each in _further if (about := each.about())}


def further_of(about: Mapping[str, Any]) -> list[Exporter]:
    """Those of a dead process, of which `about_further` said this."""
    made: list[Exporter] = []
    for name, said in about.items():
        try:
            made.append(importlib.import_module(_FURTHER[name]).left(said))
        except Exception:  # noqa: BLE001 - another version may have written it; the others get theirs
            health.internal_error(f"exporters.further.{name}")
    return made


# Turns traces or records into what others' exporters take.
_WHAT_OTHERS_TAKE = {"traces": ".sdk_spans", "records": ".sdk_logs", "metrics": ".metrics"}


def load(settings: ExporterSettings) -> None:
    """Load the modules that exporting needs, so that none is being loaded while batches are sent.

    What cannot be loaded is reported when it is used.
    """
    wanted = [("traces", "traces", name) for name in settings.traces_exporters]
    wanted += [("records", "logs", name) for name in settings.records_exporters]
    wanted += [("metrics", "metrics", name) for name in settings.metrics_exporters]
    for signal, of_otlp, name in wanted:
        with contextlib.suppress(Exception):
            if name in _OTLP_PROTOCOLS:
                ways = importlib.import_module(".transport", __name__).WAYS
                ways[_OTLP_PROTOCOLS[name] or protocol_of(of_otlp)].load(of_otlp)
            else:
                third_party.find(name, signal).load()
                importlib.import_module(_WHAT_OTHERS_TAKE[signal], __name__)
    with contextlib.suppress(Exception):
        importlib.import_module(".metrics", __name__)
        if settings.metrics_exporters:
            importlib.import_module(".metrics_pipeline", __name__)
        if settings.records_exporters:  # loading it starts threads, which is not possible at Python's exit
            importlib.import_module("opentelemetry.sdk._logs")


def make(name: str, signal: str, endpoint: str | None = None) -> Exporter:
    """The exporter of that name for `signal` (`traces` or `records`). Raises UnknownExporterError."""
    if name in _OTLP_PROTOCOLS:
        kind = TraceExporter if signal == "traces" else RecordExporter
        return kind(protocol=_OTLP_PROTOCOLS[name], endpoint=endpoint)
    return ThirdPartyExporter(third_party.find(name, signal), signal)


def build_metrics(
    settings: ExporterSettings,
    resource: Mapping[str, AttributeValue],
    *,
    open_sessions: Callable[[], int],
    health: Callable[[], Mapping[str, float]],
) -> MetricsSink:
    """Metrics of this process, see `metrics.RolloutMetrics`."""
    from .metrics import RolloutMetrics  # noqa: PLC0415

    return RolloutMetrics(
        settings.metrics_exporters,
        resource,
        open_sessions=open_sessions,
        health=health,
        endpoint=settings.endpoint,
    )

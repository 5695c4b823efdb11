"""Metrics of rollouts and of rollspan itself.

| instrument | unit | attributes |
|---|---|---|
| `rollout.phase.duration` histogram | s | `rollout.phase`: each work phase, each wait, `total` |
| `rollout.sessions` counter | {session} | `rollout.status`, `rollout.reason` |
| `rollout.sessions.open` up-down counter | {session} | |
| `rollout.late_spans` counter | {span} | |
| `rollspan.lost` counter | {item} | `rollspan.exporter`, `rollspan.reason` |
| `rollspan.delivered`, `rollspan.retries` counters | {item} | `rollspan.exporter` |
| `rollspan.queued` gauge | {item} | `rollspan.exporter` |
| `rollspan.events` counter | {event} | `rollspan.event`: `internal_errors` and all else that is counted |

Where somebody has set an SDK MeterProvider, it is used; else there is one of our own, which is never set
as the global one. Nothing of the SDK is loaded where there are neither exporters nor such a provider.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from rollspan import __version__, semconv
from rollspan import health as own_health
from rollspan.spandata import AttributeValue

from .helper import Helper
from .otlp import timeout_of

if TYPE_CHECKING:
    from .helper import Job
    from .metrics_pipeline import Pipeline

DEFAULT_INTERVAL: Final = 60.0
_EXPORT_TIMEOUT: Final = 10.0
_BOUNDARIES: Final = (
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600,
)  # fmt: skip
_WAITS: Final = (
    (f"{semconv.QUEUE_WAIT}_s", semconv.QUEUE_WAIT),
    (f"{semconv.RUNNER_WAIT}_s", semconv.RUNNER_WAIT),
    (f"{semconv.POST_WAIT}_s", semconv.POST_WAIT),
    ("total_s", "total"),
)
_SHAPES: Final = ("lost.", "delivered.", "retries.", "queued.")


class RolloutMetrics:
    """A MetricsSink. Has no thread of its own but the one that waits for the network."""

    def __init__(
        self,
        exporters: Sequence[str],
        resource: Mapping[str, AttributeValue],
        *,
        open_sessions: Callable[[], int] = lambda: 0,
        health: Callable[[], Mapping[str, float]] = dict,
        endpoint: str | None = None,
        interval: float | None = None,
    ) -> None:
        """`exporters`: names as in OTEL_METRICS_EXPORTER; `interval`: seconds, by default as the environment says.

        `health` gives counters by name: `lost.<exporter>.<reason>`, `delivered.<exporter>`,
        `retries.<exporter>`, `queued.<exporter>`; any other name is an event.
        """
        self._names = tuple(exporters)
        self._resource = resource
        self._open_sessions = open_sessions
        self._health = health
        self._endpoint = endpoint
        self._interval = interval if interval is not None else interval_from_environment()
        self._next = time.monotonic() + self._interval
        self._provider: Any = None
        self._pipeline: Pipeline | None = None
        self._instruments: tuple[Any, Any, Any] | None = None
        self._helper = Helper("rollspan-metrics")
        self._job: Job | None = None
        self._closed = False

    def wanted(self) -> bool:
        """See MetricsSink."""
        try:
            return self._current() is not None
        except Exception:  # noqa: BLE001
            own_health.internal_error("metrics.wanted")
            return False

    def record(self, record: Mapping[str, Any]) -> None:
        """See MetricsSink."""
        try:
            instruments = self._current()
            if instruments is not None:
                _count(record, *instruments)
        except Exception:  # noqa: BLE001
            own_health.internal_error("metrics.record")

    def tick(self) -> None:
        """See MetricsSink."""
        now = time.monotonic()
        if now < self._next or self._closed:
            return
        self._next = now + self._interval
        try:
            if self._current() is not None and (self._job is None or self._job.done.is_set()):
                self._begin(max(_EXPORT_TIMEOUT, timeout_from_environment()))
        except Exception:  # noqa: BLE001
            own_health.internal_error("metrics.tick")

    def flush(self, timeout: float) -> bool:
        """See MetricsSink. With somebody else's provider, exporting is that provider's affair."""
        try:
            if self._closed or self._current() is None or self._pipeline is None:
                return True
            deadline = time.monotonic() + timeout
            if self._job is not None and not self._job.done.wait(timeout):
                return False
            job = self._begin(max(deadline - time.monotonic(), 0.001))
            return job is None or (
                job.done.wait(max(deadline - time.monotonic(), 0.0)) and job.result is True
            )
        except Exception:  # noqa: BLE001
            own_health.internal_error("metrics.flush")
            return False

    def close(self, timeout: float) -> None:
        """See MetricsSink."""
        if self._closed:
            return
        deadline = time.monotonic() + timeout
        self.flush(timeout)
        self._closed = True
        pipeline, self._pipeline = self._pipeline, None
        if pipeline is not None and (self._job is None or self._job.done.is_set()):
            self._helper.submit(pipeline.close).done.wait(max(deadline - time.monotonic(), 0.1))
        self._helper.close()

    def _begin(self, timeout: float) -> Job | None:
        pipeline = self._pipeline
        if pipeline is None:
            return None
        self._job = self._helper.submit(lambda: pipeline.export(timeout))
        return self._job

    def _current(self) -> tuple[Any, Any, Any] | None:
        """The instruments of the provider that counts now; None where nobody wants metrics."""
        theirs = _global_provider()
        if theirs is not None and theirs is not self._provider:  # set only now, maybe
            if self._pipeline is not None:
                self._pipeline.close()
                self._pipeline = None
            self._use(theirs)
        elif self._provider is None and self._names and not self._closed:
            from .metrics_pipeline import Pipeline  # noqa: PLC0415 - loads the SDK

            self._pipeline = Pipeline(self._names, self._resource, self._endpoint)
            if not self._pipeline.empty:
                self._use(self._pipeline.provider)
            self._names = ()  # not again, whatever came of it
        return self._instruments

    def _use(self, provider: Any) -> None:
        self._provider = provider
        meter = provider.get_meter(semconv.SCOPE_NAME, __version__)
        self._instruments = (
            meter.create_histogram(
                "rollout.phase.duration",
                unit="s",
                description="Duration of the phases and waits of a session, and of the whole",
                explicit_bucket_boundaries_advisory=_BOUNDARIES,
            ),
            meter.create_counter("rollout.sessions", unit="{session}", description="Sessions that ended"),
            meter.create_counter(
                "rollout.late_spans", unit="{span}", description="Phases still open when their session ended"
            ),
        )
        meter.create_observable_up_down_counter(
            "rollout.sessions.open", [self._observe_open], unit="{session}", description="Sessions under way"
        )
        for name, about in (
            ("lost", "Items lost for good"),
            ("delivered", "Items delivered"),
            ("retries", "Attempts that will be repeated"),
        ):
            meter.create_observable_counter(
                f"rollspan.{name}", [self._observer(f"{name}.")], unit="{item}", description=about
            )
        meter.create_observable_gauge(
            "rollspan.queued", [self._observer("queued.")], unit="{item}", description="Items that wait"
        )
        meter.create_observable_counter(
            "rollspan.events",
            [self._observer("")],
            unit="{event}",
            description="What rollspan counts of itself",
        )

    def _observe_open(self, options: object) -> Iterator[Any]:
        from opentelemetry.metrics import Observation  # noqa: PLC0415

        try:
            yield Observation(self._open_sessions())
        except Exception:  # noqa: BLE001
            own_health.internal_error("metrics.open_sessions")

    def _observer(self, prefix: str) -> Callable[[object], list[Any]]:
        def observe(options: object) -> list[Any]:
            from opentelemetry.metrics import Observation  # noqa: PLC0415

            try:
                counters = self._health().items()
                return [Observation(n, attributes) for k, n in counters if (attributes := _place(k, prefix))]
            except Exception:  # noqa: BLE001
                own_health.internal_error("metrics.health")
                return []

        return observe


def _place(name: str, prefix: str) -> dict[str, str] | None:
    """The attributes under which a counter stands in the instrument for `prefix` ("": all the others)."""
    if not prefix:
        return None if name.startswith(_SHAPES) else {"rollspan.event": name}
    if not name.startswith(prefix):
        return None
    exporter = name.removeprefix(prefix)
    if prefix != "lost.":
        return {"rollspan.exporter": exporter}
    exporter, _, reason = exporter.rpartition(".")
    return {"rollspan.exporter": exporter, "rollspan.reason": reason}


def _count(record: Mapping[str, Any], duration: Any, sessions: Any, late: Any) -> None:
    attributes = {semconv.STATUS: record.get("status", "")}
    if reason := record.get("rejection_reason"):
        attributes[semconv.REASON] = reason
    sessions.add(1, attributes)
    if number := record.get("late_spans"):
        late.add(number)
    for field, name in _WAITS:
        seconds = record.get(field)
        if seconds is not None:
            duration.record(seconds, {semconv.PHASE: name})
    for name, intervals in record.get("phases", {}).items():
        for interval in intervals:
            duration.record(max(interval["end_ts"] - interval["start_ts"], 0.0), {semconv.PHASE: name})


def _global_provider() -> Any:
    """The SDK MeterProvider that somebody has set, or None."""
    sdk = sys.modules.get("opentelemetry.sdk.metrics")
    if sdk is None:  # so nobody can have made one
        return None
    from opentelemetry.metrics import get_meter_provider  # noqa: PLC0415

    provider = get_meter_provider()
    return provider if isinstance(provider, sdk.MeterProvider) else None


def timeout_from_environment() -> float:
    """Seconds that the environment gives an export: OTEL_METRIC_EXPORT_TIMEOUT (milliseconds), or the exporter's own."""
    try:
        seconds = float(os.environ.get("OTEL_METRIC_EXPORT_TIMEOUT", "")) / 1000
    except ValueError:
        seconds = 0.0
    return max(seconds, timeout_of("metrics"))


def interval_from_environment() -> float:
    """Seconds between exports, from OTEL_METRIC_EXPORT_INTERVAL (milliseconds)."""
    text = os.environ.get("OTEL_METRIC_EXPORT_INTERVAL", "").strip()
    try:
        seconds = float(text) / 1000 if text else DEFAULT_INTERVAL
    except ValueError:
        seconds = math.nan
    if seconds > 0:
        return seconds
    own_health.warn_once(
        "setting.OTEL_METRIC_EXPORT_INTERVAL",
        "rollspan: OTEL_METRIC_EXPORT_INTERVAL=%r: expected milliseconds, more than 0; using %d",
        text,
        DEFAULT_INTERVAL * 1000,
    )
    return DEFAULT_INTERVAL

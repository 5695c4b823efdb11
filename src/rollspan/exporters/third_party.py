"""Exporters that others made: `console`, and whatever is installed as an entry point of OpenTelemetry's."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, Final

from rollspan.finished import FinishedTrace
from rollspan.spandata import AttributeValue

from .base import Delivered, Refused, Result, Retry
from .helper import Helper

if TYPE_CHECKING:
    from .helper import Job

GROUPS: Final = {
    "traces": "opentelemetry_traces_exporter",
    "records": "opentelemetry_logs_exporter",
    "metrics": "opentelemetry_metrics_exporter",
}
_VARIABLES: Final = {
    "traces": "OTEL_TRACES_EXPORTER",
    "records": "OTEL_LOGS_EXPORTER",
    "metrics": "OTEL_METRICS_EXPORTER",
}


class UnknownExporterError(ValueError):
    """No exporter of that name is installed; the text says which are, and what to do."""


def find(name: str, signal: str) -> EntryPoint:
    """The entry point of that name for `signal` (traces, records or metrics). Raises UnknownExporterError."""
    found = entry_points(group=GROUPS[signal])
    for point in found:
        if point.name == name:
            return point
    known = sorted({point.name for point in found} | {"otlp", "none"})
    raise UnknownExporterError(
        f"{_VARIABLES[signal]}: no exporter {name!r} is installed for {signal}; there are {', '.join(known)}. "
        f"Install the package that provides it (entry point group {GROUPS[signal]}), or name another."
    )


class ThirdPartyExporter:
    """Gives the SDK's own objects to somebody else's exporter, which is made with the first batch."""

    def __init__(self, point: EntryPoint, signal: str) -> None:
        """`signal`: `traces` or `records`."""
        self.name = f"{point.name}.{signal}"
        self.timeout = 0.0
        self._point = point
        self._signal = signal
        self._exporter: Any = None
        self._helper = Helper(f"rollspan-{self.name}")
        self._late: Job | None = None

    def export(
        self, traces: Sequence[FinishedTrace], resource: Mapping[str, AttributeValue], timeout: float
    ) -> Result:
        """See Exporter; anything but the exporter's own SUCCESS is a Retry."""
        deadline = time.monotonic() + timeout
        # Exporters need not bear two calls at once: one that was late is waited for.
        if self._late is not None and not self._late.done.wait(timeout):
            return Retry("an earlier call has not come back yet")
        self._late = None
        if self._exporter is None:
            try:
                self._exporter = self._point.load()()
            except Exception as error:  # noqa: BLE001 - not ours
                reason = f"{self._point.value} cannot be made: {type(error).__name__}: {error}"
                return Refused(reason, unsupported=True)
        objects = self._objects(traces, resource)
        if not objects:
            return Delivered()
        job = self._helper.submit(lambda: self._call(objects))
        if not job.done.wait(max(deadline - time.monotonic(), 0.001)):
            self._late = job
            return Retry(f"no answer within {timeout:.3g} s")
        if job.error is not None:
            return Retry(f"{type(job.error).__name__}: {job.error}")
        result: Result = job.result
        return result

    def close(self, timeout: float = 10.0) -> None:
        """Shut the exporter down, unless a call of it still hangs; not waiting longer than `timeout`."""
        exporter, self._exporter = self._exporter, None
        if exporter is not None and (self._late is None or self._late.done.is_set()):
            try:
                self._helper.call(exporter.shutdown, timeout)
            except Exception:  # noqa: BLE001 - not ours, and over
                from rollspan import health  # noqa: PLC0415

                health.count("exporters.shutdown_failed")
        self._helper.close()

    def abandon(self) -> None:
        """See Exporter. Nobody knows what somebody else's exporter would do."""

    def _objects(self, traces: Sequence[FinishedTrace], resource: Mapping[str, AttributeValue]) -> list[Any]:
        if self._signal == "traces":
            from .sdk_spans import sdk_spans  # noqa: PLC0415 - loads the SDK

            return list(sdk_spans(traces, resource))
        from .sdk_logs import sdk_logs  # noqa: PLC0415 - loads the SDK

        return list(sdk_logs(traces, resource))

    def _call(self, objects: list[Any]) -> Result:
        from .quiet import caught_logs, untraced  # noqa: PLC0415 - loads OpenTelemetry

        with untraced(), caught_logs() as said:
            result = self._exporter.export(objects)
        if getattr(result, "name", "") == "SUCCESS":
            return Delivered()
        return Retry(said[-1] if said else f"{self._point.value} answered {getattr(result, 'name', result)}")

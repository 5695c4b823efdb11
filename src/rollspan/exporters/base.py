"""What the worker asks of an exporter, and what an exporter may answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias

from rollspan.finished import FinishedTrace
from rollspan.spandata import AttributeValue


class Delivered(NamedTuple):
    """Done with. `rejected` items (spans, or records) were refused for good, and `reason` says why."""

    rejected: int = 0
    reason: str = ""


class Retry(NamedTuple):
    """Nothing is lost; try the same batch again, `after` so many seconds where the other end said so.

    Part of the batch may have arrived: it is sent again identical to the byte.
    """

    reason: str
    after: float | None = None


class Refused(NamedTuple):
    """No repetition mends it. `unsupported`: the other end does not take this signal at all."""

    reason: str
    unsupported: bool = False


Result: TypeAlias = Delivered | Retry | Refused


class Exporter(Protocol):
    """Takes batches to one place. Called by one thread at a time; does nothing before the first `export`."""

    name: str
    """For example `file`, `otlp.traces`, `otlp.records`, `console.traces`."""

    timeout: float
    """Seconds that its other end may need for one batch; 0 where it has no wish of its own."""

    def export(
        self, traces: Sequence[FinishedTrace], resource: Mapping[str, AttributeValue], timeout: float
    ) -> Result:
        """One attempt, over within about `timeout` seconds."""

    def close(self, timeout: float = 10.0) -> None:
        """Let go of files and connections, within about `timeout` seconds. May be called twice."""

    def abandon(self) -> None:
        """In a forked child: let go of what is open, without a word to the other end, which is the parent's."""


class MetricsSink(Protocol):
    """Takes records and turns them into metrics."""

    def wanted(self) -> bool:
        """Whether anybody reads metrics, so that `record` does anything. Never raises."""

    def record(self, record: Mapping[str, Any]) -> None:
        """Count one session. Never raises and never waits for the network."""

    def tick(self) -> None:
        """Export if the interval is over. Never raises and never waits for the network."""

    def flush(self, timeout: float) -> bool:
        """Export now; whether that was done within `timeout` seconds."""

    def close(self, timeout: float) -> None:
        """Export a last time within `timeout` seconds and let go of connections."""

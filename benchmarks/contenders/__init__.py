"""Who takes part. A contender's module is imported in the process that it runs in, and nowhere else."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, Protocol

from benchmarks.workload import SPANS, Rollout


class Contender(Protocol):
    """What a contender's module makes, in its own process, of a folder to write to and an OTLP endpoint."""

    def session(self, rollout: Rollout) -> None:
        """Trace one rollout, from submission until it is consumed."""

    def finish(self) -> None:
        """Bring everything traced so far to where it belongs, and return when it is there."""

    def versions(self) -> dict[str, str]:
        """Distributions that are measured, and their versions."""


class Entry(NamedTuple):
    """A contender as the driver knows it, with what must have arrived for each session."""

    name: str
    what: str
    """what it makes of a session, in a few words"""
    lines: int
    """lines in its file"""
    spans: int = 0
    """spans at the OTLP endpoint"""
    records: int = 0
    """log events at the OTLP endpoint"""


ENTRIES = (
    Entry("rollspan-file", "file alone", lines=1),
    Entry("rollspan-otlp", "file + OTLP traces, records", lines=1, spans=SPANS, records=1),
    Entry("rollspan-python", "as otlp, without parts in C", lines=1, spans=SPANS, records=1),
    Entry("sdk-otlp", "OTLP traces, no record", lines=0, spans=SPANS),
    Entry("areal", "file, no attributes", lines=1),
)
AREAL = "areal"


def make(name: str, folder: Path, endpoint: str) -> Contender:
    """The contender of that name. Raises KeyError."""
    # Each imports what the others' environments do not have.
    if name == AREAL:
        from .areal_tracer import ArealTracer  # noqa: PLC0415

        return ArealTracer(folder)
    if name == "sdk-otlp":
        from .sdk_tracer import SdkTracer  # noqa: PLC0415

        return SdkTracer(endpoint)
    from .rollspan_tracer import RollspanTracer  # noqa: PLC0415

    ends = {"rollspan-file": None, "rollspan-otlp": endpoint, "rollspan-python": endpoint}
    return RollspanTracer(folder, ends[name], native=name != "rollspan-python")

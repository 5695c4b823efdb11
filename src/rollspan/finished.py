"""A trace that is over, as the worker hands it to the exporters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .rows import SessionRows
from .spandata import SpanData


class FinishedTrace:
    """What the worker hands to the exporters: one session (or one step) that is over.

    `spans` has the root first. `record` is the flat record of a session and None for a step.
    `export_spans` is False where the spans leave another way (a user's own TracerProvider) or the
    sampler left the trace out; the record goes out all the same. `rows` are the spans of a usual session as
    its lines have them, from which `spans` are made for whoever asks.
    """

    __slots__ = ("_spans", "export_spans", "record", "rows")

    def __init__(
        self,
        spans: Sequence[SpanData] | None,
        record: dict[str, Any] | None,
        export_spans: bool = True,
        rows: SessionRows | None = None,
    ) -> None:
        self._spans = spans
        self.record = record
        self.export_spans = export_spans
        self.rows = rows

    @property
    def spans(self) -> Sequence[SpanData]:
        """In the plain form, root first."""
        if self._spans is None:  # two exporters' threads may both make them: they are equal
            assert self.rows is not None
            assert self.record is not None
            self._spans = self.rows.spans(self.record)
        return self._spans

    @property
    def span_count(self) -> int:
        """How many spans there are, without making them."""
        return len(self.spans) if self.rows is None else 1 + len(self.rows.starts)

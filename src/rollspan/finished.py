"""A trace that is over, as the worker hands it to the exporters."""

from __future__ import annotations

from collections.abc import Sequence

from .journal import START, Position
from .record import Record
from .rows import SessionRows
from .shapes import Shape, Values
from .spandata import SpanData


class FinishedTrace:
    """What the worker hands to the exporters: one session (or one step) that is over.

    `export_spans` is False where the spans leave another way (a user's own TracerProvider) or the
    sampler left the trace out; the record goes out all the same. A session of a known shape has `shape` and
    `values`, of which most exporters make bytes; for whoever asks, `record` and `spans` are made of them. `at` is
    the position behind its last line.
    """

    __slots__ = ("_record", "_rows", "_spans", "at", "export_spans", "shape", "values")

    def __init__(
        self,
        spans: Sequence[SpanData] | None,
        record: Record | None,
        export_spans: bool = True,
        rows: SessionRows | None = None,
        shape: Shape | None = None,
        values: Values = (),
    ) -> None:
        """`rows`, or `shape` and `values`: a session's spans as its lines have them, where `spans` were not made."""
        self._spans = spans
        self._record = record
        self._rows = rows
        self.export_spans = export_spans
        self.shape = shape
        self.values = values
        self.at: Position = START

    @property
    def has_record(self) -> bool:
        """Whether it is a session, without making its record."""
        return self.shape is not None or self._record is not None

    @property
    def is_work(self) -> bool:
        """Whether it is a step or a stretch of the process: no session, and no spans of another process's."""
        return (
            self.shape is None and self._record is None and bool(self.spans) and not self.spans[0].parent_id
        )

    @property
    def record(self) -> Record | None:
        """The flat record of a session, and None for a step. It may be made anew each time."""
        return self._record if self.shape is None else self.shape.record(*self.values)

    @property
    def spans(self) -> Sequence[SpanData]:
        """In the plain form, root first."""
        if self._spans is None:  # two exporters' threads may both make them: they are equal
            rows = self._rows if self.shape is None else self.shape.rows(self.values)
            record = self.record
            assert rows is not None
            assert record is not None
            self._spans = rows.spans(record)
        return self._spans

    @property
    def span_count(self) -> int:
        """How many spans there are, without making them."""
        if self._spans is not None:
            return len(self._spans)
        rows = self._rows if self.shape is None else self.shape.sample
        assert rows is not None
        return 1 + len(rows.starts)

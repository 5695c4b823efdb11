"""The file of records, `sessions-r<rank>.jsonl`: one JSON object a line, each session once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rollspan.finished import FinishedTrace
from rollspan.record import to_line

from .ownfile import RECORDS, OwnFile


class RecordFile(OwnFile):
    """A part of the exporter `file`."""

    def __init__(self, directory: Path, rank: int, *, mode: int = 0o600, max_bytes: int = 0) -> None:
        """See `OwnFile`."""
        super().__init__(directory, rank, RECORDS, mode=mode, max_bytes=max_bytes)

    def write(self, traces: Sequence[FinishedTrace], resource: object = None) -> None:
        """Append the records of `traces`. Raises OSError, and then nothing of them was written."""
        # To keep each line apart would cost more than all else here: its memory is new each time.
        lines = bytearray()
        for trace in traces:
            if (record := trace.record) is not None:
                lines += to_line(record)
        if lines:
            self.ready(len(lines)).append(lines)

"""The exporter `file`: sessions go to the file of records, everything else to that of timed scopes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rollspan.finished import FinishedTrace
from rollspan.journal import START
from rollspan.spandata import AttributeValue

from .base import Delivered, Result, Retry
from .jsonl import RecordFile
from .perf_file import PerfFile


class DataFiles:
    """Nothing is created before there is something to write."""

    name = "file"
    timeout = 0.0

    def __init__(self, directory: Path, rank: int, *, mode: int = 0o600, max_bytes: int = 0) -> None:
        """`mode`: permissions of the files, whatever the umask; `max_bytes`: rotate beyond, 0 for never."""
        self._records = RecordFile(directory, rank, mode=mode, max_bytes=max_bytes)
        self._perf = PerfFile(directory, rank, mode=mode, max_bytes=max_bytes)
        self._perf_at = START  # behind what it has, where the records could not be written after it

    @property
    def path(self) -> Path | None:
        """The file of records that is being written, once there is one."""
        return self._records.path

    def export(
        self, traces: Sequence[FinishedTrace], resource: Mapping[str, AttributeValue], timeout: float
    ) -> Result:
        """Append what `traces` come to; a disk that is full or cannot be written to gives Retry."""
        scopes = [trace for trace in traces if trace.is_work and not START < trace.at <= self._perf_at]
        part: RecordFile | PerfFile = self._perf
        try:
            if scopes:
                self._perf.write(scopes, resource)
                self._perf_at = scopes[-1].at
            part = self._records
            self._records.write(traces)
        except OSError as error:
            what = "records" if part is self._records else "scopes"
            return Retry(f"cannot write {what} to {part.why(error)}")
        return Delivered()

    def close(self, timeout: float = 10.0) -> None:
        """Close the files and give up their locks."""
        self._records.close()
        self._perf.close()

    def abandon(self) -> None:
        """In a forked child: close the inherited files and leave their locks to the parent."""
        self._records.abandon()
        self._perf.abandon()

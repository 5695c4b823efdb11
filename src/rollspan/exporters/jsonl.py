"""The file of records: one JSON object a line, each session once.

The first process of a rank has `sessions-r<rank>.jsonl`, any other of that rank a file of its own beside it,
`sessions-r<rank>.<host>.<pid>.jsonl`. A file that has reached its size becomes `sessions-r<rank>.1.jsonl`,
`.2.jsonl` and so on (the higher the younger), and is never touched again.
"""

from __future__ import annotations

import errno
import os
import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import orjson

from rollspan import health
from rollspan.finished import FinishedTrace
from rollspan.record import to_line
from rollspan.spandata import AttributeValue

from .base import Delivered, Result, Retry
from .lockedfile import HeldByAnotherError, LockedFile, mend

_MOST_NAMES = 100
_NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP})
_OURS = re.compile(r"\.?sessions-r\d+\..*|journal|\.gitignore")


class RecordFile:
    """The exporter named `file`. Nothing is created before the first record."""

    name = "file"
    timeout = 0.0

    def __init__(self, directory: Path, rank: int, *, mode: int = 0o600, max_bytes: int = 0) -> None:
        """`mode`: permissions of the files, whatever the umask; `max_bytes`: rotate beyond, 0 for never."""
        self._directory = directory
        self._rank = rank
        self._mode = mode
        self._max_bytes = max_bytes
        self._file: LockedFile | None = None
        self._last_number = 0

    @property
    def path(self) -> Path | None:
        """The file that is being written, once there is one."""
        return self._file.path if self._file else None

    def export(
        self, traces: Sequence[FinishedTrace], resource: Mapping[str, AttributeValue], timeout: float
    ) -> Result:
        """Append the records of `traces`; a disk that is full or cannot be written to gives Retry."""
        # To keep each line apart would cost more than all else here: its memory is new each time.
        lines = bytearray()
        for trace in traces:
            if (record := trace.record) is not None:
                lines += to_line(record)
        if not lines:
            return Delivered()
        try:
            file = self._ready()
            if self._max_bytes and file.size() and file.size() + len(lines) > self._max_bytes:
                self._rotate(file)
            file.append(lines)
        except OSError as error:
            place = error.filename or (self.path or self._directory)
            return Retry(f"cannot write records to {place}: {error.strerror or error}")
        return Delivered()

    def close(self, timeout: float = 10.0) -> None:
        """Close the file and give up its lock."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def abandon(self) -> None:
        """In a forked child: close the inherited file and leave its lock to the parent."""
        if self._file is not None:
            self._file.abandon()
            self._file = None

    def _ready(self) -> LockedFile:
        if self._file is not None and not self._file.in_place():
            self.close()  # somebody moved or removed it: go on in a new one
        if self._file is None:
            make_directory(self._directory, self._mode)
            self._file = self._take()
        return self._file

    def _take(self) -> LockedFile:
        for path in _names(self._directory, self._rank):
            try:
                return LockedFile(path, self._mode)
            except HeldByAnotherError:
                continue
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise
                health.warn_once(
                    "file.no_locks",
                    "rollspan: %s is on a file system without file locks; records go to files named by process",
                    self._directory,
                )
                return LockedFile(next(_own_names(self._directory, self._rank)), self._mode, locked=False)
        raise OSError(errno.EAGAIN, "all file names of this rank are taken by other processes")

    def _rotate(self, file: LockedFile) -> None:
        """Move the full file aside; where that cannot be done, go on in it."""
        number = self._last_number
        while number < 1_000_000:
            number += 1
            try:
                file.rotate(file.path.with_name(f"{file.path.name.removesuffix('.jsonl')}.{number}.jsonl"))
            except FileExistsError:
                continue
            except OSError as error:
                health.warn_once(
                    "file.no_rotation", "rollspan: cannot rotate %s (%s); it grows on", file.path, error
                )
            else:
                self._last_number = number
            return


class KnownIds:
    """Trace ids in all files of records of one rank. Asked again, it reads only what has come since.

    Session ids will not do: callers give them, and may give the same ones in every run.
    """

    def __init__(self, rank: int, *directories: Path) -> None:
        self._pattern = f"sessions-r{rank}.*jsonl"
        self._directories = dict.fromkeys(directories)
        self._read_to: dict[tuple[int, int], int] = {}
        self._found: set[str] = set()

    def now(self) -> set[str]:
        """All that are there now; lines that are damaged are passed over, those that killed writers left torn cut off."""
        for directory in self._directories:
            for path in sorted(directory.glob(self._pattern)):
                try:
                    mend(path)
                    self._read(path)
                except OSError as error:
                    health.warn_once("file.unreadable", "rollspan: cannot read %s: %s", path, error)
        return self._found

    def _read(self, path: Path) -> None:
        with path.open("rb") as file:
            about = os.fstat(file.fileno())
            which = about.st_dev, about.st_ino  # names change when a file is full
            at = self._read_to.get(which, 0)
            file.seek(at)
            for line in file:
                if line.endswith(b"\n"):  # else its rest may still come
                    at += len(line)
                try:
                    trace_id = orjson.loads(line)["trace_id"]
                except (ValueError, TypeError, KeyError):
                    continue
                if isinstance(trace_id, str):
                    self._found.add(trace_id)
            self._read_to[which] = at


def make_directory(directory: Path, file_mode: int) -> None:
    """Make the data directory, for the owner alone, or for whom `file_mode` lets read; raises OSError.

    Git is told to ignore it, unless somebody else's files are in it.
    """
    made = False
    if not directory.is_dir():
        directory.parent.mkdir(parents=True, exist_ok=True)
        try:
            directory.mkdir(0o700)
            # Who may read a file must be able to enter its folder. The umask has no say.
            directory.chmod(0o700 | file_mode & 0o077 | (file_mode & 0o044) >> 2)
            made = True
        except FileExistsError:
            pass  # another process was quicker
    ignore = directory / ".gitignore"
    if ignore.exists() or not (made or all(_OURS.fullmatch(path.name) for path in directory.iterdir())):
        return
    try:
        fd = os.open(ignore, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return
    try:
        os.write(fd, b"*\n")
        os.fchmod(fd, file_mode)
    finally:
        os.close(fd)


def _names(directory: Path, rank: int) -> Iterator[Path]:
    yield directory / f"sessions-r{rank}.jsonl"
    yield from _own_names(directory, rank)


def _own_names(directory: Path, rank: int) -> Iterator[Path]:
    host = re.sub(r"[^A-Za-z0-9_-]+", "-", socket.gethostname()) or "host"
    own = f"sessions-r{rank}.{host}.{os.getpid()}"
    yield directory / f"{own}.jsonl"
    # Containers may share both the host's name and the process's number.
    for number in range(2, _MOST_NAMES):
        yield directory / f"{own}-{number}.jsonl"

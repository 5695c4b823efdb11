"""A file that this process alone writes, in the data directory: its name, its lock, and the next one when it is full.

The first process of a rank has `<stem>-r<rank><suffix>`, any other of that rank a file of its own beside it,
`<stem>-r<rank>.<host>.<pid><suffix>`. A file that has reached its size becomes `<stem>-r<rank>.1<suffix>`, `.2` and so
on (the higher the younger), and is never touched again.
"""

from __future__ import annotations

import errno
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from rollspan import health

from .lockedfile import HeldByAnotherError, LockedFile

RECORDS: Final = "sessions", ".jsonl"
PERF: Final = "perf", ".json"

_MOST_NAMES = 100
NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP})
_OURS = re.compile(r"\.?(sessions|perf|profile)-r\d+\..*|journal|\.gitignore")


class OwnFile:
    """Nothing is created before something is to be written."""

    def __init__(
        self, directory: Path, rank: int, kind: tuple[str, str], *, mode: int = 0o600, max_bytes: int = 0
    ) -> None:
        """`kind`: stem and suffix; `mode`: permissions, whatever the umask; `max_bytes`: rotate beyond, 0 for never."""
        self._directory = directory
        self._stem, self._suffix = f"{kind[0]}-r{rank}", kind[1]
        self._mode = mode
        self._max_bytes = max_bytes
        self._file: LockedFile | None = None
        self._last_number = 0

    @property
    def path(self) -> Path | None:
        """The file that is being written, once there is one."""
        return self._file.path if self._file else None

    def ready(self, size: int) -> LockedFile:
        """The file to which `size` bytes are to be appended; an empty one where the last is full. Raises OSError."""
        if self._file is not None and not self._file.in_place():
            self.close()  # somebody moved or removed it: go on in a new one
        if self._file is None:
            make_directory(self._directory, self._mode)
            self._file = self._take()
        file = self._file
        if self._max_bytes and file.size() and file.size() + size > self._max_bytes:
            self._rotate(file)
        return file

    def why(self, error: OSError) -> str:
        """What to say of an error."""
        return f"{error.filename or self.path or self._directory}: {error.strerror or error}"

    def close(self) -> None:
        """Close the file and give up its lock."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def abandon(self) -> None:
        """In a forked child: close the inherited file and leave its lock to the parent."""
        if self._file is not None:
            self._file.abandon()
            self._file = None

    def _take(self) -> LockedFile:
        for path in self._names():
            try:
                return LockedFile(path, self._mode)
            except HeldByAnotherError:
                continue
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    raise
                health.warn_once(
                    "file.no_locks",
                    "rollspan: %s is on a file system without file locks; its files are named by process",
                    self._directory,
                )
                return LockedFile(next(self._own_names()), self._mode, locked=False)
        raise OSError(errno.EAGAIN, "all file names of this rank are taken by other processes")

    def _rotate(self, file: LockedFile) -> None:
        """Move the full file aside; where that cannot be done, go on in it."""
        number = self._last_number
        while number < 1_000_000:
            number += 1
            try:
                file.rotate(
                    file.path.with_name(f"{file.path.name.removesuffix(self._suffix)}.{number}{self._suffix}")
                )
            except FileExistsError:
                continue
            except OSError as error:
                health.warn_once(
                    "file.no_rotation", "rollspan: cannot rotate %s (%s); it grows on", file.path, error
                )
            else:
                self._last_number = number
            return

    def _names(self) -> Iterator[Path]:
        yield self._directory / f"{self._stem}{self._suffix}"
        yield from self._own_names()

    def _own_names(self) -> Iterator[Path]:
        host = re.sub(r"[^A-Za-z0-9_-]+", "-", socket.gethostname()) or "host"
        own = f"{self._stem}.{host}.{os.getpid()}"
        yield self._directory / f"{own}{self._suffix}"
        # Containers may share both the host's name and the process's number.
        for number in range(2, _MOST_NAMES):
            yield self._directory / f"{own}-{number}{self._suffix}"


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

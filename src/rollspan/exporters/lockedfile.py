"""An append-only file of lines that one process has to itself, and that is whole again after a kill."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from pathlib import Path

import orjson

from rollspan import health

_TAIL = 1 << 16
_HELD_BY_ANOTHER = frozenset({errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES})


class HeldByAnotherError(Exception):
    """Another process holds the lock on this file."""


class LockedFile:
    """An open file, locked for as long as it is open. Raises OSError where the system does.

    The lock is flock's: it belongs to the open file and not to the process, so a forked child that closes its
    copy leaves it alone, and a killed process gives it up.
    """

    def __init__(self, path: Path, mode: int, *, locked: bool = True) -> None:
        """Create (with exactly the permissions `mode`) or open `path`. Raises HeldByAnotherError, OSError.

        `locked=False` is for file systems without locks, and for a name that no other process uses.
        """
        self.path = path
        self._mode = mode
        self._locked = locked
        self._owner = os.getpid()
        self._fd = _open(path, mode)
        try:
            self._lock(self._fd)
            self._mend_tail()
        except BaseException:
            os.close(self._fd)
            raise

    def in_place(self) -> bool:
        """Whether the open file is still the one that `path` names: nobody moved or removed it."""
        return _same(self._fd, self.path)

    def size(self) -> int:
        """Bytes in the file."""
        return os.fstat(self._fd).st_size

    def append(self, data: bytes | bytearray) -> None:
        """Write all of `data`, or raise OSError and leave the file as it was."""
        self._mend_tail()
        before = self.size()
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError:
            os.ftruncate(self._fd, before)
            raise

    def rotate(self, target: Path) -> None:
        """Give the content the name `target` and begin anew, without giving up the name for a moment.

        Raises FileExistsError where `target` is taken, else OSError.
        """
        fresh = self.path.with_name(f".{self.path.name}.{os.urandom(4).hex()}")
        fd = _open(fresh, self._mode)
        try:
            self._lock(fd)
            # A link and not a rename: who looks for the name in between must find it, and find it locked.
            self._link(target)
            fresh.replace(self.path)
        except BaseException:
            os.close(fd)
            fresh.unlink(missing_ok=True)
            raise
        os.close(self._fd)
        self._fd = fd

    def _link(self, target: Path) -> None:
        try:
            os.link(self.path, target)
        except FileExistsError:
            if not _same(self._fd, target):  # else one that was killed here got as far as this
                raise

    def close(self) -> None:
        """Give up file and lock; in a forked child, the child's copy of the file alone."""
        if self._fd < 0:
            return
        fd, self._fd = self._fd, -1
        try:
            if os.getpid() == self._owner:
                fcntl.flock(fd, fcntl.LOCK_UN)  # also where a child still has the file open
        except OSError:
            pass  # a file system without locks
        finally:
            os.close(fd)

    def abandon(self) -> None:
        """Close this process's copy of the file and leave the lock to whoever else has it open."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def _lock(self, fd: int) -> None:
        if not self._locked:
            return
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _HELD_BY_ANOTHER:
                raise HeldByAnotherError(self.path) from error
            raise
        if fd == self._fd and not self.in_place():  # who held it before has just put another in its place
            raise HeldByAnotherError(self.path)

    def _mend_tail(self) -> None:
        """End a last line that a killed writer left without its newline, or cut it off where it is torn."""
        size = self.size()
        if size == 0 or os.pread(self._fd, 1, size - 1) == b"\n":
            return
        start = size
        tail = b""
        while start > 0 and b"\n" not in tail:
            step = min(_TAIL, start)
            start -= step
            tail = os.pread(self._fd, step, start) + tail
        line = tail[tail.rfind(b"\n") + 1 :]
        if is_record(line):
            os.write(self._fd, b"\n")
        else:
            os.ftruncate(self._fd, size - len(line))
            health.count("file.torn_lines")


def mend(path: Path) -> None:
    """Have the file end in a whole line, where nobody is writing it who will see to that. Raises OSError."""
    with path.open("rb") as file:
        if not file.seek(0, os.SEEK_END):
            return
        file.seek(-1, os.SEEK_END)
        if file.read(1) == b"\n":
            return
    with contextlib.suppress(HeldByAnotherError):
        LockedFile(path, 0o600).close()


def is_record(line: bytes) -> bool:
    """Whether the line is a whole record."""
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError:
        return False
    return isinstance(value, dict) and "session_id" in value


def _open(path: Path, mode: int) -> int:
    flags = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC
    try:
        fd = os.open(path, flags | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError:
        return os.open(path, flags)
    with contextlib.suppress(OSError):  # a file system without permissions
        os.fchmod(fd, mode)  # the umask had its say above
    return fd


def _same(fd: int, path: Path) -> bool:
    try:
        there, here = path.stat(), os.fstat(fd)
    except OSError:
        return False
    return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)

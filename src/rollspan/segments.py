"""The pieces of a journal: files that are mapped while they are hot.

Pages are reserved before they are written, and a segment is never truncated: a map of a file without room, or of
a truncated one, is a SIGBUS. Without a file system that can reserve, a segment is anonymous memory.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import re
from pathlib import Path

from . import health

_ENDS = re.compile(rb"^[0-9a-f]{8} e", re.MULTILINE)
_SUFFIX = ".seg"


class Segment:
    """A piece of a journal. Written through its map while it is hot; read through it, or from its file."""

    __slots__ = ("_used", "map", "number", "path", "size")

    def __init__(self, number: int, size: int, folder: Path | None) -> None:
        """Make it in `folder`, its pages reserved, or in anonymous memory. Raises OSError without room."""
        self.number = number
        self.size = size
        self._used: int | None = None
        self.path: Path | None = None
        self.map: mmap.mmap | None
        if folder is None:
            self.map = mmap.mmap(-1, size)
            return
        path = folder / segment_name(number)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, size)
            flags = mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0)
            self.map = mmap.mmap(descriptor, size, flags=flags)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        finally:
            os.close(descriptor)
        self.path = path

    @property
    def used(self) -> int:
        """Bytes written so far."""
        return self.map.tell() if self._used is None else self._used  # type: ignore[union-attr]

    def seal(self) -> None:
        """Let nobody write any more: what is left becomes zeros. Others may be writing while this begins."""
        while self._used is None and self.map is not None:
            used = self.map.tell()
            with contextlib.suppress(ValueError):  # somebody has just written: less is left
                self.map.write(bytes(self.size - used))
                self._used = used

    def read(self, start: int, end: int) -> bytes:
        """Bytes `start` to `end`, of those written so far."""
        end = min(end, self.used)
        if self.map is not None:
            return self.map[start:end]
        if self.path is None:
            return b""
        with self.path.open("rb") as file:
            file.seek(start)
            return file.read(max(end - start, 0))

    def lines(self, start: int, limit: int) -> bytes:
        """Whole lines from `start` on: up to `limit` bytes, but at least one line."""
        chunk = self.read(start, start + limit)
        cut = chunk.rfind(b"\n") + 1
        if not cut:
            chunk = self.read(start, self.used)
            cut = chunk.find(b"\n") + 1 or len(chunk)
        return chunk[:cut]

    def ends_after(self, offset: int) -> int:
        """How many traces have their last line behind `offset`."""
        return len(_ENDS.findall(self.read(offset, self.used)))

    def forget(self) -> None:
        """Let go of the map; the file stays."""
        if self.map is not None:
            self._used = self.used
            self.map.close()
            self.map = None


def make_folder(folder: Path) -> None:
    """Make a folder for its owner only, parents too. Raises OSError."""
    for last_try in (False, False, True):
        missing = []
        above = folder
        while not above.exists():
            missing.append(above)
            above = above.parent
        try:
            for each in reversed(missing):
                with contextlib.suppress(FileExistsError):
                    each.mkdir(mode=0o700)
        except FileNotFoundError:  # somebody has just removed an empty one in between
            if last_try:
                raise
        else:
            return


def segment_name(number: int) -> str:
    """File name of a segment."""
    return f"{number:08d}{_SUFFIX}"


def segment_files(*folders: Path) -> list[tuple[int, Path]]:
    """Numbers and paths of the segments in `folders`, in order, each number once."""
    found: dict[int, Path] = {}
    for folder in folders:
        try:
            names = [path.name for path in folder.iterdir()]
        except OSError:
            continue
        for name in names:
            stem, dot, suffix = name.partition(".")
            if dot + suffix == _SUFFIX and stem.isdigit():
                found.setdefault(int(stem), folder / name)
    return sorted(found.items())


def write_whole(target: Path, data: bytes) -> None:
    """Write a file that is there whole, or not at all. Raises OSError."""
    partial = target.with_suffix(".part")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
    partial.replace(target)


def move(segment: Segment, folder: Path) -> None:
    """Put a segment's used bytes into `folder`, wherever they are now; a full disk leaves it where it is."""
    old = segment.path
    if old is not None and old.parent == folder and segment.map is None:
        return
    try:
        data = segment.read(0, segment.used)
        target = folder / segment_name(segment.number)
        write_whole(target, data)
    except OSError as exc:
        health.warn_once(
            "journal.cannot_keep", "rollspan: journal segments stay where they are: %s: %s", folder, exc
        )
        segment.forget()
        return
    segment.forget()
    segment.path = target
    if old is not None and old != target:
        old.unlink(missing_ok=True)

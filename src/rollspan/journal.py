"""The journal of one process: memory-mapped, append-only segments that outlive it.

The caller copies a line into the map; the kernel keeps the pages whatever becomes of the process. Segments
are made before they are needed, unlinked when every exporter is past them, and never truncated, because
reading a map of a truncated file is a SIGBUS as well. Without a file system that can reserve pages, segments
are anonymous memory: a bounded queue that dies with its process.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from . import health

SEGMENT_BYTES = 4 << 20
_ENDS = re.compile(rb"^[0-9a-f]{8} e", re.MULTILINE)
_SUFFIX = ".seg"


class Position(NamedTuple):
    """A place in a journal: number of the segment, bytes into it."""

    segment: int
    offset: int


START = Position(0, 0)


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


def _no_room(line: bytes) -> int:
    raise ValueError("no segment")


class Journal:
    """Append on one side, read from positions on the other. `lock` guards both."""

    def __init__(
        self,
        lock: threading.RLock,
        open_folder: Callable[[], list[Path]],
        *,
        segment_bytes: int = SEGMENT_BYTES,
        wake: Callable[[], None] = lambda: None,
    ) -> None:
        """`open_folder` is called with the first line and gives the folders to try, best first."""
        self._lock = lock
        self._open_folder = open_folder
        self._folders: list[Path] | None = None
        self._segment_bytes = segment_bytes
        self._wake = wake
        self._segments: dict[int, Segment] = {}
        self._active: Segment | None = None
        self._spare: Segment | None = None
        self._number = 0
        self._write: Callable[[bytes], int] = _no_room
        self._rolling = False
        self._deferred: list[bytes] = []
        self.abandoned = False

    # Writing.

    def start(self) -> None:
        """Make the first segment, before the first line would."""
        with self._lock:
            if self._active is None and not self.abandoned:
                self._roll(0)

    def append(self, line: bytes) -> None:
        """Copy one framed line into the journal; one that is over drops it.

        A map knows how far it is written and takes a line in one step: no thread and no signal handler comes in between,
        so that there is no lock to wait for.
        """
        try:
            self._write(line)
        except ValueError:
            self._append_to_next(line)

    def _append_to_next(self, line: bytes) -> None:
        if self.abandoned:
            health.count("journal.lines_after_end")
            return
        with self._lock:
            if self._rolling:  # a signal handler came between the lines below, in this very thread
                self._deferred.append(line)
                return
            self._rolling = True
            try:
                self._write_or_roll(line)
                while self._deferred:
                    self._write_or_roll(self._deferred.pop(0))
            finally:
                self._rolling = False

    def _write_or_roll(self, line: bytes) -> None:
        while True:
            try:
                self._write(line)
            except ValueError:
                self._roll(len(line))
            else:
                return

    def _roll(self, size: int) -> None:
        if self._active is not None:
            self._active.seal()
        spare, self._spare = self._spare, None
        if spare is None or spare.size < size:
            if spare is not None:
                self._unlink(spare)
            spare = self._make(max(size, self._segment_bytes))
        self._segments[spare.number] = spare
        self._active = spare
        self._write = spare.map.write  # type: ignore[union-attr]
        self._wake()

    def _make(self, size: int) -> Segment:
        with self._lock:
            if self._folders is None:
                self._folders = []
                try:
                    self._folders = list(self._open_folder())
                except Exception:  # noqa: BLE001 - whatever it is, sessions go on, in memory
                    health.internal_error("journal.open")
            self._number += 1
            number = self._number
            folders = self._folders
        while folders:
            folder = folders[0]
            try:
                return Segment(number, size, folder)
            except OSError as exc:
                folders = self._without(folder)
                health.warn_once(
                    f"journal.no_room.{folder}",
                    "rollspan: the journal cannot go on in %s (%s); %s",
                    folder,
                    exc.strerror or exc,
                    f"it goes on in {folders[0]}" if folders else "it goes on in memory and a kill loses it",
                )
        health.count("journal.segments_in_memory")
        return Segment(number, size, None)

    def _without(self, folder: Path) -> list[Path]:
        with self._lock:
            self._folders = [each for each in self._folders or () if each != folder]
            if self._folders:
                with contextlib.suppress(OSError):  # the first one is there; the others are made when needed
                    make_folder(self._folders[0])
            return self._folders

    def prepare(self) -> None:
        """Make the next segment before it is needed (the worker calls this).

        That takes some milliseconds, and happens without the lock, which callers need.
        """
        active = self._active
        if active is None or self._spare is not None or active.used < active.size // 4:
            return
        made = self._make(self._segment_bytes)
        with self._lock:
            overtaken = self._active is None or self._active.number > made.number  # numbers tell the order
            if not (self.abandoned or overtaken):
                self._spare = made
                return
        self._unlink(made)

    # Reading.

    @property
    def end(self) -> Position:
        """Where the next line will be written."""
        active = self._active
        return Position(active.number, active.used) if active is not None else START

    @property
    def oldest(self) -> int:
        """Number of the oldest segment that is still there; 0 without any."""
        return min(self._segments, default=0)

    def read(self, at: Position, limit: int = 1 << 19) -> tuple[bytes, Position, Position]:
        """Whole lines from `at` on: the bytes, where they begin, where they end (nothing new: both `at`)."""
        while True:
            with self._lock:
                unread = (
                    (number, at.offset if number == at.segment else 0)
                    for number in sorted(self._segments)
                    if number >= at.segment
                )
                found = next(((n, offset) for n, offset in unread if offset < self._segments[n].used), None)
                if found is None:
                    return b"", at, at
                begins = Position(*found)
                segment = self._segments[begins.segment]
                chunk = segment.lines(begins.offset, limit) if segment.map is not None else b""
            try:  # what lies on disk is read without the lock, which callers need
                chunk = chunk or segment.lines(begins.offset, limit)
            except OSError as exc:
                if begins.segment in self._segments:
                    health.warn_once(
                        "journal.unreadable",
                        "rollspan: cannot read %s: %s",
                        segment.path,
                        exc.strerror or exc,
                    )
            if chunk:
                return chunk, begins, Position(begins.segment, begins.offset + len(chunk))
            at = Position(begins.segment + 1, 0)  # let go of meanwhile

    # Room.

    def bytes_held(self) -> int:
        """Size of all segments together."""
        return sum(s.size for s in list(self._segments.values()))

    def segments_before(self, number: int) -> list[Segment]:
        """The sealed segments with a lower number than `number`, oldest first."""
        with self._lock:
            return [
                self._segments[n]
                for n in sorted(self._segments)
                if n < number and self._segments[n] is not self._active
            ]

    def release(self, segment: Segment, keep_in: Path | None = None) -> None:
        """Take a segment out: unlinked, or moved to `keep_in`."""
        with self._lock:
            if self._segments.pop(segment.number, None) is None:
                return
        if keep_in is not None:
            _move(segment, keep_in)
        else:
            self._unlink(segment)

    def cool(self, limit: int, folder: Path) -> None:
        """Move the oldest sealed segments to `folder` on disk while more than `limit` bytes are mapped."""
        hot = [s for s in self.segments_before(1 << 62) if s.map is not None and s.path is not None]
        held = sum(s.size for s in hot)
        for segment in hot:
            if held <= limit:
                return
            held -= segment.size
            try:
                self._relocate(segment, folder)
            except OSError as exc:
                health.warn_once(
                    "journal.cannot_cool",
                    "rollspan: the journal's backlog stays in memory: %s: %s",
                    folder,
                    exc,
                )
                return

    def _relocate(self, segment: Segment, folder: Path) -> None:
        if segment.path is None or segment.path.parent == folder:
            return
        target = folder / segment.path.name
        _write_whole(target, segment.read(0, segment.used))
        with self._lock:
            old, segment.path = segment.path, target
            segment.forget()
        old.unlink(missing_ok=True)

    def close(self, keep_in: Path | None) -> None:
        """Stop writing. Segments are unlinked, or moved to the folder `keep_in`."""
        with self._lock:
            self.abandoned = True
            self._write = _no_room
            if self._active is not None:
                self._active.seal()
            segments = list(self._segments.values())
            spare, self._spare = self._spare, None
            if spare is not None:
                self._unlink(spare)
            for segment in segments:
                if keep_in is None:
                    self._unlink(segment)
                else:
                    _move(segment, keep_in)
            self._segments.clear()
            self._active = None

    def abandon(self, lock: threading.RLock) -> None:
        """In a forked child: let go of the parent's maps and lock, touch none of its files."""
        self.abandoned = True
        self._lock = lock
        self._folders = []
        for segment in [*self._segments.values(), *([self._spare] if self._spare is not None else [])]:
            segment.forget()
        self._segments.clear()
        self._active = self._spare = None
        self._write = _no_room

    @staticmethod
    def _unlink(segment: Segment) -> None:
        segment.forget()
        if segment.path is not None:
            segment.path.unlink(missing_ok=True)


def _write_whole(target: Path, data: bytes) -> None:
    partial = target.with_suffix(".part")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
    partial.replace(target)


def _move(segment: Segment, folder: Path) -> None:
    """Put a segment's used bytes into `folder`, wherever they are now; a full disk leaves it where it is."""
    old = segment.path
    if old is not None and old.parent == folder and segment.map is None:
        return
    try:
        data = segment.read(0, segment.used)
        target = folder / segment_name(segment.number)
        _write_whole(target, data)
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

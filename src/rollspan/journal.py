"""The journal of one process: memory-mapped, append-only segments that outlive it.

The caller copies a line into the map; the kernel keeps the pages whatever becomes of the process. Segments
are made before they are needed, unlinked when every exporter is past them, and never truncated, because
reading a map of a truncated file is a SIGBUS as well. Without a file system that can reserve pages, segments
are anonymous memory: a bounded queue that dies with its process.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from . import health
from .segments import Segment, make_folder, move, write_whole

SEGMENT_BYTES = 4 << 20


class Position(NamedTuple):
    """A place in a journal: number of the segment, bytes into it."""

    segment: int
    offset: int


START = Position(0, 0)


def _no_room(line: bytes) -> int:
    raise ValueError("no segment")


class Journal:
    """Append on one side, read from positions on the other. `lock` guards the segments, not their maps."""

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
            move(segment, keep_in)
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
        write_whole(target, segment.read(0, segment.used))
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
                    move(segment, keep_in)
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

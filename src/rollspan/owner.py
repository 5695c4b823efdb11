"""Who a journal belongs to: its folder, the lock that says its process is alive, its header and cursors.

A journal's files may lie in two folders of the same name: the hot one (memory-backed where possible) and the
one below the data directory, which takes what outlives the process. Both hold the header.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from . import health, place
from .config import Settings
from .journal import Position
from .segments import make_folder, segment_files

fcntl: Any = None
with contextlib.suppress(ImportError):  # without POSIX journals stay in memory
    import fcntl

HEADER = "header.json"
CURSORS = "cursors.json"
LOCK = "owner.lock"
KEPT = "kept"
DISK_ROOT = place.disk_root(Path()).name
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def host() -> str:
    """This machine's name."""
    return socket.gethostname()


def boot() -> str:
    """An id of this boot of the machine; what was in memory before it is gone."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""


def write_small(path: Path, content: Any) -> None:
    """Replace a small JSON file in one go. Raises OSError."""
    partial = path.with_suffix(f".{os.getpid()}.part")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(orjson.dumps(content, option=orjson.OPT_INDENT_2))
    partial.replace(path)


def read_small(path: Path) -> dict[str, Any]:
    """What `write_small` wrote; {} where it is missing or damaged."""
    try:
        content = orjson.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


_held: set[int] = set()


def lock_file(path: Path, *, make: bool = True) -> int | None:
    """A descriptor that holds `path` locked, or None where somebody else does, or removes it. Raises OSError."""
    if fcntl is None:
        return None
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if make else 0), 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(descriptor).st_nlink:
            _held.add(descriptor)
            return descriptor
    except OSError:
        pass
    os.close(descriptor)
    return None


def unlock(descriptor: int) -> None:
    """Let go of what `lock_file` gave, also where a forked child is just about to do so."""
    if descriptor in _held:
        _held.discard(descriptor)
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


def _leave_to_parent() -> None:
    """In a forked child: close the locks, which else would outlive the process that they tell of."""
    while _held:
        with contextlib.suppress(OSError):
            os.close(_held.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_parent)


def save_cursors(folder: Path, cursors: Mapping[str, Position]) -> None:
    """Write how far each exporter is. Raises OSError."""
    write_small(folder / CURSORS, {name: list(at) for name, at in cursors.items()})


class Owner:
    """The journal's folders of this process, made with its first line."""

    def __init__(self, settings: Settings, header: Mapping[str, Any]) -> None:
        self.name = f"r{settings.rank}.{_safe(host())}.{os.getpid()}.{os.urandom(4).hex()}"
        self.disk = place.disk_root(settings.dir) / self.name
        self.hot: Path | None = None
        self._settings = settings
        self._header = dict(header)
        self._spare: list[Path] = []
        self._locks: list[int] = []

    def open(self) -> list[Path]:
        """Make the best folder and the one on disk, take the lock; all folders for segments, best first.

        The others are made when they are needed. [] where none will do.
        """
        for where in place.usable(self._settings.dir, self._settings.journal_dir):
            folder = where.folder / self.name
            if self.hot is not None:
                self._spare.append(folder)
                continue
            try:
                make_folder(folder)
                self._take_lock(folder)
                self.hot = folder
            except OSError as exc:
                health.warn_once(
                    f"journal.folder.{where.folder}",
                    "rollspan: no journal in %s: %s",
                    where.folder,
                    exc.strerror or exc,
                )
        if self.hot is None:
            health.warn_once(
                "journal.no_place",
                "rollspan: no file system here can reserve pages for the journal (asked: %s); it stays in memory and a "
                "kill loses what was not delivered. Set ROLLSPAN_JOURNAL_DIR to a folder on tmpfs, ext4 or xfs.",
                ", ".join(
                    f"{p.folder}: {p.file_system or 'unknown'}"
                    for p in place.candidates(self._settings.dir, self._settings.journal_dir)
                ),
            )
            return []
        self._header |= {
            "name": self.name,
            "folder": str(self.hot),
            "disk": str(self.disk),
            "more": [str(folder) for folder in self._spare if folder != self.disk],
        }
        self._write_header(take_lock=True)
        return [self.hot, *self._spare]

    def _write_header(self, *, take_lock: bool = False) -> None:
        for folder in dict.fromkeys(folder for folder in (self.hot, self.disk) if folder is not None):
            try:
                make_folder(folder)
                if (
                    take_lock and folder != self.hot
                ):  # seen from containers that do not share this one's memory
                    self._take_lock(folder)
                write_small(folder / HEADER, self._header)
            except OSError as exc:
                health.warn_once(
                    "journal.header",
                    "rollspan: cannot write the journal's header in %s: %s",
                    folder,
                    exc.strerror or exc,
                )

    def say(self, **more: Any) -> None:
        """Write into the header what has come up since; nothing is written where all of it is there."""
        more = {key: value for key, value in more.items() if value != self._header.get(key, type(value)())}
        if more and self.hot is not None:
            self._header |= more
            self._write_header()

    def _take_lock(self, folder: Path) -> None:
        descriptor = lock_file(folder / LOCK)
        if descriptor is not None:
            self._locks.append(descriptor)

    def lies_in(self) -> Path:
        """The folder that holds what was not delivered, after `close`."""
        return self.hot if self.hot is not None and self.hot.is_dir() else self.disk

    def save_cursors(self, cursors: Mapping[str, Position]) -> None:
        """Remember how far each exporter is, for whoever goes on."""
        if self.hot is None:
            return
        try:
            save_cursors(self.hot, cursors)
        except OSError as exc:
            health.warn_once("journal.cursors", "rollspan: cannot save the journal's cursors: %s", exc)

    def close(self, *, delivered: bool, keep: bool) -> None:
        """Let go. Nothing is left where all was delivered, unless the journal is kept for replay."""
        if self.hot is None:
            return
        if delivered and keep:
            with contextlib.suppress(OSError):
                (self.disk / KEPT).touch(mode=0o600)
        if not (delivered and not keep):
            move_rest(self.hot, self.disk)
        else:
            remove(self.hot, self.disk)
        for folder in self._spare:
            if folder != self.disk and not segment_files(
                folder
            ):  # else its segments could not be moved to the disk
                remove(folder)
        while self._locks:
            unlock(self._locks.pop())


def _safe(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in name)[:64] or "host"


def move_rest(hot: Path, disk: Path) -> None:
    """Put cursors beside the segments on disk, and remove the hot folder once it holds no segments."""
    if hot == disk or segment_files(hot):
        return
    with contextlib.suppress(OSError):
        cursors = read_small(hot / CURSORS)
        if cursors:
            write_small(disk / CURSORS, cursors)
        write_small(disk / HEADER, {**read_small(hot / HEADER), "folder": str(disk)})
        remove(hot)


def remove(*folders: Path) -> None:
    """Remove journal folders with all that is in them, so that what a kill leaves in between is told for what it is.

    Segments first, oldest first, while cursors still say that they were delivered; then cursors, headers, locks.
    """
    order = {CURSORS: 1, HEADER: 2, LOCK: 3}
    entries: list[Path] = []
    for folder in dict.fromkeys(folders):
        with contextlib.suppress(OSError):
            entries += folder.iterdir()
    for entry in sorted(entries, key=lambda path: (order.get(path.name, 0), path.name)):
        with contextlib.suppress(OSError):
            entry.unlink()
    for folder in dict.fromkeys(folders):
        with contextlib.suppress(OSError):
            folder.rmdir()
            if folder.parent.name != DISK_ROOT:  # empty ones of other data directories would stay for good
                folder.parent.rmdir()


def header_of(
    settings: Settings, resource: Mapping[str, Any], endpoints: Mapping[str, str]
) -> dict[str, Any]:
    """What an adopter must know. Headers of requests are left out: they hold secrets."""
    return {
        "version": 1,
        "run_id": settings.run_id,
        "rank": settings.rank,
        "role": settings.role,
        "pid": os.getpid(),
        "host": host(),
        "boot": boot(),
        "started": time.time(),
        "program": Path(sys.argv[0]).name if sys.argv else "",
        "resource": dict(resource),
        "endpoints": dict(endpoints),
        "settings": {
            "dir": str(settings.dir),
            "file_mode": settings.file_mode,
            "file_max_bytes": settings.file_max_bytes,
            "journal_keep": settings.journal_keep,
            "spans": settings.spans,
            "capture_content": settings.capture_content,
            "attribute_max_bytes": settings.attribute_max_bytes,
            "world_size": settings.world_size,
            "system": settings.system,
            "algorithm": settings.algorithm,
            "traces_exporters": list(settings.traces_exporters),
            "records_exporters": list(settings.records_exporters),
        },
    }

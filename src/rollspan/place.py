"""Where a journal may lie: only where a page once reserved can always be written.

A write to a mapped page for which the file system has no room left is a SIGBUS, which kills the process. So
a segment is mapped only on file systems that reserve for real when asked; network and copy-on-write ones do
not.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path
from typing import NamedTuple

RESERVING = frozenset({"tmpfs", "ramfs", "ext2", "ext3", "ext4", "xfs", "overlay"})
MEMORY_BACKED = frozenset({"tmpfs", "ramfs"})
_MOUNTS = Path("/proc/self/mountinfo")
_MEMORY = Path("/dev/shm")


class Place(NamedTuple):
    """A folder for journals, and its file system's type ("" where the system does not tell)."""

    folder: Path
    file_system: str


def file_system(path: Path) -> str:
    """Type of the file system that holds `path` (or its nearest parent that exists); "" if unknown."""
    while not path.exists() and path != path.parent:
        path = path.parent
    resolved = os.path.realpath(path)
    best, kind = "", ""
    try:
        mounts = _MOUNTS.read_text()
    except OSError:
        return ""
    for line in mounts.splitlines():
        fields, _, rest = line.partition(" - ")
        mount = fields.split()[4].encode().decode("unicode_escape")
        inside = resolved == mount or resolved.startswith(mount.rstrip("/") + "/")
        if inside and len(mount) >= len(best):  # of two on one point the later covers the earlier
            best, kind = mount, rest.split()[0]
    return kind


def key_of(directory: Path) -> str:
    """Short name of a data directory, for folders that lie elsewhere and belong to it."""
    return hashlib.sha256(os.fsencode(directory.absolute())).hexdigest()[:12]


def disk_root(directory: Path) -> Path:
    """Folder below the data directory for journals that outlive their process."""
    return directory / "journal"


def candidates(directory: Path, chosen: Path | None) -> list[Place]:
    """Folders to make journals in, best first; `chosen` is the user's own choice and then the only one."""
    if chosen is not None:
        roots = [chosen / key_of(directory)]
    else:
        user = f"rollspan-{os.getuid()}" if hasattr(os, "getuid") else "rollspan"
        roots = [
            _MEMORY / user / key_of(directory),
            disk_root(directory),
            Path(tempfile.gettempdir()) / user / key_of(directory),
        ]
    return [Place(root, file_system(root)) for root in roots]


def usable(directory: Path, chosen: Path | None) -> list[Place]:
    """The candidates whose file system reserves for real and that can be written to."""
    return [
        place
        for place in candidates(directory, chosen)
        if place.file_system in RESERVING and hasattr(os, "posix_fallocate") and _writable(place.folder)
    ]


def _writable(folder: Path) -> bool:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return os.access(folder, os.W_OK | os.X_OK)

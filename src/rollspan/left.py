"""Journals as others than their process see them: found, told apart, and locked before anybody touches them."""

from __future__ import annotations

import contextlib
import enum
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import health, owner, place
from .journal import Position
from .owner import CURSORS, HEADER, KEPT, LOCK
from .segments import segment_files

_UNTOUCHED = 60.0  # seconds after which a folder with nothing but a lock is not one that is just being made


class Standing(enum.Enum):
    """Who may deliver a journal."""

    HELD = "its process is alive, or somebody is at it"
    LEFT = "its process is dead, and whoever asks has it locked"
    ELSEWHERE = "as LEFT, but part of it lies in another host's memory"


class Left(dict[str, Any]):
    """Header of a journal that its process has left behind, or is still writing."""

    @property
    def name(self) -> str:
        """Name of its folders."""
        return str(self.get("name", "?"))

    @property
    def hot(self) -> Path:
        """The folder where it is written."""
        return Path(self["folder"])

    @property
    def disk(self) -> Path:
        """The folder below the data directory, which may be the same."""
        return Path(self["disk"])

    @property
    def folders(self) -> list[Path]:
        """All folders that may hold segments: it goes on in another one where the first takes no more."""
        more = self.get("more")
        others = map(Path, more) if isinstance(more, list) else ()
        return list(dict.fromkeys((self.hot, self.disk, *others)))

    @property
    def segments(self) -> list[tuple[int, Path]]:
        """Numbers and paths of its segments, in order."""
        return segment_files(*self.folders)

    @property
    def settings(self) -> dict[str, Any]:
        """What its process was told, as far as it matters here."""
        return self._mapping("settings")

    @property
    def endpoints(self) -> dict[str, Any]:
        """Where its process sent spans and records, as environment variables."""
        return self._mapping("endpoints")

    def _mapping(self, key: str) -> dict[str, Any]:
        found = self.get(key)
        return found if isinstance(found, dict) else {}

    @property
    def kept(self) -> bool:
        """Delivered, and only kept for replay."""
        return (self.disk / KEPT).exists()

    @property
    def cursors(self) -> dict[str, Position]:
        """How far each exporter was."""
        raw = owner.read_small(self.hot / CURSORS) or owner.read_small(self.disk / CURSORS)
        return {
            name: Position(*value)
            for name, value in raw.items()
            if isinstance(value, list) and len(value) == 2 and all(isinstance(v, int) for v in value)
        }

    def save_cursors(self, cursors: dict[str, Position]) -> None:
        """Note how far each exporter is; where that cannot be written, batches come again."""
        home = self.hot if self.hot.is_dir() else self.disk
        with contextlib.suppress(OSError):
            owner.save_cursors(home, cursors)

    @property
    def elsewhere(self) -> bool:
        """Whether part of it lies in another machine's memory, so that only that machine can deliver all of it."""
        return not self.hot.is_dir() and self.get("host") != owner.host()

    @contextlib.contextmanager
    def locked(self) -> Iterator[Standing]:
        """How it stands; unless it is HELD, by nobody else as long as this lasts."""
        descriptors: list[int] = []
        try:
            yield self._lock(descriptors)
        finally:
            for descriptor in descriptors:
                owner.unlock(descriptor)

    def _lock(self, descriptors: list[int]) -> Standing:
        try:
            for folder in filter(Path.is_dir, self.folders):
                descriptor = _lock(folder)
                if descriptor is None:
                    return Standing.HELD
                descriptors.append(descriptor)
        except OSError as exc:
            health.warn_once("journal.lock", "rollspan: cannot lock the journal %s: %s", self.name, exc)
            return Standing.HELD
        if not descriptors:
            return Standing.HELD
        return Standing.ELSEWHERE if self.elsewhere else Standing.LEFT


def _lock(folder: Path) -> int | None:
    try:
        return owner.lock_file(folder / LOCK, make=False)
    except (
        FileNotFoundError
    ):  # where it is just being removed, a lock made anew would keep the folder for good
        lost = (folder / HEADER).exists() or segment_files(folder)
        return owner.lock_file(folder / LOCK) if lost else None


def _roots(directory: Path, journal_dir: Path | None) -> list[Path]:
    """Where journals of a data directory may lie."""
    roots = [place.disk_root(directory), *(p.folder for p in place.candidates(directory, journal_dir))]
    if journal_dir is not None:
        roots += [p.folder for p in place.candidates(directory, None)]
    return list(dict.fromkeys(roots))


def _below(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def journals(directory: Path, journal_dir: Path | None = None) -> list[Left]:
    """Headers of all journals of a data directory, of live processes too, oldest first."""
    found: dict[str, Left] = {}
    for root in _roots(directory, journal_dir):
        for folder in _below(root):
            header = owner.read_small(folder / HEADER)
            if not header:
                if segment_files(folder):
                    found.setdefault(folder.name, _without_header(folder))
                continue
            if root == place.disk_root(directory) and header.get("disk") not in (None, str(folder)):
                # The data directory was moved or copied, or is mounted here under another name.
                if header.get("folder") == header["disk"]:
                    header["folder"] = str(folder)
                header["disk"] = str(folder)
            header.setdefault("folder", str(folder))
            header.setdefault("disk", str(folder))
            found.setdefault(folder.name, Left(header))
    return sorted(found.values(), key=lambda h: (str(h.get("started", "")), h.name))


def orphans(journal_dir: Path | None = None) -> list[Left]:
    """Journals of dead processes that lie away from their data directory, which is not there (any more)."""
    here = Path.cwd()
    roots = [p.folder.parent for p in place.candidates(here, None) if p.folder != place.disk_root(here)]
    found: dict[str, Left] = {}
    for root in dict.fromkeys([*roots, *([journal_dir] if journal_dir is not None else [])]):
        for folder in (each for key in _below(root) for each in _below(key)):
            left = Left(owner.read_small(folder / HEADER))
            data = left.settings.get("dir")
            if left.get("folder") != str(folder) or not isinstance(data, str) or Path(data).exists():
                continue
            left.setdefault("disk", str(folder))
            with left.locked() as standing:
                if standing is Standing.LEFT:
                    found[folder.name] = left
    return list(found.values())


def _without_header(folder: Path) -> Left:
    """What can be said of a journal whose header was lost: its segments are there all the same."""
    rank = folder.name.partition(".")[0][1:]
    return Left(
        name=folder.name,
        folder=str(folder),
        disk=str(folder),
        rank=int(rank) if rank.isdigit() else 0,
        host=owner.host(),
        boot=owner.boot(),
        resource={},
    )


def sweep(directory: Path, journal_dir: Path | None = None) -> None:
    """Remove folders that hold nothing but a lock: a kill in the middle of a removal leaves such."""
    for root in _roots(directory, journal_dir):
        for folder in _below(root):
            with contextlib.suppress(OSError):
                if {path.name for path in folder.iterdir()} - {LOCK}:
                    continue
                if time.time() - folder.stat().st_mtime < _UNTOUCHED:
                    continue
                descriptor = owner.lock_file(folder / LOCK)
                if descriptor is not None:
                    owner.remove(folder)
                    owner.unlock(descriptor)

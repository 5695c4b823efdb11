"""Journals without their process: delivered by the next start or `rollspan recover`, looked at, replayed."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import exporters, fold, health, lines, owner, place
from .config import Settings
from .delivery import EXPORT_TIMEOUT, Batch, Delivery, batches
from .exporters.jsonl import known_ids
from .joiner import Finished, Joiner
from .journal import START, Position, make_folder, segment_files
from .owner import Left

if TYPE_CHECKING:
    from .record import Record


@dataclass
class Outcome:
    """What became of one journal: numbers by exporter, exporters not reached, those given up on request.

    `left_because` says why something of it stays; it is empty where nothing does.
    """

    name: str
    sessions: int = 0
    delivered: dict[str, int] = field(default_factory=dict)
    unreached: list[str] = field(default_factory=list)
    discarded: list[str] = field(default_factory=list)
    elsewhere: str = ""

    @property
    def left_because(self) -> str:
        """Why something stays in the journal."""
        if self.elsewhere:
            return self.elsewhere
        return f"{' and '.join(self.unreached)} could not be reached" if self.unreached else ""


def _read(left: Left, deliver_from: Position | None = None) -> Iterator[tuple[list[Finished], Position]]:
    """What finished in a journal, segment by segment; last what its process left open."""
    joiner = Joiner()
    at = START
    for number, path in segment_files(*left.folders):
        try:
            chunk = path.read_bytes().rstrip(b"\0")
        except OSError as exc:
            health.warn_once("journal.unreadable", "rollspan: cannot read %s: %s", path, exc)
            continue
        at = Position(number, len(chunk))
        yield joiner.feed(chunk, Position(number, 0), deliver_from), at
    rest = joiner.rest(at.segment + 1)
    yield rest, rest[-1].at if rest else Position(at.segment + 1, 0)


def _settings_of(left: Left, mine: Settings) -> Settings:
    """Settings that deliver where the dead process would have."""
    theirs: Mapping[str, Any] = left.get("settings") or {}
    known: dict[str, Any] = {
        name: tuple(theirs[name]) if isinstance(theirs[name], list) else theirs[name]
        for name in ("file_mode", "file_max_bytes", "traces_exporters", "records_exporters")
        if name in theirs
    }
    if mine.endpoint is not None:  # somebody chose another place for them
        known.update(traces_exporters=("otlp",), records_exporters=("otlp",))
    return replace(mine, rank=int(left.get("rank") or 0), **known)


def _known_ids(folders: set[Path], rank: int) -> set[str]:
    return {trace_id for folder in folders for trace_id in known_ids(folder, rank)}


def _skip_known(batch: Batch, known: set[str]) -> Batch:
    return Batch(
        batch.end,
        [f for f in batch.finished if f.trace.record is None or f.trace.record.get("trace_id") not in known],
    )


def _deliver(
    left: Left, delivery: Delivery, outcome: Outcome, *, known: set[str] | None, deadline: float
) -> bool:
    """Bring one exporter to the journal's end; False where it could not be reached in time."""
    for finished, end in _read(left, delivery.cursor):
        for whole in batches(finished, end):
            if whole.end <= delivery.cursor and not whole.finished:
                continue
            batch = _skip_known(whole, known) if known is not None else whole
            taken = [f for f in batch.finished if f.at > delivery.cursor]
            for _ in range(3):
                remaining = deadline - time.monotonic()
                if remaining <= 0.0:
                    return False
                if delivery.attempt(batch, min(remaining, EXPORT_TIMEOUT)):
                    break
                time.sleep(0.2)
            else:
                return False
            if not delivery.name.endswith("traces"):
                taken = [f for f in taken if f.trace.record is not None]
            before = outcome.delivered.get(delivery.name, 0)
            outcome.delivered[delivery.name] = before + max(len(taken) - delivery.rejected, 0)
            delivery.rejected = 0
    return True


def _finish(left: Left, *, keep: bool, to: Path | None) -> None:
    """Everything is delivered: let go of the journal, or keep it for replay, beside the records."""
    hot, disk = left.folders
    home = disk if to is None else place.disk_root(to) / disk.name
    if keep:
        try:
            make_folder(home)
            for _, path in segment_files(hot, disk):
                if path.parent != home:
                    (home / path.name).write_bytes(path.read_bytes().rstrip(b"\0"))
            (home / owner.KEPT).touch(mode=0o600)
            owner.write_small(home / owner.HEADER, {**left, "folder": str(home), "disk": str(home)})
        except OSError as exc:
            health.warn_once(
                "journal.not_kept", "rollspan: cannot keep the journal in %s: %s", home, exc.strerror or exc
            )
            return
    owner.remove(*(folder for folder in left.folders if not keep or folder != home))


def deliver_left(
    left: Left,
    settings: Settings,
    *,
    network: bool,
    deadline: float,
    keep: bool = False,
    discard: bool = False,
    to: Path | None = None,
) -> Outcome:
    """Deliver what a dead process left, the file first. To be called with the journal locked."""
    outcome = Outcome(str(left.get("name", "?")))
    theirs = replace(_settings_of(left, settings), dir=to or settings.dir)
    resource = left.get("resource") or {}
    cursors = left.cursors
    complete = True
    for exporter in exporters.build(theirs):
        delivery = Delivery(exporter, resource, insists=True)
        delivery.cursor = cursors.get(delivery.name, START)
        is_file = delivery.name == "file"
        try:
            if not is_file and not network:
                complete = False
                outcome.elsewhere = (
                    "its endpoints are not this process's; `rollspan recover` delivers to them"
                )
                continue
            known = _known_ids({settings.dir, theirs.dir}, theirs.rank) if is_file else None
            if not _deliver(left, delivery, outcome, known=known, deadline=deadline):
                complete = False
                outcome.unreached.append(delivery.name)
            cursors[delivery.name] = delivery.cursor
            with contextlib.suppress(OSError):
                owner.save_cursors(left.folders[0], cursors)
        finally:
            exporter.close()
    outcome.sessions = outcome.delivered.get("file", 0)
    if discard and outcome.unreached and "file" not in outcome.unreached:
        complete = True
        outcome.discarded, outcome.unreached = outcome.unreached, []
    if complete:
        _finish(left, keep=keep, to=to)
    return outcome


def recover(
    settings: Settings,
    endpoints: Mapping[str, str] | None,
    *,
    skip: str = "",
    timeout: float = 60.0,
    discard: bool = False,
    to: Path | None = None,
) -> list[Outcome]:
    """Deliver every journal of the data directory whose process is dead.

    Where a journal's header names other endpoints than `endpoints`, only its records are written to the file.
    With None each journal goes where its header says, or to `settings.endpoint`. With `discard` what no
    endpoint takes in time is thrown away, once the file has its records. The file is written below `to` where
    that is given: the data directory may be one that takes no files.
    """
    outcomes = []
    for left in owner.journals(settings.dir, settings.journal_dir):
        if left.get("name") == skip or left.kept:
            continue
        with left.locked() as held:
            if not held:
                if held is False and left.elsewhere:
                    outcomes.append(
                        Outcome(
                            str(left.get("name")), elsewhere=f"part of it lies on host {left.get('host')}"
                        )
                    )
                continue
            theirs = left.get("endpoints") or {}
            network = endpoints is None or dict(theirs) == dict(endpoints)
            with _environment(theirs if endpoints is None and settings.endpoint is None else {}):
                deadline = time.monotonic() + timeout
                outcomes.append(
                    deliver_left(
                        left,
                        settings,
                        network=network,
                        deadline=deadline,
                        keep=_keeps(left),
                        discard=discard,
                        to=to,
                    )
                )
    return outcomes


@contextlib.contextmanager
def _environment(endpoints: Mapping[str, str]) -> Iterator[None]:
    """The endpoints of the dead process, where this one's environment says nothing else."""
    added = [name for name in endpoints if not os.environ.get(name)]
    os.environ.update({name: endpoints[name] for name in added})
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


def _keeps(left: Left) -> bool:
    return bool((left.get("settings") or {}).get("journal_keep"))


def adopt(settings: Settings, endpoints: Mapping[str, str], *, skip: str) -> None:
    """What a starting process does for those that died before it; says so once."""
    outcomes = recover(settings, endpoints, skip=skip, timeout=10.0)
    found = sum(o.sessions for o in outcomes)
    if found:
        health.logger.info("rollspan: %d sessions of processes that died were recovered", found)


def open_sessions(directory: Path, journal_dir: Path | None = None) -> list[Record]:
    """Sessions that have not ended, of live and dead processes: records as far as the journals tell.

    Extra keys: `rank`, `pid`, `host`, `alive`, `age_s`, `as_of_s` (how old that knowledge is), `open_phases`
    (names, outermost first).
    """
    found: list[Record] = []
    for left in owner.journals(directory, journal_dir):
        if left.kept:
            continue
        joiner = Joiner()
        for number, path in segment_files(*left.folders):
            with contextlib.suppress(OSError):  # let go of meanwhile
                chunk = path.read_bytes().rstrip(b"\0")
                joiner.feed(chunk[: chunk.rfind(b"\n") + 1], Position(number, 0), Position(1 << 62, 0))
        alive = not _dead(left)
        for trace_hex, trace in joiner.open.items():
            assembled = lines.assemble(trace_hex, trace.lines, over=False)
            record = fold.fold_trace(assembled.spans) if assembled is not None else None
            if assembled is None or record is None:
                continue
            record.update(
                pid=left.get("pid"),
                host=left.get("host"),
                alive=alive,
                age_s=max(time.time() - record["submit_ts"], 0.0),
                as_of_s=max(time.time() - assembled.spans[0].end_ns / 1e9, 0.0),
                open_phases=list(assembled.open_names),
            )
            record.setdefault("rank", left.get("rank"))
            found.append(record)
    return found


def replayable(settings: Settings) -> list[Left]:
    """The journals below the data directory that can be sent again: kept ones, and those of dead processes."""
    return [left for left in owner.journals(settings.dir, settings.journal_dir) if left.kept or _dead(left)]


def _dead(left: Left) -> bool:
    with left.locked() as dead:
        return bool(dead)


def replay(settings: Settings, journals: Iterable[Left], *, timeout: float = 60.0) -> list[Outcome]:
    """Send journals to the exporters of `settings`, from their start.

    Spans and ids are the same to the byte each time, so a backend that has the spans shows none twice. Records
    are log events, which have no id of their own, and are there twice then.
    """
    outcomes = []
    for left in journals:
        outcome = Outcome(str(left.get("name", "?")))
        for exporter in exporters.build(settings):
            if exporter.name == "file":
                continue
            delivery = Delivery(exporter, left.get("resource") or {}, insists=True)
            try:
                if not _deliver(left, delivery, outcome, known=None, deadline=time.monotonic() + timeout):
                    outcome.unreached.append(delivery.name)
            finally:
                exporter.close()
        outcome.sessions = max(outcome.delivered.values(), default=0)
        outcomes.append(outcome)
    return outcomes

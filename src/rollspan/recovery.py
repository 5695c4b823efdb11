"""Journals without their process: delivered by the next start or `rollspan recover`, looked at, replayed."""

from __future__ import annotations

import contextlib
import functools
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import exporters, fold, health, lines, owner, place
from .config import Settings
from .delivery import Batch, Delivery, batches, carried
from .exporters.known import KnownIds
from .joiner import Joiner, lines_of
from .journal import START, Position
from .left import Left, Standing, journals, sweep
from .segments import make_folder

if TYPE_CHECKING:
    from .finished import FinishedTrace
    from .record import Record


END = Position(1 << 62, 0)  # where an exporter is that has all of a dead process's journal


@dataclass
class Outcome:
    """What became of one journal: numbers by exporter, exporters not reached, not tried, given up on request.

    `works` is how many traces without a record, of steps and the like, the file got.
    `gone` is the host whose part of it was given up. `left_because` says why something of it stays; it is empty
    where nothing does.
    """

    name: str
    delivered: dict[str, int] = field(default_factory=dict)
    unreached: list[str] = field(default_factory=list)
    untried: list[str] = field(default_factory=list)
    discarded: list[str] = field(default_factory=list)
    works: int = 0
    elsewhere: str = ""
    gone: str = ""

    @property
    def left_because(self) -> str:
        """Why something stays in the journal."""
        if self.elsewhere:
            return f"part of it lies on host {self.elsewhere}; run this there, or with --discard if that host is gone"
        return f"{' and '.join(self.unreached)} could not be reached" if self.unreached else ""


def _read(left: Left, deliver_from: Position | None = None) -> Iterator[tuple[list[FinishedTrace], Position]]:
    """What finished in a journal, segment by segment; last what its process left open."""
    joiner = Joiner()
    at = START
    for number, path in left.segments:
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
    theirs = left.settings
    known: dict[str, Any] = {
        name: tuple(theirs[name]) if isinstance(theirs[name], list) else theirs[name]
        for name in ("file_mode", "file_max_bytes", "traces_exporters", "records_exporters")
        if name in theirs
    }
    if mine.endpoint is not None:  # somebody chose another place for them
        known.update(traces_exporters=("otlp",), records_exporters=("otlp",))
    return replace(mine, rank=int(left.get("rank") or 0), **known)


def _skip_known(batch: Batch, known: set[str]) -> Batch:
    return Batch(batch.end, [finished for finished in batch.finished if _trace_id(finished) not in known])


def _trace_id(finished: FinishedTrace) -> Any:
    record = finished.record
    return f"{finished.spans[0].trace_id:032x}" if record is None else record.get("trace_id")


def _deliver(
    left: Left,
    delivery: Delivery,
    outcome: Outcome,
    seconds_left: Callable[[], float],
    *,
    known: KnownIds | None = None,
    note: Callable[[], None] = lambda: None,
    tries: int = 3,
) -> bool:
    """Bring one exporter to the journal's end; False where it could not be reached in time.

    `note` is called when it has got on. Of traces that are `known` it has all already.
    """
    ids: set[str] | None = None
    for finished, end in _read(left, delivery.cursor):
        for batch in batches(finished, end):
            if batch.end <= delivery.cursor and not batch.finished:
                continue
            if known is not None and batch.finished:
                ids = known.now() if ids is None else ids
                batch = _skip_known(batch, ids)  # noqa: PLW2901
            taken = [f for f in batch.finished if f.at > delivery.cursor]
            for more in reversed(range(tries)):
                if seconds_left() <= 0.0:
                    return False
                if delivery.attempt(batch, min(seconds_left(), delivery.timeout)):
                    break
                if not more:
                    return False
                time.sleep(0.2)
            number = carried(delivery.name, taken)
            before = outcome.delivered.get(delivery.name, 0)
            outcome.delivered[delivery.name] = before + max(number - delivery.rejected, 0)
            delivery.rejected = 0
            if delivery.name == "file":
                outcome.works += sum(each.is_work for each in taken)
            note()
    delivery.cursor = END
    note()
    return True


def _finish(left: Left, *, keep: bool, to: Path | None) -> None:
    """Everything is delivered: let go of the journal, or keep it for replay, beside the records."""
    home = left.disk if to is None else place.disk_root(to) / left.disk.name
    if keep:
        try:
            make_folder(home)
            for _, path in left.segments:
                if path.parent != home:
                    (home / path.name).write_bytes(path.read_bytes().rstrip(b"\0"))
            (home / owner.KEPT).touch(mode=0o600)
            owner.write_small(
                home / owner.HEADER, {**left, "folder": str(home), "disk": str(home), "more": []}
            )
        except OSError as exc:
            health.warn_once(
                "journal.not_kept", "rollspan: cannot keep the journal in %s: %s", home, exc.strerror or exc
            )
            return
    owner.remove(*(folder for folder in left.folders if not keep or folder != home))


def deliver_left(
    left: Left,
    settings: Settings,
    seconds_left: Callable[[], float],
    known: Callable[[int], KnownIds],
    *,
    wanted: Callable[[str], bool] = lambda exporter: True,
    tries: int = 3,
    discard: bool = False,
    to: Path | None = None,
) -> Outcome:
    """Deliver what a dead process left to those of its exporters that are `wanted`, the file first.

    To be called with the journal locked. Nothing stays of it where all of them have all, or with `discard`, once
    the file has its part. `known` gives what the files of a rank hold, the same for all journals.
    """
    outcome = Outcome(left.name)
    theirs = replace(_settings_of(left, settings), dir=to or settings.dir)
    cursors = left.cursors
    also = left.get("also") if to is None else None  # whoever wants it elsewhere wants nothing where it was
    for exporter in [*exporters.build(theirs), *exporters.further_of(also or {})]:
        delivery = Delivery(exporter, left.get("resource") or {}, insists=True)
        delivery.cursor = cursors.get(delivery.name, START)
        if delivery.cursor == END:
            continue
        if not wanted(delivery.name):
            outcome.untried.append(delivery.name)
            continue

        def note(delivery: Delivery = delivery) -> None:
            cursors[delivery.name] = delivery.cursor
            left.save_cursors(cursors)

        ids = known(theirs.rank) if delivery.name == "file" else None
        try:
            if not _deliver(left, delivery, outcome, seconds_left, known=ids, note=note, tries=tries):
                outcome.unreached.append(delivery.name)
        finally:
            exporter.close(max(min(seconds_left(), 10.0), 0.1))
    if discard and "file" not in outcome.unreached:
        outcome.discarded, outcome.unreached = outcome.unreached, []
    if not outcome.unreached and not outcome.untried:
        _finish(left, keep=_keeps(left), to=to)
    return outcome


def held(settings: Settings, skip: str = "") -> Iterator[tuple[Left, Standing]]:
    """The journals of dead processes, each locked until the next one is asked for."""
    for left in journals(settings.dir, settings.journal_dir):
        if left.name == skip or left.kept:
            continue
        with left.locked() as standing:
            if standing is not Standing.HELD and not left.kept:  # somebody may have kept it just now
                yield left, standing


def known_below(*directories: Path) -> Callable[[int], KnownIds]:
    """What the files of a rank below these directories hold; they are read once, and then what is new in them."""
    return functools.cache(lambda rank: KnownIds(rank, *directories))


def _within(seconds: float) -> Callable[[], float]:
    until = time.monotonic() + seconds
    return lambda: until - time.monotonic()


def recover(
    settings: Settings, *, timeout: float = 60.0, discard: bool = False, to: Path | None = None
) -> list[Outcome]:
    """Deliver every journal of the data directory whose process is dead, within `timeout` seconds each.

    It goes where its header says, or to `settings.endpoint`. With `discard` what no endpoint takes in time is
    thrown away, once the file has its records, and what lies on another host is given up. The file is written
    below `to` where that is given: the data directory may be one that takes no files.
    """
    sweep(settings.dir, settings.journal_dir)
    outcomes = []
    known = known_below(settings.dir, to or settings.dir)
    for left, standing in held(settings):
        host = str(left.get("host", "?"))
        if standing is Standing.ELSEWHERE and not discard:
            outcomes.append(Outcome(left.name, elsewhere=host))
            continue
        with _environment(left.endpoints if settings.endpoint is None else {}):
            outcome = deliver_left(left, settings, _within(timeout), known, discard=discard, to=to)
        if standing is Standing.ELSEWHERE:
            outcome.gone = host
        outcomes.append(outcome)
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
    return bool(left.settings.get("journal_keep"))


def open_sessions(directory: Path, journal_dir: Path | None = None) -> list[Record]:
    """Sessions that have not ended, of live and dead processes: records as far as the journals tell.

    Extra keys: `rank`, `pid`, `host`, `alive`, `age_s`, `as_of_s` (how old that knowledge is), `open_phases`
    (names, outermost first).
    """
    found: list[Record] = []
    for left in journals(directory, journal_dir):
        if left.kept:
            continue
        joiner = Joiner()
        for number, path in left.segments:
            with contextlib.suppress(OSError):  # let go of meanwhile
                chunk = path.read_bytes().rstrip(b"\0")
                joiner.feed(chunk[: chunk.rfind(b"\n") + 1], Position(number, 0), Position(1 << 62, 0))
        with left.locked() as standing:
            alive = standing is Standing.HELD
        for trace_hex, trace in joiner.open.items():
            assembled = lines.assemble(trace_hex, lines_of(trace), over=False)
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
    return [left for left in journals(settings.dir, settings.journal_dir) if left.kept or _is_left(left)]


def _is_left(left: Left) -> bool:
    with left.locked() as standing:
        return standing is Standing.LEFT


def replay(settings: Settings, chosen: Iterable[Left], *, timeout: float = 60.0) -> list[Outcome]:
    """Send journals to the exporters of `settings`, from their start.

    Spans and ids are the same to the byte each time, so a backend that has the spans shows none twice. Records
    are log events, which have no id of their own, and are there twice then.
    """
    outcomes = []
    for left in chosen:
        outcome = Outcome(left.name)
        for exporter in exporters.build(settings):
            if exporter.name == "file":
                continue
            delivery = Delivery(exporter, left.get("resource") or {}, insists=True)
            try:
                if not _deliver(left, delivery, outcome, _within(timeout)):
                    outcome.unreached.append(delivery.name)
            finally:
                exporter.close()
        outcomes.append(outcome)
    return outcomes

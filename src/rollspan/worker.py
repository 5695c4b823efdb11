"""The one worker of a process: reads the journal, folds what has ended, hands it to the deliveries."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from . import health
from .delivery import ThreadedDelivery, batches
from .finished import FinishedTrace
from .joiner import Joiner
from .journal import START, Journal, Position
from .segments import Segment

if TYPE_CHECKING:
    from .exporters.base import MetricsSink
    from .machinery import OpenTrace

TICK = 0.2  # seconds between looks at the journal; a new segment is looked at at once
# While callers wrote more than so many bytes since the last look they are not disturbed: what they wrote is read in the
# first quiet moment, or after so many seconds, or segments. A trainer that takes or submits a batch does so in one go.
BURST = 64 << 10
PATIENCE = 1.0
MOST_BEHIND = 1
FILE_GRACE = 20.0  # seconds beyond the deadline in which a backlog may still go to the file at exit
HOT_BYTES = 32 << 20  # of the journal, kept mapped; what exporters have not taken beyond that goes to disk
# Old segments are let go of when lines of open traces, which are copied, take at most this part of them.
FEW = 1 / 4
FEW_FOR_ROOM = 1 / 2  # the same where the journal is over its bound


class Worker:
    """Owns the journal's reading end; each delivery has a thread of its own, so none waits for another."""

    def __init__(
        self,
        journal: Journal,
        lock: threading.RLock,
        live: Mapping[bytes, OpenTrace],
        *,
        is_open: Callable[[bytes], bool],
        keep_up: Callable[[], None],
        build: Callable[[], tuple[Sequence[ThreadedDelivery], MetricsSink | None]],
        further: Callable[[int], Sequence[ThreadedDelivery]] = lambda after: (),
        max_bytes: int,
        checkpoint_interval: float,
        disk: Path,
        keep: bool,
        save_cursors: Callable[[Mapping[str, Position]], None],
    ) -> None:
        """`build` makes deliveries and metrics, in the worker's thread: loading them takes a while.

        `further` makes deliveries that came to be wanted since, but for so many that it has made already.
        `live` are the open sessions, by trace id; `is_open` knows the open steps as well. `keep_up` has these written
        what is new in them.
        """
        self._journal = journal
        self._lock = lock
        self._live = live
        self._is_open = is_open
        self._keep_up = keep_up
        self._build: Callable[[], tuple[Sequence[ThreadedDelivery], MetricsSink | None]] | None = build
        self._deliveries: Sequence[ThreadedDelivery] = ()
        self._metrics: MetricsSink | None = None
        self._further = further
        self._made_further = 0
        self._max_bytes = max_bytes
        self._checkpoint_interval = checkpoint_interval
        self._disk = disk
        self._keep = keep
        self._save_cursors = save_cursors
        self._joiner = Joiner()
        self._head = START
        self._looked_to = START
        self._read_at = 0.0
        self._saved: dict[str, Position] = {}
        self._broken: set[Position] = set()  # ends of traces whose loss is counted already
        self._over_bound = False
        self._next_checkpoint = time.monotonic() + checkpoint_interval
        self._ticking = threading.Lock()
        self._wake = threading.Event()
        self._stopping = False
        self.built = threading.Event()
        self._thread = threading.Thread(target=self._run, name="rollspan-worker", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def wake(self) -> None:
        """Look at the journal now."""
        self._wake.set()

    def _run(self) -> None:
        while not self._stopping and not self._journal.abandoned:
            self._wake.wait(TICK)
            self._wake.clear()
            self._guarded(self.look)

    def look(self) -> None:
        """Read what is new, or put it off for as long as callers are in a burst."""
        if self._puts_off():
            self._keep_whole()
        else:
            self.tick()

    def _puts_off(self) -> bool:
        """Whether callers are in a burst, and what they wrote may wait."""
        before, self._looked_to = self._looked_to, self._journal.end
        written = self._looked_to.offset - before.offset
        in_a_burst = self._looked_to.segment > before.segment or written > BURST
        is_near = self._looked_to.segment - self._head.segment <= MOST_BEHIND
        return in_a_burst and is_near and self._build is None and time.monotonic() - self._read_at < PATIENCE

    def _keep_whole(self) -> None:
        """See that the journal has all that is new, and room for more."""
        with self._ticking:
            if not self._stopping:
                self._checkpoint()
                self._guarded(self._keep_up)
                self._journal.prepare()

    @staticmethod
    def _guarded(work: Callable[[], None]) -> None:
        try:
            work()
        except Exception:  # noqa: BLE001
            try:
                health.internal_error("worker")
            except Exception:  # noqa: BLE001 - under our own tests; the worker itself must go on
                health.logger.exception("rollspan: the worker goes on")

    def tick(self) -> None:
        """Take what is new in the journal to the exporters, and look after the journal itself."""
        with self._ticking:
            if self._stopping:
                return
            if self._build is not None:
                try:
                    self._deliveries, self._metrics = self._build()
                    self._build = None  # a failed one is tried again with the next tick
                finally:
                    self.built.set()
            self._guarded(self._make_further)
            self._checkpoint()
            self._guarded(self._keep_up)
            while not self._journal.abandoned:
                chunk, begins, ends = self._journal.read(self._head)
                if not chunk:
                    break
                if begins.segment > self._head.segment:  # callers that are quicker are never caught up with
                    self._look_after()
                self._take(self._joiner.feed(chunk, begins), ends)
                self._head = ends
                self._journal.prepare()
            self._look_after()
            self._read_at = time.monotonic()
        health.speak()

    def _make_further(self) -> None:
        made = self._further(self._made_further)
        for delivery in made:
            delivery.cursor = self._head
        if made:
            self._made_further += len(made)
            self._deliveries = [*self._deliveries, *made]

    def _look_after(self) -> None:
        self._checkpoint()
        self._tend()
        if self._metrics is not None:
            self._metrics.tick()

    def _take(self, finished: list[FinishedTrace], end: Position) -> None:
        if self._metrics is not None and self._metrics.wanted():
            for each in finished:
                if (record := each.record) is not None:
                    self._metrics.record(record)
        for batch in batches(finished, end):
            for delivery in self._deliveries:
                delivery.offer(batch)

    def _checkpoint(self) -> None:
        now = time.monotonic()
        if now < self._next_checkpoint:
            return
        self._next_checkpoint = now + self._checkpoint_interval
        older_than = int(self._checkpoint_interval * 1e9)
        for trace in list(self._live.values()):
            trace.checkpoint(older_than)

    # The journal's room.

    def _tend(self) -> None:
        """Save cursors, let go of segments that nobody needs, keep within the bound."""
        cursors = {d.name: d.cursor for d in self._deliveries if not d.off}
        self._release(min([self._head, *cursors.values()]))
        self._keep_within_bound()
        self._journal.cool(HOT_BYTES, self._disk)
        if cursors != self._saved:
            self._save_cursors(cursors)
            self._saved = cursors

    def _release(self, needed: Position) -> None:
        """Let go of what every exporter is past."""
        back = self._joiner.reaching_back
        while back and back[0].end <= needed:
            back.popleft()
        self._broken = {end for end in self._broken if end > needed}
        while worth := self._worth_carrying(self._first_needed(needed), FEW):
            for segment in worth:
                if not self._carry(segment):
                    return
                self._let_go(segment)

    def _first_needed(self, at: Position) -> int:
        """Number of the first segment that an exporter at this position still needs."""
        return min([at.segment, *(r.first_segment for r in self._joiner.reaching_back if r.end > at)])

    def _worth_carrying(self, before: int, few: float) -> list[Segment]:
        """The oldest segments, as many as it takes for lines of open traces to be few in them; else none.

        Always the oldest ones: a trace whose end was let go of before its beginning would look open.
        """
        worth = []
        live = used = 0
        for segment in self._journal.segments_before(before):
            worth.append(segment)
            live += self._joiner.live_bytes[segment.number]
            used += segment.used
            if live <= few * used:
                return worth
        return []

    def _carry(self, segment: Segment) -> bool:
        """Write the lines of open traces again, behind the others; False where one has ended meanwhile.

        Its last line is written and not read yet: behind that one no line of it may come, so its segment stays.
        """
        if not self._joiner.live_bytes[segment.number]:
            return True
        whole = True
        for trace_hex, trace in list(self._joiner.open.items()):
            here = [line + b"\n" for number, line in trace.values() if number == segment.number]
            if not here:
                continue
            with self._lock:
                if self._is_open(trace_hex) or self._head == self._journal.end:
                    self._journal.append(b"".join(here))
                else:
                    whole = False
        return whole

    def _let_go(self, segment: Segment) -> None:
        self._journal.release(segment, self._disk if self._keep else None)

    # Its bound.

    def _keep_within_bound(self) -> None:
        """Give segments up as long as that makes room and the file of records loses nothing."""
        while self._journal.bytes_held() > self._max_bytes:
            worth = self._worth_carrying(self._first_for_file(), FEW_FOR_ROOM)
            if not worth or not all(self._give_up(segment) for segment in worth):
                break
        over = self._journal.bytes_held() > self._max_bytes
        if over and not self._over_bound:
            health.warn_once(
                "journal.over_bound",
                "rollspan: the journal takes more than its %d bytes: open sessions, or records that are still to be "
                "written to the file, need them (ROLLSPAN_JOURNAL_MAX_BYTES)",
                self._max_bytes,
            )
        self._over_bound = over

    def _first_for_file(self) -> int:
        """The first segment that may not be given up: the file needs it and can be written to, or it is unread."""
        for delivery in self._deliveries:
            if delivery.name == "file" and not delivery.off and delivery.ready():
                return self._first_needed(min(delivery.cursor, self._head))
        return self._head.segment

    def _give_up(self, segment: Segment) -> bool:
        """The slowest exporters go on behind this segment, unless it has to stay; what they miss is counted.

        That is what ended in it, and what ended further on but began in it.
        """
        if not self._carry(segment):
            return False
        behind = Position(segment.number + 1, 0)
        back = self._joiner.reaching_back
        broken = {each.end for each in back if each.first_segment <= segment.number and each.end > behind}
        for delivery in self._deliveries:
            if delivery.off:
                continue
            at = delivery.cursor
            missed = sum(end > at for end in broken)
            if at < behind:
                missed += segment.ends_after(at.offset if at.segment == segment.number else 0)
                missed -= sum(at < end < behind for end in self._broken)
                delivery.cursor = behind
            if missed:
                delivery.missed += missed
                delivery.lose(missed, "journal_full", f"the journal's {self._max_bytes} bytes are full")
        self._broken |= broken
        self._joiner.reaching_back = deque(each for each in back if each.end not in broken)
        self._let_go(segment)
        return True

    # Flushing and ending.

    def flush(self, deadline: float, only: str | None = None) -> bool:
        """Deliver everything written so far; False where `deadline` (monotonic seconds) came first.

        With `only` the one exporter of that name is waited for, and metrics are not.
        """
        end = self._journal.end
        if not self._tick_until(deadline):
            return False
        for delivery in self._named(only):
            delivery.hurry()
        while time.monotonic() < deadline:
            if self._has_reached(end, only):
                if self._metrics is not None and only is None:
                    self._metrics.flush(max(deadline - time.monotonic(), 0.0))
                return True
            time.sleep(0.005)
        return self._has_reached(end, only)

    def _named(self, only: str | None) -> Sequence[ThreadedDelivery]:
        return [delivery for delivery in self._deliveries if only is None or delivery.name == only]

    def _has_reached(self, end: Position, only: str | None = None) -> bool:
        return self._build is None and all(delivery.caught_up(end) for delivery in self._named(only))

    def _tick_until(self, deadline: float) -> bool:
        """Run one tick in the worker's thread or in ours, whichever is free; False if the deadline passed."""
        if not self._ticking.acquire(timeout=max(deadline - time.monotonic(), 0.0)):
            return False
        self._ticking.release()
        self._guarded(self.tick)
        return True

    def abandon(self) -> None:
        """In a forked child: leave files and locks to the parent."""
        for delivery in self._deliveries:
            delivery.abandon()

    def close(self, deadline: float) -> bool:
        """Deliver what can be delivered by `deadline` and stop; whether everything was.

        Files have a grace beyond it, for as long as they get on: they do not hang as an endpoint does.
        """
        self._tick_until(deadline + FILE_GRACE)
        if self._ticking.acquire(timeout=max(deadline + FILE_GRACE - time.monotonic(), 0.0)):
            self._stopping = True
            self._ticking.release()
        self._wake.set()
        for delivery in self._deliveries:
            delivery.stop(deadline, FILE_GRACE if delivery.name == "file" else 0.0)
        for delivery in self._deliveries:
            delivery.join()
        if self._metrics is not None:
            self._metrics.close(max(deadline - time.monotonic(), 0.0))
        end = self._journal.end
        delivered = self._has_reached(end)
        self._save_cursors({d.name: d.cursor for d in self._deliveries})
        for delivery in self._deliveries:
            if delivery.caught_up(end):  # else its thread may still be in it
                delivery.exporter.close(max(deadline - time.monotonic(), 0.1))
        return delivered

"""One exporter and how far it is in the journal."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from . import health
from .exporters.base import Delivered, Exporter, Refused, Retry
from .finished import FinishedTrace
from .joiner import Joiner
from .journal import START, Journal, Position
from .spandata import AttributeValue

BATCH = 1024  # traces: a request costs as much as writing the spans of a hundred of them
EXPORT_TIMEOUT = 10.0  # seconds; OpenTelemetry's default for OTLP
_HANDED_OVER = 8  # batches that may wait here before the exporter has to read the journal itself
REST = 1.0  # seconds after a request in which those that follow wait for more to come, unless somebody is in a hurry
LONGEST_PAUSE = 30.0
UNSUPPORTED = "unsupported"  # why all is lost for an exporter that is off


class Batch(NamedTuple):
    """What finished in the journal up to `end`, and behind the batch before."""

    end: Position
    finished: Sequence[FinishedTrace]


def batches(finished: Sequence[FinishedTrace], end: Position) -> list[Batch]:
    """Cut into batches; the last one reaches to `end`, also where nothing finished."""
    cut: list[Sequence[FinishedTrace]] = [
        finished[i : i + BATCH] for i in range(0, len(finished), BATCH)
    ] or [()]
    return [Batch(end if part is cut[-1] else part[-1].at, part) for part in cut]


def carried(exporter: str, traces: Iterable[FinishedTrace]) -> int:
    """How many of these an exporter of that name has to do with: steps have no record, and spans may leave elsewhere."""
    if exporter.endswith("traces"):
        return sum(trace.export_spans for trace in traces)
    return sum(trace.has_record for trace in traces)


class Delivery:
    """Gives batches to one exporter, in order, each until it is delivered or refused for good."""

    def __init__(
        self, exporter: Exporter, resource: Mapping[str, AttributeValue], *, insists: bool = False
    ) -> None:
        """With `insists` nothing is refused for good: another try, with other credentials, may be answered."""
        self.exporter = exporter
        self.cursor = START
        self.off = False
        self._off_because = ""
        self.rejected = 0
        self.done = 0
        self.missed = 0
        """Traces that are done with, and that were given up for the journal's sake."""
        self._insists = insists
        self.timeout = max(EXPORT_TIMEOUT, exporter.timeout)
        self._resource = resource
        self._failures = 0
        self._retry_at = 0.0

    @property
    def name(self) -> str:
        """The exporter's name."""
        return self.exporter.name

    def ready(self) -> bool:
        """Whether the pause after a failure is over."""
        return time.monotonic() >= self._retry_at

    def hurry(self) -> None:
        """Forget the pause: a flush wants a try now."""
        self._retry_at = 0.0

    def abandon(self) -> None:
        """In a forked child: close what the exporter has open, without a word to the other end."""
        self.exporter.abandon()

    def attempt(self, batch: Batch, timeout: float) -> bool:
        """One try; whether the batch is done with and the cursor behind it."""
        traces = batch.finished
        if traces and traces[0].at <= self.cursor:
            traces = [trace for trace in traces if trace.at > self.cursor]
        if traces and not self.off:
            try:
                result = self.exporter.export(traces, self._resource, timeout)
            except Exception:  # noqa: BLE001 - a third-party exporter may raise anything
                health.internal_error(f"exporter.{self.name}")
                result = Refused("the exporter raised an exception")
            if self._insists and isinstance(result, Refused):
                result = Retry(result.reason)
            if isinstance(result, Retry):
                self._pause(result)
                return False
            self._settle(result, carried(self.name, traces))
        elif self.off:
            health.lost(self.name, carried(self.name, traces), UNSUPPORTED, self._off_because)
        self.done += len(traces)
        self._failures = 0
        self.cursor = max(self.cursor, batch.end)
        return True

    def _pause(self, result: Retry) -> None:
        self._failures += 1
        jitter = 0.75 + os.urandom(1)[0] / 512  # not from the job's own random stream
        pause = min(2.0 ** (self._failures - 1), LONGEST_PAUSE) * jitter
        self._retry_at = time.monotonic() + max(pause, result.after or 0.0)
        health.count(f"retries.{self.name}")
        health.warn_once(
            f"unreachable.{self.name}",
            "rollspan: %s cannot deliver (%s); what is not delivered stays in the journal and is tried again",
            self.name,
            result.reason,
        )

    def _settle(self, result: Delivered | Refused, n: int) -> None:
        if isinstance(result, Delivered):
            health.count(f"delivered.{self.name}", n - min(result.rejected, n))
            if result.rejected:
                self.rejected += result.rejected
                self.lose(result.rejected, "rejected", result.reason)
        elif result.unsupported:
            self.off = True
            self._off_because = result.reason
            health.lost(self.name, n, UNSUPPORTED, result.reason)
            health.warn_once(
                f"off.{self.name}",
                "rollspan: %s is switched off: the endpoint does not take it (%s)",
                self.name,
                result.reason,
            )
        else:
            self.lose(n, "refused", result.reason)

    def lose(self, n: int, why: str, reason: str) -> None:
        """Count what no repetition can mend."""
        health.lost(self.name, n, why, reason)
        health.warn_once(
            f"said.lost.{self.name}.{why}",
            "rollspan: %s lost %d %s: %s",
            self.name,
            n,
            health.unit(self.name, why),
            reason,
        )


class ThreadedDelivery(Delivery):
    """A delivery with a thread of its own: its exporter may hang, and nobody waits for it.

    It is handed batches while it keeps up. When it falls behind it lets them go and reads the journal from
    its cursor on, as a process that recovers the journal would, until it has caught up.
    """

    def __init__(
        self,
        exporter: Exporter,
        resource: Mapping[str, AttributeValue],
        journal: Journal,
        *,
        after: threading.Event | None = None,
        rest: float = 0.0,
    ) -> None:
        """It begins `after` that was set, if given; batches that are not full are sent `rest` seconds apart."""
        super().__init__(exporter, resource)
        self._journal = journal
        self._after = after
        self._rest = rest
        self._rested_at = 0.0
        self._hurried = False
        self._sending: Batch | None = None
        self._lock = threading.Lock()
        self._handed: deque[Batch] = deque()
        self._behind = False
        self._offered = START
        self._offered_traces = 0
        self._deadline: float | None = None
        self._grace = 0.0
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._in_line = False

    def offer(self, batch: Batch) -> None:
        """Called by the worker with every batch, in order."""
        with self._lock:
            self._offered = batch.end
            self._offered_traces += len(batch.finished)
            if not self._behind:
                self._hand_over(batch)
        if batch.finished and self._thread is None and not self._in_line:
            thread = threading.Thread(target=self._run, name=f"rollspan-{self.name}", daemon=True)
            try:
                thread.start()
                self._thread = thread
            except RuntimeError:  # the interpreter is ending and starts no more threads: `join` does the work
                self._in_line = True
        if batch.finished:
            self._wake.set()
        if self._thread is None and not self._in_line:  # nothing to send yet: only the cursor moves
            with self._lock:
                self._handed.clear()
                self.cursor = batch.end

    def _hand_over(self, batch: Batch) -> None:
        last = self._handed.pop() if self._handed and self._handed[-1] is not self._sending else None
        more = batch.finished if last is None else [*last.finished, *batch.finished]
        self._handed.extend(batches(more, batch.end))
        if len(self._handed) > _HANDED_OVER:
            self._handed.clear()
            self._behind = True

    def hurry(self) -> None:
        super().hurry()
        with self._lock:
            self._hurried = True
        self._wake.set()

    def caught_up(self, to: Position) -> bool:
        """Whether everything up to `to` is done with."""
        return self.off or self.cursor >= to

    @property
    def queued(self) -> int:
        """How many traces wait."""
        waiting = self._offered_traces - self.done - self.missed
        return 0 if self.caught_up(self._offered) else max(waiting, 0)

    def stop(self, deadline: float, grace: float) -> None:
        """Go on until everything offered is done with, or until `deadline` (monotonic seconds).

        After a failure that is the end; else there are `grace` more seconds.
        """
        self._grace = grace
        self._deadline = deadline
        self.hurry()

    def join(self) -> None:
        """Wait for the thread until its time is over; afterwards it is left behind, it is a daemon."""
        if self._in_line:
            if self._after is not None:
                self._after.wait(self._left())
            self._work()
        if self._thread is not None and self._deadline is not None:
            self._thread.join(max(self._deadline + self._grace - time.monotonic(), 0.0))

    def _left(self) -> float:
        if self._deadline is None:
            return self.timeout
        grace = 0.0 if self._failures else self._grace
        return max(self._deadline + grace - time.monotonic(), 0.0)

    def _run(self) -> None:
        while not self._journal.abandoned:
            try:
                self._wake.wait(0.2)
                self._wake.clear()
                self._work()
                if self._deadline is not None and (self.cursor >= self._offered or self._left() <= 0.0):
                    return
            except Exception:  # noqa: BLE001
                health.internal_error(f"delivery.{self.name}")
                time.sleep(1.0)

    def _may_begin(self) -> bool:
        return self._after is None or self._after.is_set()

    def _work(self) -> None:
        while self._may_begin() and self.ready() and self._left() > 0.0:
            with self._lock:
                behind = self._behind
                batch = self._sending = self._next_batch()
            if behind:
                if not self._catch_up():
                    return
            elif batch is None:
                return
            else:
                self._rested_at = time.monotonic() + self._rest
                done = self.attempt(batch, self._left())
                with self._lock:
                    self._sending = None
                    if done and self._handed and self._handed[0] is batch:
                        self._handed.popleft()

    def _next_batch(self) -> Batch | None:
        """What to send now, if anything: where others stand behind a batch, it is full."""
        if not self._handed:
            self._hurried = False
            return None
        batch = self._handed[0]
        may_wait = batch.finished and len(self._handed) == 1 and not self._hurried and self._deadline is None
        return None if may_wait and time.monotonic() < self._rested_at else batch

    def _catch_up(self) -> bool:
        """Deliver from the journal; whether the worker may hand over again."""
        joiner = Joiner()
        at = START
        while not self._journal.abandoned:
            chunk, begins, ends = self._journal.read(at)
            if not chunk:
                with self._lock:
                    if self.cursor >= self._offered or ends >= self._offered:
                        self.cursor = max(self.cursor, self._offered)
                        self._behind = False
                        self._handed.clear()
                        return True
                return False
            at = ends
            for batch in batches(joiner.feed(chunk, begins, self.cursor), ends):
                if batch.end > self.cursor and not self.attempt(batch, self._left()):
                    return False
        return False

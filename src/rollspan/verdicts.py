"""What becomes of a session: its verdict, whether it was consumed, and its end."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Mapping
from itertools import islice
from operator import attrgetter, itemgetter
from typing import TYPE_CHECKING, Any

from opentelemetry.trace import StatusCode

from . import clock, context, describe, health, native, semconv
from .attributes import MAX_SPAN_ATTRIBUTES, clean_into, error_type
from .lines import ATTRIBUTES, END
from .span import RolloutSpan
from .tracelog import TraceLog
from .waits import WaitingTrace

if TYPE_CHECKING:
    from .stats import RolloutStats

_GOOD = {semconv.STATUS: semconv.ACCEPTED, semconv.CONSUMED: True}
_STATS = tuple(
    (name, semconv.STATS_PREFIX + name) for name in ("accepted", "enqueued", "rejected", "running")
)
_row_of, _end_of = attrgetter("row"), itemgetter(END)

_CANCELLATIONS = (
    asyncio.CancelledError,
    concurrent.futures.CancelledError,
    GeneratorExit,
    KeyboardInterrupt,
    SystemExit,
)


class JudgedTrace(WaitingTrace):
    """A trace about which somebody decides. What is below is set by whoever makes it."""

    __slots__ = ("_block", "_consumed", "_ends_with", "_executing", "_session_id", "status")

    status: str
    _session_id: str | None
    _block: bool
    _consumed: bool | None
    _ends_with: RolloutSpan | None
    """The phase with which it ends, where a verdict fell inside of it."""
    _executing: tuple[RolloutSpan, ...]

    @property
    def session_id(self) -> str:
        """The session's name: the trace id, where none was given."""
        return self._session_id or self.trace_id

    def _mine(self, what: str) -> bool:
        """Whether this process may still change the session; says once why not."""
        if self.runtime.abandoned:
            health.warn_once(
                "api.wrong_process",
                "rollspan: %s is ignored: session %s belongs to the process that started it, or rollspan was shut down",
                what,
                self.session_id,
            )
            return False
        if self.ended:
            health.warn_once(
                f"api.ended.{what}", "rollspan: %s is ignored: session %s has ended", what, self.session_id
            )
            return False
        return True

    def _step(self) -> RolloutSpan | None:
        """The trainer's step that this belongs to now."""
        runtime = self.runtime
        return (context.current_step() or runtime.only_open_step()) if runtime.steps else None

    def _link(self, step: RolloutSpan, kind: str, number_key: str) -> None:
        ids_of_step = step.get_span_context()
        number = step.owner.number  # type: ignore[attr-defined]
        attributes = {semconv.LINK_KIND: kind, **({} if number is None else {semconv.STEP: number})}
        self._links = (
            *self._links,
            [f"{ids_of_step.trace_id:032x}", f"{ids_of_step.span_id:016x}", attributes],
        )
        if self.mirror is not None:
            self.mirror.add_link(ids_of_step, attributes)
        if number is not None:
            self.change({number_key: number})
        step.owner.tally(kind)  # type: ignore[attr-defined]

    # Verdicts.

    def mark_accepted(self, *, stats: RolloutStats | None = None, reward: float | None = None) -> None:
        """The verdict: good. The session goes on until `mark_consumed`, or `mark_dropped`."""
        self._verdict(semconv.ACCEPTED, None, stats=stats, reward=reward)

    def mark_rejected(
        self,
        reason: str | BaseException = semconv.SHOULD_ACCEPT_FALSE,
        *,
        stats: RolloutStats | None = None,
        reward: float | None = None,
    ) -> None:
        """The verdict: looked at and refused. Ends the session. Of an exception its type is the reason."""
        self._verdict(semconv.REJECTED, reason, stats=stats, reward=reward)

    def mark_failed(self, exc: BaseException | None = None, *, stats: RolloutStats | None = None) -> None:
        """The verdict: the workflow raised `exc`. Ends the session."""
        if exc is not None and not isinstance(exc, BaseException):
            health.warn_once(  # type: ignore[unreachable]  # what a caller without types may do
                "api.failed_by",
                "rollspan: mark_failed() takes the exception that was raised, and got %s: the failure is kept without it",
                type(exc).__name__,
            )
            exc = None
        self._verdict(semconv.FAILED, semconv.WORKFLOW_EXCEPTION, stats=stats, exc=exc)

    def mark_dropped(self, reason: str | BaseException, *, stats: RolloutStats | None = None) -> None:
        """Thrown away: before a verdict, or after having been accepted. Ends the session.

        Of an exception its type is the reason.
        """
        self._verdict(semconv.DROPPED, reason, stats=stats)

    def mark_consumed(self) -> None:
        """The trainer has it. Ends the session."""
        if not self._mine("mark_consumed()"):
            return
        try:
            with self.lock:
                if self.status == semconv.PENDING:
                    health.warn_once(
                        "api.consumed_without_verdict",
                        "rollspan: session %s was consumed without a verdict; it counts as accepted",
                        self.session_id,
                    )
                    self._set_status(semconv.ACCEPTED)
                elif self.status != semconv.ACCEPTED:
                    health.warn_once(
                        "api.consumed_not_accepted",
                        "rollspan: mark_consumed() is ignored: session %s was %s",
                        self.session_id,
                        self.status,
                    )
                    return
                step = self._step()
                if step is not None:
                    self._link(step, semconv.LINK_CONSUME, semconv.STEP_CONSUME)
                self._consumed = True
                self._end_soon()
        except Exception:  # noqa: BLE001
            health.internal_error("session.mark_consumed")

    def _verdict(
        self,
        status: str,
        reason: str | BaseException | None,
        *,
        stats: RolloutStats | None = None,
        reward: Any = None,
        exc: BaseException | None = None,
    ) -> None:
        if not self._mine(f"mark_{status}()"):
            return
        try:
            with self.lock:
                thrown_away = self.status == semconv.ACCEPTED and status == semconv.DROPPED
                if self.status != semconv.PENDING and not thrown_away:
                    health.warn_once(
                        "api.second_verdict",
                        "rollspan: mark_%s() is ignored: session %s already was %s",
                        status,
                        self.session_id,
                        self.status,
                    )
                    return
                if isinstance(reason, BaseException):
                    reason = error_type(reason)  # its message may hold a prompt
                if type(reward) is not int and type(reward) is not float:
                    reward = describe.number("reward", reward)
                extra: dict[str, Any] = {semconv.REWARD_SCORE: reward}
                if stats is not None:
                    for name, on_the_wire in _STATS:
                        extra[on_the_wire] = getattr(stats, name, None)
                if isinstance(exc, BaseException):
                    extra[semconv.ERROR_TYPE] = error_type(exc)
                self._set_status(status, reason, extra)
                if status == semconv.FAILED:
                    text = str(exc) if exc is not None and self.runtime.settings.capture_content else None
                    self.set_status(StatusCode.ERROR, text)
                if status == semconv.ACCEPTED:
                    if not self._block:
                        if not self._executing:
                            self._wait_for_trainer()
                        self._write()
                else:
                    self._end_soon()
        except Exception:  # noqa: BLE001
            health.internal_error("session.verdict")

    def _set_status(
        self, status: str, reason: str | None = None, extra: Mapping[str, Any] | None = None
    ) -> None:
        self.status = status
        self.bare = False
        changes: dict[str, Any] = {semconv.STATUS: status}
        if reason is not None or extra:
            clean_into(
                changes, {semconv.REASON: reason, **(extra or {})}, self.runtime.settings.attribute_max_bytes
            )
        self._change(changes)

    # The end.

    def _end_block(self) -> None:
        """End a session that is a block which nobody will leave; said from inside one of its phases, when that ends."""
        if self._mine("_end_block()"):
            with self.lock:
                self._end_with_phase()

    def _end_soon(self) -> None:
        """End now; or, said from inside a phase of the session or its block, when that ends."""
        if not self._block:
            self._end_with_phase()

    def _end_with_phase(self) -> None:
        current = context.current()
        if current is None or current.owner is not self or current is self:
            self._finish_now(self.now())
            return
        while current.parent is not None and current.parent is not self:
            current = current.parent
        self._ends_with = current
        self._write()
        if current.ended:  # meanwhile, in another thread, which may not have seen what waits for it
            self._finish_now(self.now())

    def finish(self, exc: BaseException | None = None) -> None:
        """The `with` block ends: without a verdict it was accepted and consumed, or failed, or cancelled."""
        runtime = self.runtime
        if runtime.abandoned:
            return
        with self.lock:
            if self.row[END] is not None:
                return
            if self.bare and exc is None and self._consumed is None and not runtime.steps:
                self._consumed = True  # most sessions: nothing was said of it
                self.bare = False
                self.status = semconv.ACCEPTED
                self.row[ATTRIBUTES].update(_GOOD)
                self._changes = {**self._changes, **_GOOD}
                self._end(clock.monotonic_ns() + self.offset)
                return
            if self.status == semconv.PENDING:
                if exc is None:
                    self._set_status(semconv.ACCEPTED)
                elif isinstance(exc, _CANCELLATIONS):
                    self._set_status(semconv.DROPPED, semconv.CANCELLED)
                else:
                    self._set_status(
                        semconv.FAILED,
                        semconv.WORKFLOW_EXCEPTION,
                        {semconv.ERROR_TYPE: error_type(exc)},
                    )
                    self.fail(exc)
            if self._consumed is None:
                self._consumed = self.status == semconv.ACCEPTED and exc is None
                if self._consumed and runtime.steps:
                    step = self._step()
                    if step is not None:
                        self._link(step, semconv.LINK_CONSUME, semconv.STEP_CONSUME)
            self._finish_now(self.now())

    def abort(self, reason: str) -> None:
        """Nobody goes on with it, its executor ends: it keeps its verdict, or is dropped for this reason. Ends it."""
        with self.lock:
            if self.ended:
                return
            if self.status == semconv.PENDING:
                self._set_status(semconv.DROPPED, reason)
            self._finish_now(self.now())

    def _finish_now(self, end: int) -> None:
        """End it, with what was said of it. The caller holds the lock."""
        if self.row[END] is None:
            # The status once more: a signal handler's exception may have kept its verdict from being noted.
            self._change({semconv.STATUS: self.status, semconv.CONSUMED: bool(self._consumed)})
            self._end(end)

    def _end(self, end: int) -> None:
        """Write the last line: the wait closed, phases still open clipped here.

        It is over once the line is written: where a signal handler's exception comes before, it can be ended again.
        """
        if self._wait is not None:
            self._close_wait(end)
        rows = list(map(_row_of, self.spans))
        if None in map(_end_of, rows):
            for span in self.spans[:]:  # each may bring a line, which takes others out
                if span.row[END] is None:
                    TraceLog.end_span(self, span, end, late=True)
        if self.mirror is not None:
            self._complete_mirror(end)
        if self.row[END] is None:  # else a signal handler has ended it in between
            self._write_end(end, rows)
            self.row[END] = end
            self._executing, self._ends_with = (), None  # which would be cycles
        self.runtime.live.pop(self.trace_hex, None)
        if self.mirror is not None:
            self.mirror.end(end)

    def _complete_mirror(self, end: int) -> None:
        """Tell a real root span what the session came to, while it can still be changed."""
        if self.mirror is not None:
            part = {
                "n": 0,
                "t": self.start_ns,
                "r": self.ref,
                "a": self.attributes,
                "s": self._kept,
                "e": end,
            }
            sums = self.runtime.root_sums(self.trace_hex, part)
            room = max(MAX_SPAN_ATTRIBUTES - len(self.attributes), 0)
            # An SDK would drop the first ones for more.
            self.mirror.set_attributes(dict(islice(sums.items(), room)))


native.works_with(stats=_STATS)

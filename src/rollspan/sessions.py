"""A session: one rollout from submission until it was consumed or thrown away."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from itertools import count
from typing import TYPE_CHECKING, Any

from . import clock, context, describe, health, native, plain, semconv
from .attributes import (
    MAX_ROOT_ATTRIBUTES,
    clean,
    clean_into,
    fit_name,
    fit_root,
)
from .lines import ATTRIBUTES, END, START
from .plain import are_plain
from .session_scopes import Block
from .span import RolloutSpan
from .spandata import KIND_INTERNAL
from .tracelog import TraceLog
from .verdicts import JudgedTrace

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

    from .machinery import Machinery

_submission = plain.kinds_of(describe.SUBMISSION)


class Session(Block, JudgedTrace):
    """Made by `rollspan.session()` and `rollspan.start_session()`; every method is safe from any thread."""

    __slots__ = ("_counters", "_life")

    def __init__(
        self,
        runtime: Machinery,
        given: Mapping[str, Any],
        block: bool,
        session_id: Any = None,
        tracer: Tracer | None = None,
    ) -> None:
        """`block`: the whole life is one `with` block, which has no waits. Else the queue begins now."""
        TraceLog.__init__(self, runtime, tracer)  # `super()` costs as much as a good part of the rest
        self.status = semconv.PENDING
        self._wait = None
        self._block = block
        self._counters: dict[str, int] | None = None
        self._ends_with: RolloutSpan | None = None
        self._executing: tuple[RolloutSpan, ...] = ()
        self._consumed: bool | None = None
        self._session_id = session_id
        own = self.row[ATTRIBUTES] = self._changes = {semconv.REQUEST_ID: next(runtime.request_ids)}
        if session_id is not None:
            self._session_id = own[semconv.SESSION_ID] = str(clean(session_id))
        self.bare = light = self.tracer is None
        if light and are_plain(_submission, given):
            own.update(given)
        elif given:
            put = plain.put if light else describe.put_described
            put(own, describe.SUBMISSION, given, runtime.settings)
            if len(own) > MAX_ROOT_ATTRIBUTES:
                self.row[ATTRIBUTES] = self._changes = fit_root({}, own)
        if self.mirror is not None:
            self.mirror.set_attributes(self.attributes)
        if runtime.steps:
            step = self._step()
            if step is not None:
                self._link(step, semconv.LINK_DISPATCH, semconv.STEP_DISPATCH)
        runtime.live[self.trace_hex] = self
        if not block:
            self._open_wait(semconv.QUEUE_WAIT, self.row[START])
        with self.lock:
            self._write_first()

    @property
    def attributes(self) -> dict[str, Any]:
        """The root's attributes."""
        return {**self.runtime.common, semconv.SESSION_ID: self.session_id, **self.row[ATTRIBUTES]}

    def __repr__(self) -> str:
        return f"<rollspan session {self.session_id} {self.status}>"

    def mark_enqueued(self) -> None:
        """Handed to whoever runs it: `queue_wait` ends, `runner_wait` begins. Again before a retry."""
        if not self._mine("mark_enqueued()"):
            return
        try:
            with self.lock:
                now = self.now()
                if self._block or self._waits_for(semconv.RUNNER_WAIT) or self._executing:
                    health.warn_once(
                        "api.enqueued",
                        "rollspan: mark_enqueued() is ignored: session %s is not in a queue",
                        self.session_id,
                    )
                    return
                self._close_wait(now, semconv.QUEUE_WAIT)
                self._open_wait(semconv.RUNNER_WAIT, now)
        except Exception:  # noqa: BLE001
            health.internal_error("session.mark_enqueued")

    # Phases.

    def start_phase(
        self, name: str, given: Mapping[str, Any], parent: RolloutSpan | None = None
    ) -> RolloutSpan | None:
        """Open a phase below the innermost one that is current, or None where the session is over."""
        if parent is None:
            if not self._mine("phase()"):
                return None
            current = context.current()
            parent = current if current is not None and current.owner is self else self
        if self._wait is not None and not self._waits_for(semconv.POST_WAIT):
            with self.lock:  # whoever works on it no longer waits for a runner
                self._work_begins(self.now())
        return self.start_span(name, parent, given)

    def start_execution(self, given: Mapping[str, Any]) -> RolloutSpan | None:
        """Open the phase `execution` below the root."""
        if not self._mine("execution()"):
            return None
        with self.lock:
            now = self.now()
            self._work_begins(now, semconv.RUNNER_WAIT if self._waits_for(semconv.POST_WAIT) else None)
            span = self.start_span(semconv.EXECUTION, self, given, now)
            self._executing += (span,)
            return span

    def _work_begins(self, now: int, wait: str | None = None) -> None:
        self._close_wait(now, wait)
        self.bare = self.tracer is None and self.status == semconv.PENDING

    def end_span(self, span: RolloutSpan, end_ns: int | None = None, *, late: bool = False) -> bool:
        """As `TraceLog.end_span`; the end of the last execution begins `post_wait`."""
        if not TraceLog.end_span(self, span, end_ns, late=late):  # `super()` costs as much as the rest
            return False
        if self.bare and span not in self._executing:  # nothing waits for its end
            return True
        # Whatever waits for a phase's end was brought about by a verdict.
        if (self._executing or self.status != semconv.PENDING) and not self.runtime.abandoned:
            with self.lock:
                self._after(span)
        return True

    def _after(self, span: RolloutSpan) -> None:
        """What the end of a phase brings with it. The caller holds the lock."""
        if self.ended:
            return
        end = span.row[END]
        if span in self._executing:
            self._executing = tuple(other for other in self._executing if other is not span)
            if not self._executing and not self._block:
                self._open_wait(semconv.POST_WAIT, end)
        if self._ends_with is span:
            self._finish_now(end)
        elif self.status != semconv.PENDING and not self._busy():
            self._write()

    def _busy(self) -> bool:
        """Whether a phase is open."""
        return any(span.row[END] is None and span is not self._wait for span in self.spans)

    def count(self, name: str, n: int = 1) -> None:
        """Add `n` to a counter of the session (`rollout.counter.<name>`)."""
        if not self._mine("count()"):
            return
        try:
            with self.lock:
                name = fit_name(name)
                counters = self._counters = self._counters or {}
                total = counters[name] = counters.get(name, 0) + int(n)
                changes: dict[str, Any] = {}
                clean_into(changes, {semconv.COUNTER_PREFIX + name: total}, 1024)
                self._change(fit_root(self.row[ATTRIBUTES], changes))
        except Exception:  # noqa: BLE001
            health.internal_error("session.count")

    def set_attribute(self, key: str, value: Any) -> None:
        """Set an attribute of the session's root."""
        if self._mine("set_attribute()"):
            super().set_attribute(key, value)

    def checkpoint(self, older_than_ns: int) -> None:
        """Write what is new of a long session: what it has finished, what is open (the worker calls this)."""
        with self.lock:
            age = clock.monotonic_ns() + self.offset - self.start_ns
            if not self.ended and age >= older_than_ns and self._new():
                self._write()

    def adopt(self, rows: list[list[Any]]) -> None:
        """Take finished spans that another process brought home."""
        if self.abandoned:
            return
        with self.lock:
            if self.ended:
                health.count("api.spans_after_end", len(rows))
                return
            for row in rows:
                self.keep(row)
            if self.status != semconv.PENDING and not self._busy():
                self._write()

    def carrier(self) -> dict[str, str]:
        """What takes this session to another process; see `rollspan.carrier`."""
        from .carriers import inject  # noqa: PLC0415

        current = context.current()
        return inject(current if current is not None and current.owner is self else self)

    def _common_attributes(self, name: str, parent: RolloutSpan) -> dict[str, Any]:
        above = semconv.SESSION if parent is self else parent.name
        return {semconv.SESSION_ID: self.session_id, semconv.PHASE: name, semconv.PARENT_PHASE: above}


native.works_with(
    session=Session, submission=_submission, semconv=vars(semconv), counting=count, internal=KIND_INTERNAL
)
native.stands_for("are_plain", sys.modules[__name__], "are_plain")
native.stands_for("begin", Session, "__init__")
native.stands_for("enqueued", Session, "mark_enqueued")
native.stands_for("execution", Session, "start_execution")
native.stands_for("make_execution", Session, "execution")
native.stands_for("end_span", Session, "end_span")
native.stands_for("add_span", Session, "add_span")
native.stands_for("accepted", Session, "mark_accepted")
native.stands_for("consumed", Session, "mark_consumed")

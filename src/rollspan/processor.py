"""The other door: rollout spans that were made with the plain OpenTelemetry API and the SDK."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider

from . import describe, health, lines, semconv, switch
from .attributes import clean_into

if TYPE_CHECKING:
    from .machinery import Machinery


def attach(provider: TracerProvider) -> None:
    """Put a processor of ours among the provider's, unless there is one."""
    processors = getattr(getattr(provider, "_active_span_processor", None), "_span_processors", ())
    if not any(isinstance(p, RolloutSpanProcessor) for p in processors):
        provider.add_span_processor(RolloutSpanProcessor())


class RolloutSpanProcessor(SpanProcessor):
    """Folds spans that carry `rollout.phase` into records, whoever made them.

    A root with `rollout.phase` = `session` begins a session; spans of its trace with a `rollout.phase` are its
    phases. The spans themselves leave by the provider's exporters, records by rollspan's. Spans made through
    rollspan's own API are known already and are passed over.
    """

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Begin a session, or note an open phase."""
        try:
            if _is_ours(span):
                return
            phase = (span.attributes or {}).get(semconv.PHASE)
            runtime = switch.runtime()
            if phase is None or runtime is None:
                return
            context = span.get_span_context()
            if span.parent is None:
                if phase == semconv.SESSION:
                    runtime.start()
                    _PlainSession(runtime, span)
                return
            known = runtime.live.get(_hex(context.trace_id))
            if isinstance(known, _PlainSession):
                known.note(span)
        except Exception:  # noqa: BLE001
            health.internal_error("processor.on_start")

    def on_end(self, span: ReadableSpan) -> None:
        """Take a finished phase, or finish the session."""
        try:
            if _is_ours(span) or semconv.PHASE not in (span.attributes or {}):
                return
            runtime = switch.runtime()
            context = span.get_span_context()
            if runtime is None or context is None:
                return
            known = runtime.live.get(_hex(context.trace_id))
            if known is None:
                if span.parent is not None:
                    health.count("processor.spans_without_session")
            elif isinstance(known, _PlainSession):
                known.take(span)
            elif span.parent is not None:
                known.adopt([_row(span, runtime)])
        except Exception:  # noqa: BLE001
            health.internal_error("processor.on_end")

    def shutdown(self) -> None:
        """Write everything out, for no longer than an exit may take."""
        runtime = switch.runtime()
        if runtime is not None:
            runtime.flush(runtime.settings.exit_timeout)

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Deliver what is finished; False where that took longer than the timeout."""
        return switch.flush(timeout_millis / 1000)


def _is_ours(span: ReadableSpan) -> bool:
    scope = span.instrumentation_scope
    return scope is not None and scope.name == semconv.SCOPE_NAME


def _hex(trace_id: int) -> bytes:
    return b"%032x" % trace_id


def _ref(span_id: int) -> str:
    return f"{span_id:016x}"


def _row(span: ReadableSpan, runtime: Machinery, *, end_ns: int | None = None) -> list[Any]:
    """A journal row; `end_ns` clips a span that is still open."""
    attributes: dict[str, Any] = {}
    clean_into(attributes, span.attributes or {}, runtime.settings.attribute_max_bytes)
    if not runtime.settings.capture_content:
        phase = str(attributes.get(semconv.PHASE, span.name))
        attributes = dict(describe.without_content(phase, attributes))
    context = span.get_span_context()
    start = span.start_time or 0
    end = span.end_time if end_ns is None else max(end_ns, start)
    if end_ns is not None:
        attributes[semconv.LATE] = True
    return [
        _ref(context.span_id if context is not None else 0),
        _ref(span.parent.span_id if span.parent is not None else 0),
        span.name,
        span.kind.value + 1,  # OTLP counts from 1
        start,
        end if end is not None else start,
        attributes,
        span.status.status_code.value,
        (span.status.description or "") if runtime.settings.capture_content else "",
    ]


class _PlainSession:
    """A session whose root and phases are another tracer's spans."""

    def __init__(self, runtime: Machinery, root: Span) -> None:
        context = root.get_span_context()
        assert context is not None
        self._runtime = runtime
        self._root = root
        self._hex = _hex(context.trace_id)
        self._open: dict[int, Span] = {}
        self._rows: list[list[Any]] = []
        self._sequence = 0
        row = _row(root, runtime, end_ns=0)
        with runtime.lock:
            runtime.live[self._hex] = self
            attributes = row[6]
            attributes.pop(semconv.LATE, None)
            attributes.setdefault(semconv.REQUEST_ID, next(runtime.request_ids))
            attributes.setdefault(semconv.RANK, runtime.settings.rank)
            if runtime.settings.run_id:
                attributes.setdefault(semconv.RUN_ID, runtime.settings.run_id)
            attributes.setdefault(semconv.STATUS, semconv.PENDING)
            attributes.setdefault(semconv.SESSION_ID, self._hex.decode())
            self._attributes = attributes
            self._write({"t": row[4], "r": row[0], "x": False, "a": attributes})

    def note(self, span: Span) -> None:
        context = span.get_span_context()
        if context is not None:
            with self._runtime.lock:
                self._open[context.span_id] = span

    def take(self, span: ReadableSpan) -> None:
        row = _row(span, self._runtime)
        context = span.get_span_context()
        with self._runtime.lock:
            if span.parent is not None:
                self._open.pop(context.span_id if context is not None else 0, None)
                self._rows.append(row)
                return
            end = row[5]
            for late in list(self._open.values()):
                self._rows.append(_row(late, self._runtime, end_ns=end))
            attributes = {**self._attributes, **row[6]}
            if attributes.get(semconv.STATUS) == semconv.PENDING:  # as for a plain `with session():` block
                failed = row[7] == 2
                attributes[semconv.STATUS] = semconv.FAILED if failed else semconv.ACCEPTED
                if failed:
                    attributes.setdefault(semconv.REASON, semconv.WORKFLOW_EXCEPTION)
                attributes.setdefault(semconv.CONSUMED, not failed)
            attributes.setdefault(semconv.CONSUMED, False)
            self._runtime.live.pop(self._hex, None)
            self._write({"a": attributes, "e": end, "st": [row[7], row[8]]}, lines.ENDS)

    def _write(self, part: dict[str, Any], kind: bytes = lines.GOES_ON) -> None:
        rows, self._rows = self._rows, []
        part = {"n": self._sequence, **part, "s": rows}
        self._sequence += 1
        self._runtime.journal.append(lines.frame(kind, self._hex, orjson.dumps(part)))

    def checkpoint(self, older_than_ns: int) -> None:
        """Write what is finished so far."""
        with self._runtime.lock:
            if self._rows:
                self._write({})

    def abort(self, reason: str) -> None:
        """The process ends in good order with the root still open."""
        with self._runtime.lock:
            attributes = {**self._attributes, **_row(self._root, self._runtime)[6]}
            if attributes.get(semconv.STATUS, semconv.PENDING) == semconv.PENDING:
                attributes.update({semconv.STATUS: semconv.DROPPED, semconv.REASON: reason})
            attributes.setdefault(semconv.CONSUMED, False)
            end = max([self._root.start_time or 0, *(row[5] for row in self._rows)])
            self._runtime.live.pop(self._hex, None)
            self._write({"a": attributes, "e": end}, lines.ENDS)

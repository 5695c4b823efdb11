"""The light span: an OpenTelemetry span with little more than its own data in it."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from . import describe, health, ids, native, plain, semconv
from .attributes import error_type, fit_name, fit_root
from .lines import ATTRIBUTES, END, MESSAGE, NAME, REF, START, STATUS

if TYPE_CHECKING:
    from opentelemetry.trace import Span, SpanContext, Status, StatusCode, Tracer

    from .machinery import Machinery
    from .spandata import AttributeValue

    _Span = Span
else:  # OpenTelemetry is not loaded before the first session; `context` registers the class with it
    _Span = object


class Owner(Protocol):
    """The trace that a span belongs to."""

    runtime: Machinery
    lock: threading.RLock
    trace_hex: bytes
    sampled: bool
    offset: int
    tracer: Tracer | None
    bare: bool
    spans: list[RolloutSpan]

    def start_phase(
        self, name: str, given: Mapping[str, Any], parent: RolloutSpan | None = None
    ) -> RolloutSpan | None:
        """Open a phase below `parent`; None where nothing can be opened any more."""

    def end_span(self, span: RolloutSpan, end_ns: int | None = None, *, late: bool = False) -> bool:
        """Close a span; False where it was closed before."""

    def finish(self, exc: BaseException | None = None) -> None:
        """End the trace."""

    def change(self, attributes: dict[str, Any]) -> None:
        """Set (clean) attributes of the root."""


class RolloutSpan(_Span):
    """A phase, or the root of a session or step; current in the OpenTelemetry context like any span.

    A view of its `row`, which is what the journal gets of it (see `lines`). Where somebody's SDK TracerProvider
    exports the spans, `mirror` is the real span made by it, and every change goes to both.
    """

    __slots__ = ("_span_context", "mirror", "owner", "parent", "row")

    def __init__(
        self, owner: Owner, row: list[Any], parent: RolloutSpan | None, mirror: Span | None = None
    ) -> None:
        self.owner = owner
        self.row = row
        self.parent = parent
        self.mirror = mirror
        self._span_context: SpanContext | None = None

    @property
    def ref(self) -> int | str:
        """Its number within the trace, or its id in hex."""
        return self.row[REF]  # type: ignore[no-any-return]

    @property
    def name(self) -> str:
        """Its name."""
        return self.row[NAME]  # type: ignore[no-any-return]

    @property
    def start_ns(self) -> int:
        """Its start, epoch ns."""
        return self.row[START]  # type: ignore[no-any-return]

    @property
    def ended(self) -> bool:
        """Whether it is over."""
        return self.row[END] is not None

    @property
    def attributes(self) -> dict[str, AttributeValue]:
        """Its attributes."""
        return self.row[ATTRIBUTES]  # type: ignore[no-any-return]

    def __repr__(self) -> str:
        return f"<rollspan {self.name} {self.ref} of {self.owner.trace_hex.decode()}>"

    # OpenTelemetry's Span.

    def get_span_context(self) -> SpanContext:
        """Ids that a child or an outgoing request can carry."""
        if self._span_context is None:
            if self.mirror is not None:
                self._span_context = self.mirror.get_span_context()
            else:
                from opentelemetry.trace import SpanContext, TraceFlags  # noqa: PLC0415

                owner = self.owner
                trace = int(owner.trace_hex, 16)
                ref = self.ref
                span_id = ids.derived_span_id(trace, ref) if isinstance(ref, int) else int(ref, 16)
                flags = TraceFlags(TraceFlags.SAMPLED if owner.sampled else TraceFlags.DEFAULT)
                self._span_context = SpanContext(trace, span_id, is_remote=False, trace_flags=flags)
        return self._span_context

    def is_recording(self) -> bool:
        """Whether changes still count."""
        return not self.ended

    def set_attribute(self, key: str, value: Any) -> None:
        """Set one attribute; any value is made fit for OTLP."""
        self.set_attributes({key: value})

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Set attributes. A phase's short names (`model`, `score`) work here too; None sets nothing."""
        row = self.row
        if row[END] is not None:
            health.warn_once(
                "api.set_after_end", "rollspan: attributes set on %r after its end are ignored", self.name
            )
            return
        try:
            if self.mirror is None and self.parent is not None:
                plain.put(row[ATTRIBUTES], row[NAME], attributes, self.owner.runtime.settings)
            else:
                self._put(attributes)
        except Exception:  # noqa: BLE001
            health.internal_error("span.set_attributes")

    def _put(self, given: Mapping[Any, Any]) -> None:
        """Take attributes by any of their names, whatever their values are."""
        row, settings = self.row, self.owner.runtime.settings
        if self.mirror is None and self.parent is not None:
            plain.put(row[ATTRIBUTES], row[NAME], given, settings)
        else:
            fresh: dict[str, AttributeValue] = {}
            describe.put_described(fresh, row[NAME], given, settings)
            if self.parent is None:
                with self.owner.lock:
                    fresh = fit_root(self.row[ATTRIBUTES], fresh)
            self._put_clean(fresh)

    def _put_clean(self, attributes: dict[str, AttributeValue]) -> None:
        """Take attributes under their own names, in their defined form."""
        if self.parent is None:
            with self.owner.lock:
                self.owner.change(attributes)  # the root is written by its changes
            return
        self.attributes.update(attributes)
        if self.mirror is not None:
            self.mirror.set_attributes(attributes)

    def add_event(self, name: str, attributes: Any = None, timestamp: int | None = None) -> None:
        """Span events are on their way out of OpenTelemetry: passed on to a real span, else not kept."""
        if self.mirror is not None:
            self.mirror.add_event(name, attributes, timestamp)
        else:
            health.count("api.span_events_ignored")

    def add_link(self, context: SpanContext, attributes: Any = None) -> None:
        """Links of phases are passed on to a real span, else not kept."""
        if self.mirror is not None:
            self.mirror.add_link(context, attributes)
        else:
            health.count("api.span_links_ignored")

    def update_name(self, name: str) -> None:
        """A phase keeps the name it was started with, because the record is made by it."""
        health.warn_once(
            "api.update_name", "rollspan: phase %r keeps its name; %r is ignored", self.name, name
        )

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        """Set the span's status. A description is kept only where content may be captured."""
        if self.ended:
            return
        code: StatusCode = getattr(status, "status_code", status)  # type: ignore[arg-type]
        text = getattr(status, "description", description)
        keep = self.owner.runtime.settings.capture_content
        self.row[STATUS] = code.value
        self.row[MESSAGE] = message = str(text) if text and keep else ""
        if self.mirror is not None:
            self.mirror.set_status(code, message or None)

    def record_exception(self, exception: BaseException, *args: Any, **kwargs: Any) -> None:
        """Keep the exception's type as `error.type`."""
        if not self.ended:
            self._put_clean({semconv.ERROR_TYPE: fit_name(error_type(exception))})

    def end(self, end_time: int | None = None) -> None:
        """End the phase, now or at `end_time` (epoch ns); of a root, the session or step."""
        if self.parent is not None:
            self.owner.end_span(self, end_time)
        else:
            self.owner.finish()

    def __enter__(self) -> Any:
        return self

    def __exit__(self, kind: object, exc: BaseException | None, traceback: object) -> None:
        """End it, as OpenTelemetry's spans do that are entered themselves."""
        self.end()

    # Ours.

    def record_generation(self, **given: Any) -> None:
        """See `rollspan.record_generation`."""
        self.set_attributes({name: value for name, value in given.items() if value is not None})

    def record_reward(self, score: float, name: str | None = None) -> None:
        """See `rollspan.record_reward`."""
        self.set_attributes({"score": score, "reward_name": name})

    def record_tool_call(self, tool: str, call_id: str | None = None, **content: Any) -> None:
        """See `rollspan.record_tool_call`."""
        self.set_attributes({"tool": tool, "call_id": call_id, **content})

    def fail(self, exc: BaseException) -> None:
        """Mark the span as left by an exception; a generator that is closed early is no failure."""
        if self.ended or isinstance(exc, GeneratorExit):
            return
        from opentelemetry.trace import StatusCode  # noqa: PLC0415

        self.record_exception(exc)
        self.set_status(StatusCode.ERROR, str(exc) if self.owner.runtime.settings.capture_content else None)


native.works_with(span=RolloutSpan)

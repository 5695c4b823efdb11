"""Taking a session elsewhere: to another thread, over HTTP, into a Ray task, into a pool's process."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, cast
from urllib.parse import parse_qs, urlencode

import orjson
from opentelemetry import context as otel_context
from opentelemetry import propagate
from opentelemetry import trace as otel_trace

from . import context, describe, health, ids, lines, owner, semconv
from .attributes import fit
from .lines import ATTRIBUTES, NAME, REF
from .null import NULL
from .scope import Scope
from .session_scopes import Block
from .span import RolloutSpan
from .tracelog import TraceLog

if TYPE_CHECKING:
    from opentelemetry.trace import SpanContext

    from .machinery import Machinery
    from .stats import RolloutStats

_F = TypeVar("_F", bound=Callable[..., Any])

SESSION_KEY = "rollspan-session"
"""Beside what OpenTelemetry's propagators write: session id, current phase, clock."""


def inject(span: RolloutSpan) -> dict[str, str]:
    """What takes `span` and its session along, by the propagators that `OTEL_PROPAGATORS` names."""
    carrier: dict[str, str] = {}
    here = otel_trace.set_span_in_context(span, otel_context.get_current())
    propagate.inject(carrier, here)
    session_id = getattr(span.owner, "session_id", None)
    if session_id is not None:
        phase = semconv.SESSION if span.parent is None else span.name
        carrier[SESSION_KEY] = urlencode(
            {"id": session_id, "phase": phase, "offset": span.owner.offset, "boot": owner.boot()}
        )
    return carrier


class RemoteSession(Block, TraceLog):
    """A session of another process, seen from here: phases can be made in it, nothing can be decided."""

    __slots__ = ("_export_here", "_life", "collected", "ended", "session_id", "status")

    def __init__(
        self,
        runtime: Machinery,
        parent: SpanContext,
        about: Mapping[str, str],
        *,
        collect: bool,
        export_here: bool,
    ) -> None:
        """With `collect` finished spans are kept in `collected`, for the caller to take home into the record."""
        super().__init__(runtime)
        self.trace_hex = b"%032x" % parent.trace_id
        self.sampled = parent.trace_flags.sampled
        self.tracer = runtime.tracer() if export_here else None
        self.row[REF] = f"{parent.span_id:016x}"
        self.row[NAME] = about.get("phase", semconv.SESSION)
        self._span_context = parent
        self._export_here = export_here
        # Numbers are its own process's to give; ids of another one's spans must only be unique.
        self._indices = iter(lambda: f"{ids.span_id():016x}", "")
        self.collected: list[list[Any]] | None = [] if collect else None
        self.session_id = about["id"]
        self.status = semconv.PENDING
        self.ended = False  # type: ignore[misc]
        offset = about.get("offset", "")
        if about.get("boot") == owner.boot() != "" and offset.lstrip("-").isdigit():
            self.offset = int(offset)  # one machine, one monotonic clock: the same line of time

    def __repr__(self) -> str:
        return f"<rollspan session {self.session_id} of another process>"

    def start_phase(
        self, name: str, given: Mapping[str, Any], parent: RolloutSpan | None = None
    ) -> RolloutSpan | None:
        """Open a phase below what is current here, else below the phase that the carrier was made in."""
        if parent is None:
            current = context.current()
            parent = current if current is not None and current.owner is self else self
        return self.start_span(name, parent, given)

    def _common_attributes(self, name: str, parent: RolloutSpan) -> dict[str, Any]:
        common = {semconv.SESSION_ID: self.session_id, semconv.PHASE: name, semconv.PARENT_PHASE: parent.name}
        return common if self.collected is not None else {**common, semconv.FOREIGN: True}

    def end_span(self, span: RolloutSpan, end_ns: int | None = None, *, late: bool = False) -> bool:
        """As `TraceLog.end_span`; here no line waits for the span."""
        if not super().end_span(span, end_ns, late=late):
            return False
        with contextlib.suppress(ValueError):
            self.spans.remove(span)
        row = span.row
        described = describe.described(row[NAME], row[ATTRIBUTES])
        row[ATTRIBUTES] = fit(described, self.runtime.settings.attribute_max_bytes)
        self.keep(row)
        return True

    def keep(self, row: list[Any]) -> None:
        """Bring the span home with the result, or export it from here."""
        self._keep(row, {span.ref: span.name for span in [self, *self.open_spans()]})

    def adopt(self, rows: list[list[Any]]) -> None:
        """Take finished spans that yet another process brought here."""
        names = {span.ref: span.name for span in [self, *self.open_spans()]}
        names.update((row[0], row[2]) for row in rows)
        for row in rows:
            self._keep(row, names)

    def _keep(self, row: list[Any], names: Mapping[int | str, str]) -> None:
        if self.runtime.abandoned:
            return
        if self.collected is not None:
            self.collected.append(list(row))
        if self._export_here and self.tracer is None and self.sampled:
            parent_name = names.get(row[1], semconv.SESSION)
            foreign = {} if self.collected is not None else {semconv.FOREIGN: True}
            row[6] = {
                semconv.SESSION_ID: self.session_id,
                semconv.PHASE: row[2],
                semconv.PARENT_PHASE: parent_name,
                **foreign,
                **row[6],
            }
            self.runtime.journal.append(lines.frame(lines.PASSES, self.trace_hex, orjson.dumps({"s": [row]})))

    def write(self) -> None:
        """Nothing: its own process writes the session."""

    def change(self, attributes: dict[str, Any]) -> None:
        """Attributes of a session are for its own process to set."""
        self._not_here("setting an attribute of the session")

    def _not_here(self, what: str) -> None:
        health.warn_once(
            "api.wrong_process",
            "rollspan: %s is ignored: session %s belongs to the process that started it",
            what,
            self.session_id,
        )

    def mark_enqueued(self) -> None:
        """Marks are for its own process to make."""
        self._not_here("mark_enqueued()")

    def mark_accepted(self, *, stats: RolloutStats | None = None, reward: float | None = None) -> None:
        """As `mark_enqueued`."""
        self._not_here("mark_accepted()")

    def mark_rejected(
        self,
        reason: str | BaseException = semconv.SHOULD_ACCEPT_FALSE,
        *,
        stats: RolloutStats | None = None,
        reward: float | None = None,
    ) -> None:
        """As `mark_enqueued`."""
        self._not_here("mark_rejected()")

    def mark_failed(self, exc: BaseException | None = None, *, stats: RolloutStats | None = None) -> None:
        """As `mark_enqueued`."""
        self._not_here("mark_failed()")

    def mark_dropped(self, reason: str | BaseException, *, stats: RolloutStats | None = None) -> None:
        """As `mark_enqueued`."""
        self._not_here("mark_dropped()")

    def mark_consumed(self) -> None:
        """As `mark_enqueued`."""
        self._not_here("mark_consumed()")

    def count(self, name: str, n: int = 1) -> None:
        """As `mark_enqueued`."""
        self._not_here("count()")

    def set_attribute(self, key: str, value: Any) -> None:
        """As `mark_enqueued`."""
        self._not_here("set_attribute()")

    def start_execution(self, given: Mapping[str, Any]) -> RolloutSpan | None:
        """Open the phase `execution` below the one that the carrier was made in."""
        return self.start_span(semconv.EXECUTION, self, given)

    def finish(self, exc: BaseException | None = None) -> None:
        """Nothing: a block of it ends, not the session."""

    def carrier(self) -> dict[str, str]:
        """What takes the session further on."""
        current = context.current()
        return inject(current if current is not None and current.owner is self else self)


def extract(
    runtime: Machinery, carrier: Mapping[str, str], *, collect: bool = False, export_here: bool = True
) -> RolloutSpan | None:
    """The span to make current for what a carrier brought, or None (said once) where it brought no session."""
    raw = {str(key).lower(): value for key, value in carrier.items()}
    parent = otel_trace.get_current_span(propagate.extract(raw, otel_context.Context())).get_span_context()
    if not parent.is_valid:
        health.warn_once(
            "api.empty_carrier",
            "rollspan: the carrier has no trace context (keys: %s); make it by rollspan.carrier() inside a session, with "
            "an OTEL_PROPAGATORS that both sides share",
            ", ".join(sorted(raw)) or "none",
        )
        return None
    session = runtime.live.get(b"%032x" % parent.trace_id)
    if session is not None:  # it never left this process
        return cast("RolloutSpan", session.find_open(parent.span_id))
    about = {key: values[0] for key, values in parse_qs(raw.get(SESSION_KEY, "")).items()}
    about.setdefault("id", f"{parent.trace_id:032x}")
    return RemoteSession(runtime, parent, about, collect=collect, export_here=export_here)


class Attached(Scope):
    """`rollspan.attach(carrier)`."""

    __slots__ = ("_carrier", "_entered")

    def __init__(self, carrier: Mapping[str, str]) -> None:
        super().__init__()
        self._carrier = carrier

    def _start(self) -> RolloutSpan | None:
        from . import switch  # noqa: PLC0415

        runtime = switch.runtime()
        return extract(runtime, self._carrier) if runtime is not None and self._carrier else None

    def _given(self, span: RolloutSpan) -> Any:
        return span.owner

    def _finish(self, span: RolloutSpan, exc: BaseException | None) -> None:
        pass

    def _again(self) -> Scope:
        return Attached(self._carrier)


def wrap(function: _F) -> _F:
    """`function`, to be called in another thread with what is current here."""
    captured = otel_context.get_current()

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        token = otel_context.attach(captured)
        try:
            return function(*args, **kwargs)
        finally:
            context.detach(token)

    return cast(_F, wrapped)


def current_session() -> Any:
    """The session that is current here, or the null object."""
    span = context.current()
    found = span.owner if span is not None else None
    return found if found is not None and hasattr(found, "session_id") else NULL

"""`rollspan.phase`: a scope that is its own span."""

from __future__ import annotations

import sys
from typing import Any

from . import clock, health, names, native, switch
from .lines import END, REF, WRITE_EVERY
from .null import NULL
from .plain import are_plain
from .scope import Scope
from .scope import late_context as _late
from .span import RolloutSpan
from .spandata import STATUS_UNSET

_known = names.known


class phase(Scope, RolloutSpan):  # noqa: N801 - used like a function
    """A named interval of work in the current session: `with`, `async with`, or a decorator.

    `name` may be any; `generate`, `reward`, `toolcall` and `execution` mean what the specification says. The
    other arguments are attributes; short names stand for the standard ones: `model`, `provider`, `operation`,
    `input_tokens`, `output_tokens`, `cached_tokens`, `weight_version`, `finish_reasons`, `conversation_id`,
    `continuation` on generate, `tool` and `call_id` on toolcall, `score` and `reward_name` on reward.
    Entering gives the span.
    """

    __slots__ = ("_attributes", "_entered", "_said")

    def __init__(self, name: str, /, **attributes: Any) -> None:
        try:
            self._said = _known[name]
        except Exception:  # noqa: BLE001 - not known yet, or nothing that can be a name
            self._said = names.said_by(name)
        self._attributes = attributes
        self._entered = None
        self.owner = None  # type: ignore[assignment]  # not a span yet: who enters it first makes it one

    def __repr__(self) -> str:
        return f"rollspan.phase({self._said[0]!r})"

    def _again(self) -> Scope:
        return phase(self._said[0], **self._attributes)

    def __enter__(self) -> Any:
        if switch._runtime is None and (switch._decided or switch.runtime() is None):  # noqa: SLF001 - off costs this
            self._entered = (None, None, self._entered)
            return NULL
        here = None
        try:
            context = switch.context
            here = context.get_current()
            parent = here.get(context.PHASE_KEY)
            given = self._attributes
            name, kind, said, kinds = self._said
            if (
                parent is None
                or parent.row[END] is not None
                or not parent.owner.bare
                or (given and not are_plain(kinds, given))
                or self._entered is not None  # now, or before
                or self.owner is not None
            ):
                return Scope.__enter__(self)
            # What `TraceLog.start_span` does, without its cases. Threads may share this object: the first one is in.
            self.owner = owner = parent.owner  # type: ignore[unreachable]
            self.parent = parent
            self.mirror = self._span_context = None
            self.row = [
                next(owner._indices),  # noqa: SLF001
                parent.row[REF],
                name,
                kind,
                clock.monotonic_ns() + owner.offset,
                None,
                {**said, **given} if said else given.copy(),
                STATUS_UNSET,
                "",
            ]
            owner.spans.append(self)
            inside = context.Context({**here, context.SPAN_KEY: self, context.PHASE_KEY: self})
            self._entered = (self, context.set_current(inside), None)
            return self
        except BaseException as error:  # noqa: BLE001 - it is raised again
            return self._failed(error, here)

    def _start(self) -> RolloutSpan | None:
        if switch.runtime() is None:
            return None
        around = _late().current() or _late().current_step()
        name = self._said[0]
        if around is not None:
            return around.owner.start_phase(name, self._attributes, around)  # type: ignore[no-any-return]
        health.warn_once(
            "api.no_session",
            "rollspan: phase %r has no session here and is not recorded; start one, or bring one along with "
            "rollspan.wrap, rollspan.TracedExecutor or rollspan.attach",
            name,
        )
        return None

    def __exit__(self, kind: object, exc: BaseException | None, traceback: object) -> None:
        entered = self._entered
        if exc is None and entered is not None:
            span, token, before = entered
            if span is self and before is None:  # the one entry there is, left in order
                try:
                    self._entered = None
                    try:  # noqa: SIM105 - on every phase's way
                        switch.context.reset(token)
                    except (ValueError, RuntimeError):  # left in another context than it was entered in
                        pass
                    owner, row = self.owner, self.row
                    # Every so many phases one looks whether a line is due (`end_span` does).
                    if owner.bare and row[END] is None and row[REF] % WRITE_EVERY:
                        row[END] = clock.monotonic_ns() + owner.offset
                    else:
                        owner.end_span(self)
                except BaseException as error:  # noqa: BLE001 - it is raised again
                    self._interrupted(error, span, token, kind, exc)
                return
        Scope.__exit__(self, kind, exc, traceback)

    def _finish(self, span: RolloutSpan, exc: BaseException | None) -> None:
        if exc is not None:
            span.fail(exc)
        span.owner.end_span(span)


native.works_with(phase=phase, known=_known)
native.stands_for("enter", phase, "__enter__")
native.stands_for("exit", phase, "__exit__")
native.stands_for("are_plain", sys.modules[__name__], "are_plain")

"""The functions a program calls. Off, each costs next to nothing and nothing else of rollspan is loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from . import health, switch
from .attributes import fit_name
from .null import NULL
from .scope import Scope
from .scope import late_context as _late

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

    from .runtime import Runtime
    from .sessions import Session
    from .span import RolloutSpan

_F = TypeVar("_F", bound=Callable[..., Any])

_NAME = 2  # `lines.NAME`, in a module that is loaded before that one


class phase(Scope):  # noqa: N801 - used like a function
    """A named interval of work in the current session: `with`, `async with`, or a decorator.

    `name` may be any; `generate`, `reward`, `toolcall` and `execution` mean what the specification says. The
    other arguments are attributes; short names stand for the standard ones: `model`, `provider`, `operation`,
    `input_tokens`, `output_tokens`, `cached_tokens`, `weight_version`, `finish_reasons`, `conversation_id`,
    `continuation` on generate, `tool` and `call_id` on toolcall, `score` and `reward_name` on reward.
    Entering gives the span.
    """

    __slots__ = ("_attributes", "_name")

    def __init__(self, name: str, /, **attributes: Any) -> None:
        try:
            known = name in _known_names
        except TypeError:  # nothing that can be a name
            known = False
        self._entered = None
        self._name = name if known else _phase_name(name)
        self._attributes = attributes

    def __repr__(self) -> str:
        return f"rollspan.phase({self._name!r})"

    def _again(self) -> Scope:
        return phase(self._name, **self._attributes)

    def __enter__(self) -> Any:
        if switch._runtime is None and (switch._decided or switch.runtime() is None):  # noqa: SLF001 - off costs this
            self._entered = (None, None, self._entered)
            return NULL
        try:
            entered = switch.context.enter(self._name, self._attributes)
            if entered is None:
                return super().__enter__()
            span, token = entered
            self._entered = (span, token, self._entered)  # in one go: threads may share this object
            return span
        except Exception:  # noqa: BLE001
            return self._failed("phase")

    def _start(self) -> RolloutSpan | None:
        if switch.runtime() is None:
            return None
        around = _late().current() or _late().current_step()
        if around is not None:
            return around.owner.start_phase(self._name, self._attributes, around)  # type: ignore[no-any-return]
        health.warn_once(
            "api.no_session",
            "rollspan: phase %r has no session here and is not recorded; start one, or bring one along with "
            "rollspan.wrap, rollspan.TracedExecutor or rollspan.attach",
            self._name,
        )
        return None

    def __exit__(self, kind: object, exc: BaseException | None, traceback: object) -> None:
        entered = self._entered
        if exc is not None or entered is None or entered[2] is not None or entered[0] is None:
            super().__exit__(kind, exc, traceback)
            return
        span, token, self._entered = entered  # the one entry there is, left in order
        try:
            try:
                token.var.reset(token)
            except (ValueError, RuntimeError, AttributeError):  # left elsewhere, or no contextvars' token
                _late().detach(token)
            span.owner.end_span(span)
        except Exception:  # noqa: BLE001
            health.internal_error("phase.exit")

    def _finish(self, span: RolloutSpan, exc: BaseException | None) -> None:
        if exc is not None:
            span.fail(exc)
        span.owner.end_span(span)


_known_names: set[Any] = set()  # of phases, seen and found fit: they are few and come again and again
_KNOWN_NAMES_KEPT = 4096


def _phase_name(name: Any) -> str:
    if callable(name):
        raise TypeError("a phase needs a name: write @rollspan.phase('reward'), not @rollspan.phase")
    fit = fit_name(name)
    if fit is name and len(_known_names) < _KNOWN_NAMES_KEPT:
        _known_names.add(name)
    return fit


class session(Scope):  # noqa: N801
    """A rollout whose whole life is one block: `with`, `async with`, or a decorator; gives the Session.

    Nobody marked it: accepted and consumed at the end, failed when an exception leaves it, dropped when it is
    cancelled. `task_id` names the dataset's item, `group_id` the group of samples, `session_id` replaces the
    trace id as the session's name (it must be unique), `workflow` names the code; the rest are attributes.
    """

    __slots__ = ("_arguments", "_session_id")

    def __init__(
        self,
        *function: Any,
        task_id: Any = None,
        group_id: Any = None,
        session_id: str | None = None,
        workflow: str | None = None,
        **attributes: Any,
    ) -> None:
        if function:
            raise TypeError(
                "session() takes keywords alone; to decorate write @rollspan.session(), with parentheses"
            )
        self._entered = None
        self._session_id = session_id
        self._arguments = _named(attributes, task_id, group_id, workflow)

    def _again(self) -> Scope:
        return session(session_id=self._session_id, **self._arguments)

    def __enter__(self) -> Any:
        runtime = switch._runtime or (None if switch._decided else switch.runtime())  # noqa: SLF001 - off costs this
        if runtime is None:
            self._entered = (None, None, self._entered)
            return NULL
        try:
            made = _make_session(runtime, self._arguments, self._session_id, block=True)
            root = made.root
            self._entered = (root, switch.context.attach(root), self._entered)
            return made
        except Exception:  # noqa: BLE001
            return self._failed("session")

    def _start(self) -> RolloutSpan | None:
        runtime = switch.runtime()
        if runtime is None:
            return None
        return _make_session(runtime, self._arguments, self._session_id, block=True).root

    def _given(self, span: RolloutSpan) -> Any:
        return span.owner

    def _finish(self, span: RolloutSpan, exc: BaseException | None) -> None:
        span.owner.finish(exc)


def _named(attributes: dict[str, Any], task_id: Any, group_id: Any, workflow: Any) -> dict[str, Any]:
    if task_id is not None:
        attributes["task_id"] = task_id
    if group_id is not None:
        attributes["group_id"] = group_id
    if workflow is not None:
        attributes["workflow"] = workflow
    return attributes


def _make_session(
    runtime: Runtime, given: Mapping[str, Any], session_id: str | None, *, block: bool
) -> Session:
    runtime.start()
    tracer = runtime.tracer(_attach_processor)
    return switch.Session(runtime, given, block=block, session_id=session_id, tracer=tracer)  # type: ignore[no-any-return]


def _attach_processor(provider: TracerProvider) -> None:
    from .processor import attach as attach_to  # noqa: PLC0415

    attach_to(provider)


def start_session(
    *,
    task_id: Any = None,
    group_id: Any = None,
    session_id: str | None = None,
    workflow: str | None = None,
    **attributes: Any,
) -> Any:
    """A rollout is submitted: for executors, which mark what becomes of it. Arguments as for `session`.

    Entered as a block the session is current in it, and over with it, as `session` is.
    """
    runtime = switch.runtime()
    if runtime is None:
        return NULL
    try:
        given = _named(attributes, task_id, group_id, workflow)
        return _make_session(runtime, given, session_id, block=False)
    except Exception:  # noqa: BLE001
        health.internal_error("start_session")
        return NULL


class step(Scope):  # noqa: N801
    """A trainer's step: its own trace, linked from the sessions submitted and consumed in it."""

    __slots__ = ("_attributes", "_number")

    def __init__(self, number: Any, /, **attributes: Any) -> None:
        if callable(number):
            raise TypeError("a step needs its number: write `with rollspan.step(12)`")
        super().__init__()
        self._number = number
        self._attributes = attributes

    def _again(self) -> Scope:
        return step(self._number, **self._attributes)

    def _start(self) -> RolloutSpan | None:
        runtime = switch.runtime()
        if runtime is None:
            return None
        from .steps import Step  # noqa: PLC0415

        runtime.start()
        return Step(runtime, self._number, self._attributes, runtime.tracer(_attach_processor)).root

    def _attach(self, span: RolloutSpan) -> Any:
        return _late().attach_step(span)

    def _given(self, span: RolloutSpan) -> Any:
        return span.owner

    def _finish(self, span: RolloutSpan, exc: BaseException | None) -> None:
        span.owner.finish(exc)


def current_span() -> Any:
    """The innermost phase that is open here (a session's root where there is none), or the null object."""
    if switch.runtime() is None:
        return NULL
    return _late().current() or NULL


def current_session() -> Any:
    """The session that is current here, or the null object (which is false)."""
    if switch.runtime() is None:
        return NULL
    from . import carriers  # noqa: PLC0415

    return carriers.current_session()


def count(name: str, n: int = 1) -> None:
    """Add `n` to a counter of the current session."""
    current_session().count(name, n)


def record_generation(
    *,
    model: str | None = None,
    provider: str | None = None,
    operation: str | None = None,
    input_tokens: int | None = None,
    output_tokens: int | None = None,
    cached_tokens: int | None = None,
    weight_version: int | Sequence[int] | None = None,
    finish_reasons: str | Sequence[str] | None = None,
    conversation_id: str | None = None,
    continuation: bool | None = None,
    prompt: Any = None,
    completion: Any = None,
) -> None:
    """Describe the generation that is current here, by OpenTelemetry's GenAI conventions.

    `operation` is `text_completion` (the default: tokens in, tokens out) or `chat`; `weight_version` may be
    one per token; `continuation` says that it goes on from an aborted generation and is no new turn. `prompt`
    and `completion` are recorded only where `ROLLSPAN_CAPTURE_CONTENT` asks for it.
    """
    given: dict[str, Any] = {}
    if model is not None:
        given["model"] = model
    if provider is not None:
        given["provider"] = provider
    if operation is not None:
        given["operation"] = operation
    if input_tokens is not None:
        given["input_tokens"] = input_tokens
    if output_tokens is not None:
        given["output_tokens"] = output_tokens
    if cached_tokens is not None:
        given["cached_tokens"] = cached_tokens
    if weight_version is not None:
        given["weight_version"] = weight_version
    if finish_reasons is not None:
        given["finish_reasons"] = finish_reasons
    if conversation_id is not None:
        given["conversation_id"] = conversation_id
    if continuation is not None:
        given["continuation"] = continuation
    if prompt is not None:
        given["prompt"] = prompt
    if completion is not None:
        given["completion"] = completion
    _on("generate").set_attributes(given)


def record_reward(score: float, name: str | None = None) -> None:
    """Give the current reward phase its score, and the name of what was scored."""
    _on("reward").set_attributes({"score": score} if name is None else {"score": score, "reward_name": name})


def record_tool_call(
    tool: str, call_id: str | None = None, *, arguments: Any = None, result: Any = None
) -> None:
    """Describe the tool call that is current here; `arguments` and `result` only where content is captured."""
    _on("toolcall").record_tool_call(tool, call_id, arguments=arguments, result=result)


_RECORDERS = {
    "generate": "record_generation()",
    "reward": "record_reward()",
    "toolcall": "record_tool_call()",
}


def _on(name: str) -> Any:
    """The innermost open phase of this name, or the null object."""
    if switch._runtime is None and (switch._decided or switch.runtime() is None):  # noqa: SLF001
        return NULL
    span = found = switch.context.current()
    while span is not None and span.row[_NAME] != name:
        span = span.parent
    if span is not None:
        return span
    if found is not None:
        health.warn_once(
            f"api.no_{name}",
            "rollspan: %s is ignored outside of a phase of that kind: put it inside `with rollspan.phase(%r)`%s",
            _RECORDERS[name],
            name,
            ", or give mark_accepted(reward=...)" if name == "reward" else "",
        )
    return NULL


def carrier() -> dict[str, str]:
    """What takes the current session to another thread, process or host: a few text headers, or {}.

    Send it with a request, as an argument of a Ray task, in a queue; the other side calls `attach`.
    """
    session_here = current_session()
    return session_here.carrier() if session_here else {}


def attach(carrier: Mapping[str, str]) -> Scope:
    """Be in the session that a carrier brought: `with`, `async with`, or a decorator."""
    if switch.runtime() is None or not carrier:
        return _Nothing()
    from .carriers import Attached  # noqa: PLC0415

    return Attached(carrier)


class _Nothing(Scope):
    __slots__ = ()

    def _start(self) -> RolloutSpan | None:
        return None

    def _again(self) -> Scope:
        return self


def wrap(function: _F) -> _F:
    """`function`, to be called in another thread with the session and phase that are current here."""
    if switch.runtime() is None:
        return function
    from .carriers import wrap as wrap_on  # noqa: PLC0415

    return wrap_on(function)


def configure(**settings: Any) -> None:
    """Turn rollspan on in this process, with settings that beat the environment (see docs/configuration.md).

    Wrong values are reported in the log and the defaults used. Raises TypeError for an unknown setting.
    """
    switch.configure(**settings)


def is_enabled() -> bool:
    """Whether sessions are recorded in this process."""
    return switch.runtime() is not None


def flush(timeout: float | None = None) -> bool:
    """Deliver what has finished; False where that took longer than `timeout` seconds (30 by default)."""
    try:
        return switch.flush(timeout)
    except Exception:  # noqa: BLE001
        health.internal_error("flush")
        return False


def shutdown(timeout: float | None = None) -> bool:
    """End open sessions, deliver, stop; False where not everything was delivered in `timeout` seconds.

    What was not delivered stays in the journal. Called at exit by itself.
    """
    try:
        return switch.shutdown(timeout)
    except Exception:  # noqa: BLE001
        health.internal_error("shutdown")
        return False

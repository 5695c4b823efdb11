"""The functions a program calls. Off, each costs next to nothing and nothing else of rollspan is loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from . import health, switch
from .null import NULL
from .phases import phase  # noqa: F401 - the rest of the API, loaded with it
from .recorders import record_generation, record_reward, record_tool_call  # noqa: F401
from .scope import Scope
from .scope import late_context as _late

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

    from .span import RolloutSpan

_F = TypeVar("_F", bound=Callable[..., Any])


class session(Scope):  # noqa: N801
    """A rollout whose whole life is one block: `with`, `async with`, or a decorator; gives the Session.

    Nobody marked it: accepted and consumed at the end, failed when an exception leaves it, dropped when it is
    cancelled. `task_id` names the dataset's item, `group_id` the group of samples, `session_id` replaces the
    trace id as the session's name (it must be unique), `workflow` names the code; the rest are attributes.
    """

    __slots__ = ("_arguments", "_entered", "_session_id")

    _session_id: str | None
    _arguments: dict[str, Any]

    if TYPE_CHECKING:

        def __init__(
            self,
            *,
            task_id: Any = None,
            group_id: Any = None,
            session_id: str | None = None,
            workflow: str | None = None,
            **attributes: Any,
        ) -> None: ...

    else:

        def __init__(self, *function: Any, session_id: str | None = None, **arguments: Any) -> None:
            if function:
                raise TypeError(
                    "session() takes keywords alone; to decorate write @rollspan.session(), with parentheses"
                )
            self._entered = None
            self._session_id = session_id
            self._arguments = arguments

    def _again(self) -> Scope:
        return session(session_id=self._session_id, **self._arguments)

    def __enter__(self) -> Any:
        runtime = switch._runtime or (None if switch._decided else switch.runtime())  # noqa: SLF001 - off costs this
        if runtime is None:
            self._entered = (None, None, self._entered)
            return NULL
        made = here = None
        try:
            tracer = runtime.tracer(_attach_processor)
            made = switch.Session(runtime, self._arguments, True, self._session_id, tracer)
            context = switch.context
            here = context.get_current()
            inside = context.Context({**here, context.SPAN_KEY: made, context.PHASE_KEY: made})
            self._entered = (made, context.set_current(inside), self._entered)
            return made
        except BaseException as error:  # noqa: BLE001 - it is raised again
            if made is not None:
                made.finish(error)
            return self._failed(error, here)

    def _start(self) -> RolloutSpan | None:
        runtime = switch.runtime()
        if runtime is None:
            return None
        tracer = runtime.tracer(_attach_processor)
        return switch.Session(runtime, self._arguments, True, self._session_id, tracer)  # type: ignore[no-any-return]

    def _given(self, span: RolloutSpan) -> Any:
        return span.owner

    def _finish(self, span: RolloutSpan, exc: BaseException | None) -> None:
        span.owner.finish(exc)


def _attach_processor(provider: TracerProvider) -> None:
    from .processor import attach as attach_to  # noqa: PLC0415

    attach_to(provider)


if TYPE_CHECKING:

    def start_session(
        *,
        task_id: Any = None,
        group_id: Any = None,
        session_id: str | None = None,
        workflow: str | None = None,
        **attributes: Any,
    ) -> Any: ...

else:  # to name the arguments costs a good part of all that is done with them

    def start_session(*, session_id: str | None = None, **arguments: Any) -> Any:
        """A rollout is submitted: for executors, which mark what becomes of it. Arguments as for `session`.

        Entered as a block the session is current in it, and over with it, as `session` is.
        """
        runtime = switch.runtime()
        if runtime is None:
            return NULL
        try:
            return switch.Session(runtime, arguments, False, session_id, runtime.tracer(_attach_processor))
        except Exception:  # noqa: BLE001
            health.internal_error("start_session")
            return NULL


class step(Scope):  # noqa: N801
    """A trainer's step: its own trace, linked from the sessions submitted and consumed in it."""

    __slots__ = ("_attributes", "_entered", "_is_used", "_number")

    def __init__(self, number: Any, /, **attributes: Any) -> None:
        if callable(number):
            raise TypeError("a step needs its number: write `with rollspan.step(12)`")
        super().__init__()
        self._number = number
        self._attributes = attributes
        self._is_used = False

    def __call__(self, function: _F) -> _F:
        self._is_used = True
        return super().__call__(function)

    def __del__(self) -> None:
        if not getattr(self, "_is_used", True) and switch._runtime is not None:  # noqa: SLF001 - a finalizer decides nothing
            health.warn_once(
                "api.step_not_entered",
                "rollspan: step(%r) was never entered and is not recorded: write `with rollspan.step(%r):`",
                self._number,
                self._number,
            )

    def _again(self) -> Scope:
        return step(self._number, **self._attributes)

    def _start(self) -> RolloutSpan | None:
        self._is_used = True
        runtime = switch.runtime()
        if runtime is None:
            return None
        from .steps import Step  # noqa: PLC0415

        return Step(runtime, self._number, self._attributes, runtime.tracer(_attach_processor))

    def _attach(self, span: RolloutSpan) -> Any:
        return _late().attach_step(span)

    def _given(self, span: RolloutSpan) -> Any:
        return span.owner

    def _finish(self, span: RolloutSpan, exc: BaseException | None) -> None:
        span.owner.finish(exc)


def current_span() -> Any:
    """The innermost phase that is open here (the root of the session or step where there is none), or the null object."""
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
    __slots__ = ("_entered",)

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

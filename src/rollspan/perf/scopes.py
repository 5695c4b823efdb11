"""Scopes that are timed: of the session or step that is current, else of the process between its steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, TypeVar

import rollspan
from rollspan import api, health, names, semconv, switch, threads
from rollspan.attributes import clean
from rollspan.phases import phase
from rollspan.scope import Scope
from rollspan.scope import late_context as _late

from . import profiler, trainer_step
from .categories import Category, CategoryLike, category_name
from .profiler import Profile

if TYPE_CHECKING:
    from rollspan.span import RolloutSpan

_known = names.known
_MOST_CATEGORIES: Final = 64
_SHOWN: Final = 200  # bytes of a wrong value
_KEYS: Final = (str, Category, type(None))

_F = TypeVar("_F", bound=Callable[..., Any])

GLOBAL_STEP: Final = "global_step"
"""The argument by which a trainer without `step` blocks says in which step it is."""


class TimedScope(phase):
    """A phase that needs no session."""

    __slots__ = ("_is_used",)  # see `_Watched`

    def __init__(self, name: str, given: dict[str, Any]) -> None:
        try:
            self._said = _known[name]
        except Exception:  # noqa: BLE001 - not known yet, or nothing that can be a name
            if callable(name):
                message = (
                    "a timed scope needs a name: write @perf.trace_perf('load_batch'), not @perf.trace_perf"
                )
                raise TypeError(message) from None
            self._said = names.said_by(name)
            if type(self) is TimedScope:
                self.__class__ = (
                    _Watched  # the first of its name, so that what comes again and again costs nothing
                )
        self._attributes = given
        self._entered = None
        self.owner = None  # type: ignore[assignment]  # see `phase`

    def _again(self) -> Scope:
        return TimedScope(self._said[0], {**self._attributes, **threads.here.about})

    def _start(self) -> RolloutSpan | None:
        runtime = switch.runtime()
        if runtime is None:
            return None
        around = _late().current() or _late().current_step() or trainer_step.current()
        name = self._said[0]
        span = None if around is None else around.owner.start_phase(name, self._attributes, around)
        if span is not None:
            return span
        from rollspan import stretches  # noqa: PLC0415 - loads OpenTelemetry

        tracer = runtime.tracer(api._attach_processor)  # noqa: SLF001
        return stretches.start_phase(runtime, tracer, name, self._attributes)


class _Watched(TimedScope):
    """One that says so when nobody has entered it, nor decorated with it."""

    __slots__ = ()

    def __call__(self, function: _F) -> _F:
        self._is_used = True
        return super().__call__(function)

    def __del__(self) -> None:
        is_made = hasattr(self, "_entered")  # else its name was refused
        if is_made and not hasattr(self, "_is_used") and switch._runtime is not None:  # noqa: SLF001 - see `step`
            health.warn_once(
                "perf.not_entered",
                "rollspan: scope %r was never entered and is not recorded: write `with perf.trace_scope(%r):`",
                self._said[0],
                self._said[0],
            )

    def __enter__(self) -> Any:
        self._is_used = True
        return super().__enter__()

    def _start(self) -> RolloutSpan | None:  # which generators call without entering
        self._is_used = True
        return super()._start()


class _SaysItsStep(_Watched):
    """One that has the argument `global_step`."""

    __slots__ = ()

    def _again(self) -> Scope:
        return _SaysItsStep(self._said[0], {**self._attributes, **threads.here.about})

    def __enter__(self) -> Any:
        try:
            self._look()
        except Exception:  # noqa: BLE001
            health.internal_error("perf.step")
        return super().__enter__()

    def _start(self) -> RolloutSpan | None:
        self._look()
        return super()._start()

    def _look(self) -> None:
        """Be in that step, unless a session or a step's block is current."""
        if switch.runtime() is None:
            return
        step, context = trainer_step.current(), _late()
        number = self._attributes.get(GLOBAL_STEP)
        is_in_it = step is not None and step.number == number and context.falls_back_to(step)
        if is_in_it or number is None:
            return
        around = context.current()
        if not ((around is None or around is step) and context.current_step() is None):
            return
        if type(number) is int:
            context.fall_back_to(trainer_step.at(number))
        else:
            _warn(
                "perf.global_step", number, "args={'global_step': %r}", "an int, such as 12; no step begins"
            )


class _Profiled(_SaysItsStep):
    """One that torch's profiler looks at, in steps that were chosen, or in all where none were."""

    __slots__ = ("_profile", "_profiler_args")

    def __init__(self, name: str, given: dict[str, Any], profiler_args: Mapping[str, Any] | None) -> None:
        super().__init__(name, given)
        self._profiler_args = profiler_args
        self._profile: Profile | None = None

    def _again(self) -> Scope:
        return _Profiled(self._said[0], {**self._attributes, **threads.here.about}, self._profiler_args)

    def __enter__(self) -> Any:
        given = super().__enter__()
        runtime = switch.runtime()
        if runtime is not None and self._profile is None:
            number = step_number(self._attributes)
            if profiler.is_wanted(runtime.settings, number):
                label = self._said[0] if number is None else f"step-{number}-{self._said[0]}"
                self._profile = Profile(runtime.settings, label, self._profiler_args).__enter__()
        return given

    def __exit__(self, *left_by: Any) -> None:
        profile, self._profile = self._profile, None
        super().__exit__(*left_by)
        if profile is not None:
            profile.__exit__(*left_by)


def step_number(given: Mapping[str, Any]) -> Any:
    """The number of the step that is current here, else what a scope's arguments say; None where there is none."""
    step = _late().current_step() or trainer_step.current()
    return given.get(GLOBAL_STEP) if step is None else step.attributes.get(semconv.STEP)


def trace_scope(
    name: str,
    *,
    category: CategoryLike = None,
    args: Mapping[str, Any] | None = None,
    enable_profiler: bool = False,
    profiler_args: Mapping[str, Any] | None = None,
) -> TimedScope:
    """A timed scope: a context manager, sync or async, or a decorator.

    It is a span of the session that is current, else of the trainer's step, else of the process's own trace. `args`
    are attributes; `global_step` among them, outside of any session and step, begins the trainer's step of that
    number, which `save` ends, or the next number. With `enable_profiler` torch's profiler looks at it, called with
    `profiler_args`, where ROLLSPAN_PROFILE_STEPS names no steps, or the one that this is in.
    """
    try:
        said = threads.here.with_category[category]
    except (KeyError, TypeError):
        said = _said_of(category)
    if args is None and not enable_profiler:
        return TimedScope(name, said.copy())
    try:
        given = dict(args or ())
    except Exception as error:
        if health.by_a_signal_handler(error):
            raise
        _warn("perf.args", args, "args=%r", "a mapping, such as {'tokens': 3}; left out")
        given = {}
    given.update(said)
    if enable_profiler:
        return _Profiled(name, given, profiler_args)
    return (_SaysItsStep if GLOBAL_STEP in given else TimedScope)(name, given)


def _said_of(category: Any) -> dict[str, Any]:
    if category is not None and not isinstance(category, str | Enum):
        _warn("perf.category", category, "category=%r", "a text, such as 'compute' or 'io'; `misc` is used")
    said = {semconv.CATEGORY: category_name(category), **threads.here.about}
    known = threads.here.with_category
    if category.__class__ in _KEYS and len(known) < _MOST_CATEGORIES:
        known[category] = said
    return said


def _warn(key: str, value: Any, given: str, expected: str) -> None:
    """Once for each type of wrong value."""
    kind = type(value).__name__
    message = f"rollspan: a timed scope has {given} (%s): expected {expected}"
    health.warn_once(f"{key}.{kind}", message, clean(value, _SHOWN), kind)


atrace_scope = trace_scope
"""The same, for those who know it by this name: a scope is entered by `async with` too."""


def trace_perf(name: str, *, category: CategoryLike = None) -> Callable[[_F], _F]:
    """A decorator: every call of the function (plain, coroutine, generator) is a timed scope."""
    return trace_scope(name, category=category)


def instant(name: str, *, category: CategoryLike = None, args: Mapping[str, Any] | None = None) -> None:
    """A moment on the timeline; where it belongs, as a scope."""
    if switch.runtime() is not None:
        scope = trace_scope(name, category=category, args=args)
        scope._attributes[semconv.INSTANT] = True  # noqa: SLF001 - it is ours, and nobody's yet
        with scope:
            pass


def save(step: int | None = None, *, force: bool = False) -> None:
    """The trainer's step, of that number or whatever it is, is over; with `force` wait until it is in the file.

    A step that is a block is over when that is left, and not before.
    """
    try:
        here = trainer_step.current()
        if here is not None and (step is None or step == here.number):
            trainer_step.over()
        if force:
            runtime = switch.runtime()
            if runtime is not None:
                from rollspan import stretches  # noqa: PLC0415 - loads OpenTelemetry

                stretches.end_idle(runtime)
                rollspan.flush(runtime.settings.exit_timeout)
    except Exception:  # noqa: BLE001
        health.internal_error("perf.save")

"""Something that is entered, made current, and left: as `with`, as `async with`, or as a decorator."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

from . import health
from .null import NULL, Null

if TYPE_CHECKING:
    from .span import RolloutSpan

_F = TypeVar("_F", bound=Callable[..., Any])

_context: ModuleType | None = None


def late_context() -> Any:
    """The module `context`, imported with the first span and not before: it loads OpenTelemetry."""
    global _context  # noqa: PLW0603
    if _context is None:
        from . import context  # noqa: PLC0415

        _context = context
    return _context


class Scope:
    """One subclass for each thing that can be entered. Errors of ours never leave it; the user's always do.

    A subclass has the slot `_entered`: the last entry's span and token, and what was entered before it. Here it would
    keep a subclass from having another base with slots.
    """

    if not TYPE_CHECKING:
        __slots__ = ()

    _entered: tuple[Any, Any, Any] | None

    def __init__(self) -> None:
        self._entered = None

    # What a subclass says.

    def _start(self) -> RolloutSpan | None:
        """Begin; None where there is nothing to record."""
        raise NotImplementedError

    def _finish(self, span: RolloutSpan, exc: BaseException | None) -> None:
        """End, left normally or by `exc`."""
        raise NotImplementedError

    def _again(self) -> Scope:
        """A fresh scope for one call of a decorated function."""
        raise NotImplementedError

    def _given(self, span: RolloutSpan) -> Any:
        """What `as` receives."""
        return span

    def _attach(self, span: RolloutSpan) -> Any:
        return late_context().attach(span)

    # Entering and leaving.

    def __enter__(self) -> Any:
        before = None if _context is None else _context.get_current()
        try:
            span = self._start()
            if span is None:
                self._entered = (None, None, self._entered)
                return NULL
            self._entered = (span, self._attach(span), self._entered)
            return self._given(span)
        except BaseException as error:  # noqa: BLE001 - it is raised again
            return self._failed(error, before)

    def _failed(self, error: BaseException, before: Any) -> Null:
        """After an error of ours, or a signal handler's, which goes on: nothing is current that was not `before`."""
        if before is not None and late_context().get_current() is not before:
            late_context().set_current(before)
        if not isinstance(error, Exception):
            raise error
        health.internal_error("scope.enter")
        self._entered = (None, None, self._entered)
        return NULL

    def __exit__(self, kind: object, exc: BaseException | None, traceback: object) -> None:
        span = token = None
        try:
            entered = self._entered
            if entered is None:
                health.warn_once("api.left_twice", "rollspan: %r was left without having been entered", self)
                return
            if entered[2] is None:
                span, token, self._entered = entered
            else:
                span, token = self._take(entered)
            if span is not None:
                self._leave(span, token, kind, exc)
        except BaseException as error:  # noqa: BLE001 - it is raised again
            self._interrupted(error, span, token, kind, exc)

    def _leave(self, span: RolloutSpan, token: Any, kind: object, exc: BaseException | None) -> None:
        if kind is not GeneratorExit or not late_context().in_a_finalizer():
            late_context().detach(token)
        self._finish(span, exc)

    def _interrupted(
        self, error: BaseException, span: Any, token: Any, kind: object, exc: BaseException | None
    ) -> None:
        """After an error of ours, or a signal handler's: that one goes on, once all is left that was entered."""
        if isinstance(error, Exception) and not health.by_a_signal_handler(error):
            health.internal_error("scope.exit")
            return
        if span is not None:
            with contextlib.suppress(Exception):
                self._leave(span, token, kind, exc)
        raise error

    def _take(self, entered: tuple[Any, Any, Any] | None) -> tuple[Any, Any]:
        """Of several entries the last one made in this context: threads and tasks may share a scope."""
        entries = []
        while entered is not None:
            span, token, entered = entered
            entries.append((span, token))
        span, token = (
            next((e for e in entries if e[0] is not None and not e[0].ended and _reset(e[1])), None)
            or next((e for e in entries if e[0] is None), None)
            or next((e for e in entries if _reset(e[1])), entries[0])
        )
        while True:
            entered = self._entered
            left = _without(entered, span, token)
            if self._entered is entered:  # else another thread came or went meanwhile
                self._entered = left
                return span, token

    async def __aenter__(self) -> Any:
        return self.__enter__()

    async def __aexit__(self, kind: object, exc: BaseException | None, traceback: object) -> None:
        self.__exit__(kind, exc, traceback)

    # Decorating.

    def __call__(self, function: _F) -> _F:
        """Every call of `function` (plain, coroutine, generator or async generator) is one such scope."""
        if inspect.isasyncgenfunction(function):
            return _async_generator(self, function)  # type: ignore[return-value]
        if inspect.isgeneratorfunction(function):
            return _generator(self, function)  # type: ignore[return-value]
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def coroutine(*args: Any, **kwargs: Any) -> Any:
                with self._again():
                    return await function(*args, **kwargs)

            return coroutine  # type: ignore[return-value]

        @functools.wraps(function)
        def plain(*args: Any, **kwargs: Any) -> Any:
            with self._again():
                return function(*args, **kwargs)

        return plain  # type: ignore[return-value]


def _reset(token: Any) -> bool:
    """Whether what is entered under `token` was entered in this context, which is then as it was before."""
    try:
        late_context().reset(token)
    except Exception:  # noqa: BLE001
        return False
    return True


def _without(entered: tuple[Any, Any, Any] | None, span: Any, token: Any) -> tuple[Any, Any, Any] | None:
    if entered is None or (entered[0] is span and entered[1] is token):
        return None if entered is None else entered[2]
    return entered[0], entered[1], _without(entered[2], span, token)


class _Stepwise:
    """A scope around a generator: open from its first step to its last, current only while it runs."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self._token: Any = None
        try:
            self._span = scope._start()  # noqa: SLF001
        except Exception:  # noqa: BLE001
            self._span = None
            health.internal_error("scope.start")

    def __enter__(self) -> None:
        if self._span is not None:
            self._token = self._scope._attach(self._span)  # noqa: SLF001

    def __exit__(self, *exc: object) -> None:
        if self._span is not None:
            late_context().detach(self._token)

    def closing(self) -> AbstractContextManager[None]:
        """What to be in while the generator is closed, maybe by the garbage collector."""
        return nullcontext() if self._span is None or late_context().in_a_finalizer() else self

    def finish(self, exc: BaseException | None) -> None:
        if self._span is None:
            return
        try:
            self._scope._finish(self._span, exc)  # noqa: SLF001
        except Exception:  # noqa: BLE001
            health.internal_error("scope.finish")


def _generator(scope: Scope, function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def generator(*args: Any, **kwargs: Any) -> Any:
        inner = function(*args, **kwargs)
        steps = _Stepwise(scope._again())  # noqa: SLF001
        left_by: BaseException | None = None
        try:
            with steps:
                item = next(inner)
            while True:
                try:
                    sent = yield item
                except GeneratorExit:
                    with steps.closing():
                        inner.close()
                    raise
                except BaseException as exc:  # noqa: BLE001 - whatever is thrown in, the user's generator gets
                    with steps:
                        item = inner.throw(exc)
                else:
                    with steps:
                        item = inner.send(sent)
        except StopIteration as stop:
            return stop.value
        except BaseException as exc:
            left_by = exc
            raise
        finally:
            steps.finish(left_by)

    return generator


def _async_generator(scope: Scope, function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    async def generator(*args: Any, **kwargs: Any) -> Any:
        inner = function(*args, **kwargs)
        steps = _Stepwise(scope._again())  # noqa: SLF001
        left_by: BaseException | None = None
        try:
            with steps:
                item = await inner.__anext__()
            while True:
                try:
                    sent = yield item
                except GeneratorExit:
                    with steps.closing():
                        await inner.aclose()
                    raise
                except BaseException as exc:  # noqa: BLE001
                    with steps:
                        item = await inner.athrow(exc)
                else:
                    with steps:
                        item = await inner.asend(sent)
        except StopAsyncIteration:
            return
        except BaseException as exc:
            left_by = exc
            raise
        finally:
            steps.finish(left_by)

    return generator

"""Executors that take the current session along, and bring a child process's spans back with the result."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from . import health, switch

if TYPE_CHECKING:
    from .span import RolloutSpan

_T = TypeVar("_T")


class TracedExecutor(Executor):
    """Wraps a thread or process pool (fork, forkserver or spawn), for `submit`, `map` and `run_in_executor`.

    What the function does in phases belongs to the session that was current at `submit`. A process pool's
    spans come back with the result and are in the record.
    """

    def __init__(self, executor: Executor) -> None:
        self.executor = executor
        # An interpreter pool is a thread pool by class, but pickles like a process pool.
        kind = type(executor).__name__
        threads = sys.modules.get(
            "concurrent.futures.thread"
        )  # which an ending process could not load any more
        self._shares_memory = (
            threads is not None
            and isinstance(executor, threads.ThreadPoolExecutor)
            and kind != "InterpreterPoolExecutor"
        )

    def submit(self, fn: Callable[..., _T], /, *args: Any, **kwargs: Any) -> Future[_T]:
        """As `Executor.submit`; the function's exception is the future's, as ever."""
        task = self._task(fn)
        inner = self.executor.submit(task, *args, **kwargs)
        if not isinstance(task, _Task):
            return inner
        outer: Future[_T] = _Outer(inner)
        inner.add_done_callback(lambda done: _settle(done, outer, task.owner))
        return outer

    def _task(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        """What to submit for `fn`: itself where there is no session to take along."""
        try:
            runtime = switch.runtime()
            if runtime is None:
                return fn
            from . import carriers, context  # noqa: PLC0415

            span = context.current()
            if span is None:
                return fn
            here = carriers.wrap(fn)
            if self._shares_memory:
                return here
            if not hasattr(span.owner, "session_id"):  # a step's scopes are for its own process to time
                return fn
            at_home = span.owner.tracer is None  # our own export takes the child's spans too
            return _Task(
                here, _Elsewhere(fn, carriers.inject(span), runtime.settings, not at_home), span.owner
            )
        except Exception:  # noqa: BLE001
            health.internal_error("executor.submit")
            return fn

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Shut the wrapped executor down."""
        self.executor.shutdown(wait=wait, cancel_futures=cancel_futures)


class _Elsewhere(NamedTuple):
    """Called in a pool's process: the function, in the session that it brings along."""

    fn: Callable[..., Any]
    carrier: Mapping[str, str]
    settings: Any
    export_here: bool

    def __call__(self, *args: Any, **kwargs: Any) -> _Returned:
        root, token = self._enter()
        value = exception = None
        text = ""
        try:
            value = self.fn(*args, **kwargs)
        except BaseException as exc:  # noqa: BLE001 - it is raised again where the future is asked
            exception = exc
            text = "".join(traceback.format_exception(type(exc), exc, exc.__traceback__))
            exc.__traceback__ = None
        return _Returned(value, exception, text, self._leave(root, token))

    def _enter(self) -> tuple[RolloutSpan | None, Any]:
        try:
            runtime = switch.lent(self.settings)
            from . import carriers, context  # noqa: PLC0415

            root = carriers.extract(runtime, self.carrier, collect=True, export_here=self.export_here)
            return root, None if root is None else context.attach(root)
        except Exception:  # noqa: BLE001
            health.internal_error("executor.call")
            return None, None

    def _leave(self, root: RolloutSpan | None, token: Any) -> list[list[Any]]:
        """The spans to bring home; those that the function left open end with it."""
        if root is None:
            return []
        try:
            from . import context  # noqa: PLC0415

            context.detach(token)
            owner: Any = root.owner
            for span in owner.open_spans():
                owner.end_span(span, late=True)
            return owner.collected or []
        except Exception:  # noqa: BLE001
            health.internal_error("executor.collect")
            return []


class _Task:
    """For an executor that may call it in this process, or take it to another one: only pickled, it is `elsewhere`."""

    def __init__(self, here: Callable[..., Any], elsewhere: _Elsewhere, owner: Any) -> None:
        self.here = here
        self.elsewhere = elsewhere
        self.owner = owner
        self._process = os.getpid()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return (self.here if os.getpid() == self._process else self.elsewhere)(*args, **kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        return _Elsewhere, tuple(self.elsewhere)


class _Returned(NamedTuple):
    value: Any
    exception: BaseException | None
    trace: str
    rows: list[list[Any]]


class _RemoteTraceback(Exception):  # noqa: N818 - not raised, only shown as the cause
    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f'\n"""\n{self.text}"""'


class _Outer(Future):  # type: ignore[type-arg]
    """What the caller gets; cancelling it cancels the real one."""

    def __init__(self, inner: Future[Any]) -> None:
        super().__init__()
        self._inner = inner

    def cancel(self) -> bool:
        return self._inner.cancel() and super().cancel()

    def running(self) -> bool:
        return self._inner.running()


def _settle(inner: Future[Any], outer: Future[Any], owner: Any) -> None:
    """In the parent: hand the spans to their session, the result to the caller."""
    if inner.cancelled():
        if not outer.cancelled():
            Future.cancel(outer)
        outer.set_running_or_notify_cancel()
        return
    if not outer.set_running_or_notify_cancel():
        return
    failed = inner.exception()
    if failed is not None:
        outer.set_exception(failed)
        return
    returned = inner.result()
    if not isinstance(returned, _Returned):  # it was called in this process
        outer.set_result(returned)
        return
    try:
        if returned.rows:
            owner.adopt(returned.rows)
    except Exception:  # noqa: BLE001
        health.internal_error("executor.settle")
    if returned.exception is not None:
        returned.exception.__cause__ = _RemoteTraceback(returned.trace)
        outer.set_exception(returned.exception)
    else:
        outer.set_result(returned.value)

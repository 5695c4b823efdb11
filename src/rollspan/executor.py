"""Executors that take the current session along, and bring a child process's spans back with the result."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

from . import health, switch

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
        self._shares_memory = isinstance(executor, ThreadPoolExecutor) and kind != "InterpreterPoolExecutor"

    def submit(self, fn: Callable[..., _T], /, *args: Any, **kwargs: Any) -> Future[_T]:
        """As `Executor.submit`; the function's exception is the future's, as ever."""
        job = self._job(fn)
        if job is None:
            return self.executor.submit(fn, *args, **kwargs)
        if isinstance(job, _Job):
            inner = self.executor.submit(_call, job, fn, args, kwargs)
            outer: Future[_T] = _Outer(inner)
            inner.add_done_callback(lambda done: _settle(done, outer, job))
            return outer
        return self.executor.submit(job, *args, **kwargs)

    def _job(self, fn: Callable[..., Any]) -> Any:
        """How to call `fn`: None plainly, a `_Job` in another process, else a function of this one."""
        try:
            runtime = switch.runtime()
            if runtime is None:
                return None
            from . import carriers, context  # noqa: PLC0415

            span = context.current()
            if span is None:
                return None
            if self._shares_memory:
                return carriers.wrap(fn)
            at_home = span.owner.tracer is None  # our own export takes the child's spans too
            return _Job(carriers.inject(span), runtime.settings, not at_home, span.owner.trace_int)
        except Exception:  # noqa: BLE001
            health.internal_error("executor.submit")
            return None

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Shut the wrapped executor down."""
        self.executor.shutdown(wait=wait, cancel_futures=cancel_futures)


class _Job(NamedTuple):
    carrier: Mapping[str, str]
    settings: Any
    export_here: bool
    trace: int


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


def _call(job: _Job, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Returned:
    """In the child: run the function in the session that the job brought."""
    root = token = None
    try:
        runtime = switch.lent(job.settings)
        from . import carriers, context  # noqa: PLC0415

        root = carriers.extract(runtime, job.carrier, collect=True, export_here=job.export_here)
        if root is not None:
            token = context.attach(root)
    except Exception:  # noqa: BLE001
        health.internal_error("executor.call")
    value = exception = None
    text = ""
    try:
        value = fn(*args, **kwargs)
    except BaseException as exc:  # noqa: BLE001 - it is raised again where the future is asked
        exception = exc
        text = "".join(traceback.format_exception(type(exc), exc, exc.__traceback__))
        exc.__traceback__ = None
    rows: list[list[Any]] = []
    try:
        if root is not None and token is not None:
            context.detach(token)
            owner: Any = root.owner
            for span in owner.open_spans():  # whatever the function left open ends with it
                owner.end_span(span, late=True)
            rows = owner.collected or []
    except Exception:  # noqa: BLE001
        health.internal_error("executor.collect")
    return _Returned(value, exception, text, rows)


def _settle(inner: Future[Any], outer: Future[Any], job: _Job) -> None:
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
    returned: _Returned = inner.result()
    try:
        runtime = switch.runtime()
        session = runtime.live.get(job.trace) if runtime is not None else None
        if session is not None and returned.rows:
            session.adopt(returned.rows)
        elif returned.rows:
            health.count("api.spans_after_end", len(returned.rows))
    except Exception:  # noqa: BLE001
        health.internal_error("executor.settle")
    if returned.exception is not None:
        returned.exception.__cause__ = _RemoteTraceback(returned.trace)
        outer.set_exception(returned.exception)
    else:
        outer.set_result(returned.value)

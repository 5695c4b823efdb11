"""The functions that both versions of AReaL's module have, and the one tracer of this process behind them."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable
from typing import Any

from rollspan import perf
from rollspan.perf.categories import CategoryLike

from .sessions import session_id as _session_id
from .sessions import task_id as _task_id

_lock = threading.Lock()
_current: Any = None


def current() -> Any:
    """The tracer that was configured, or None."""
    return _current


def set_up(make: Callable[[], Any]) -> Any:
    """Have the tracer that `make` makes. Raises RuntimeError where there is one already."""
    global _current  # noqa: PLW0603 - a process has one
    with _lock:
        if _current is not None:
            raise RuntimeError(
                "the tracer has been configured already; reset() comes before another configure()"
            )
        _current = make()
        return _current


def is_configured() -> bool:
    """Whether there is a tracer."""
    return _current is not None


def reset() -> None:
    """Write what there is, and have no tracer."""
    global _current
    with _lock:
        tracer, _current = _current, None
    if tracer is not None:
        tracer.reset()
        tracer.close()


def get_tracer() -> Any:
    """The tracer. Raises RuntimeError where there is none."""
    tracer = _current
    if tracer is None:
        raise RuntimeError("there is no tracer: configure() makes it")
    return tracer


def get_session_tracer() -> Any:
    """The tracer of sessions, or None."""
    tracer = _current
    return None if tracer is None else tracer.session_tracer


def instant(name: str, *, category: CategoryLike = None, args: dict[str, Any] | None = None) -> None:
    """A moment."""
    (_current or perf).instant(name, category=category, args=args)


def save(*, step: int | None = None, force: bool = False) -> None:
    """The trainer's step is over; see `PerfTracer.save`."""
    tracer = _current
    if tracer is None:
        perf.save()
    else:
        tracer.save(step=step, force=force)


def trace_perf(name: str, *, category: CategoryLike = None) -> Callable[[Callable[..., Any]], Any]:
    """A decorator: each call of the function is a timed scope."""

    def decorator(func: Callable[..., Any]) -> Callable[..., Any]:
        timed = perf.trace_perf(name, category=category)(func)

        def chosen() -> Callable[..., Any]:  # a tracer comes after the decorators
            tracer = _current
            return timed if tracer is None or tracer.enabled else func

        return _called(func, chosen)

    return decorator


def traced_by(phase: Callable[[], Any], func: Callable[..., Any]) -> Callable[..., Any]:
    """`func`, each call of it in a new `phase`."""

    async def asynchronous(*args: Any, **kwargs: Any) -> Any:
        async with phase():
            return await func(*args, **kwargs)

    def synchronous(*args: Any, **kwargs: Any) -> Any:
        with phase():
            return func(*args, **kwargs)

    inside = asynchronous if asyncio.iscoroutinefunction(func) else synchronous
    return functools.update_wrapper(inside, func)


def _called(func: Callable[..., Any], chosen: Callable[[], Callable[..., Any]]) -> Callable[..., Any]:
    async def asynchronous(*args: Any, **kwargs: Any) -> Any:
        return await chosen()(*args, **kwargs)

    def synchronous(*args: Any, **kwargs: Any) -> Any:
        return chosen()(*args, **kwargs)

    inside = asynchronous if asyncio.iscoroutinefunction(func) else synchronous
    return functools.update_wrapper(inside, func)


def set_session_id(session_id: int | None) -> None:
    """Say in which session this context is."""
    _session_id.set(session_id)


def get_session_id() -> int | None:
    """The session in which this context is."""
    return _session_id.get()


def set_task_id(task_id: int | None) -> None:
    """Say in which task this context is."""
    _task_id.set(task_id)


def get_task_id() -> int | None:
    """The task in which this context is."""
    return _task_id.get()


def __getattr__(name: str) -> Any:
    """`GLOBAL_TRACER`, and `profiler`: importing the tracer does not load torch."""
    if name == "GLOBAL_TRACER":
        return _current
    if name == "profiler":
        from torch import profiler  # noqa: PLC0415

        return profiler
    raise AttributeError(f"AReaL's tracer has no attribute {name!r} here")

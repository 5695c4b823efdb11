"""Rewards: a function's score of an answer, computed beside the event loop, traced as the phase `reward`."""

from __future__ import annotations

import asyncio
import inspect
import math
import numbers
import os
import pickle
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any

import rollspan

from .errors import RolloutError, check_whole
from .processes import (
    CallTimeoutError,
    KillableProcesses,
    ProcessLostError,
    ProcessStartError,
    check_may_start,
)


class RewardError(RolloutError):
    """There is no reward: its function gave no finite number, or its process died."""


class RewardTimeoutError(RewardError, TimeoutError):
    """The reward function took too long."""


class AsyncReward:
    """`await reward(*args, **kwargs)` is the function's score as a float, in a phase `reward` of the current session.

    A plain function runs in one of up to `workers` processes (half of the cores by default), which are started when
    first needed, or by `start`; what it does in phases is part of the session too. They import the program anew, so
    what that runs has to stand below `if __name__ == "__main__":`. Where the first of them dies before it is ready, or
    is not ready within `start_timeout` seconds, no other is tried, and every call raises RewardError.

    An async function runs where it is awaited. Either ends after `timeout` seconds: a process is killed with all that
    it started, a coroutine is cancelled. The wait for a free process is not counted. To cancel the awaiting task ends
    the work as well.

    A call that raises, takes too long or loses its process is repeated up to `retries` times. The last failure is
    raised: the function's own exception as it is, RewardTimeoutError, or RewardError for a lost process and for what is
    no finite number (a bool, an integer, or an array or tensor of one number is). A reward that was not computed is no
    reward of 0: that would teach the model something wrong.

    `name` stands at the phase; the function's own by default. Raises ValueError for arguments that make no sense, and
    for a plain function that cannot be pickled. May be used from several threads and event loops. Processes end with
    `close`, with this object, or with the program, even where one hangs.
    """

    def __init__(
        self,
        fn: Callable[..., Any],
        timeout: float = 15.0,
        workers: int | None = None,
        retries: int = 0,
        name: str | None = None,
        start_timeout: float = 60.0,
    ) -> None:
        if not callable(fn):
            raise ValueError(f"the reward function is {fn!r}; expected something to call")
        for what, seconds in (("timeout", timeout), ("start_timeout", start_timeout)):
            if type(seconds) not in (int, float) or not 0 < seconds < math.inf:
                raise ValueError(f"{what} is {seconds!r}; expected a finite number of seconds above 0")
        for what, value, least in (("workers", workers, 1), ("retries", retries, 0)):
            if value is not None:
                check_whole(what, value, least)
        self.fn = fn
        self.timeout = timeout
        self.start_timeout = start_timeout
        self.workers = workers or max((os.cpu_count() or 1) // 2, 1)
        self.retries = retries
        self.name = name or str(getattr(fn, "__name__", type(fn).__name__))
        self._is_async = _is_async(fn)
        if not self._is_async:
            _check_pickles(fn)
        self._processes: KillableProcesses | None = None
        self._closed = False
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"AsyncReward({self.name})"

    async def __call__(self, *args: Any, **kwargs: Any) -> float:
        """The score. Raises what the class says."""
        with rollspan.phase("reward", reward_name=self.name):
            attempt = 0
            while True:
                try:
                    score = await (self._awaited if self._is_async else self._in_process)(args, kwargs)
                    break
                except Exception:
                    if self._closed or attempt == self.retries:
                        raise
                    attempt += 1
            rollspan.record_reward(score, self.name)
            return score

    async def _awaited(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> float:
        self._check_open()
        task = asyncio.ensure_future(self.fn(*args, **kwargs))
        try:
            done, _ = await asyncio.wait({task}, timeout=self.timeout)
        except asyncio.CancelledError:
            task.cancel()
            raise
        if not done:
            task.cancel()
            await asyncio.wait({task}, timeout=1)  # for what it does at its end; it may refuse to end at all
            raise self._too_late()
        return _as_score(task.result(), self.name)

    async def _in_process(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> float:
        executor = rollspan.TracedExecutor(self._started())
        try:
            return await asyncio.wrap_future(executor.submit(_score, self.fn, self.name, args, kwargs))
        except CallTimeoutError as error:
            raise self._too_late() from error
        except ProcessLostError as error:
            raise RewardError(f"{self!r}: {error}") from None

    def _too_late(self) -> RewardTimeoutError:
        return RewardTimeoutError(f"{self!r} had no score after {self.timeout:g} s; its work was ended")

    def _check_open(self) -> None:
        if self._closed:
            raise RewardError(f"{self!r} is closed")

    def _started(self) -> KillableProcesses:
        with self._lock:
            self._check_open()
            if self._processes is None:
                self._check_may_start()
                self._processes = KillableProcesses(self.workers, self.timeout, self.start_timeout, self.fn)
            return self._processes

    def _check_may_start(self) -> None:
        try:
            check_may_start()
        except ProcessStartError as error:
            raise RewardError(f"{self!r}: {error}") from None

    def start(self) -> AsyncReward:
        """Start the processes now, so that the first calls need not wait for that; gives the same object.

        It does not wait for them either: where they cannot start, calls say so. An async function needs none. Raises
        RewardError where this is closed, and in a process that is itself about to start.
        """
        if self._is_async:
            self._check_open()
        else:
            self._started().start()
        return self

    def close(self) -> None:
        """Kill the processes. Calls that wait or run raise RewardError."""
        with self._lock:
            self._closed = True
            processes = self._processes
        if processes is not None:
            processes.shutdown()

    async def aclose(self) -> None:
        """`close` beside the event loop."""
        await asyncio.to_thread(self.close)

    def __enter__(self) -> AsyncReward:
        if not self._is_async:
            self._check_may_start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> AsyncReward:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


def as_async_reward(reward_fn: Callable[..., Any]) -> AsyncReward:
    """The same where it is one, else one made of the function with the defaults."""
    return reward_fn if isinstance(reward_fn, AsyncReward) else AsyncReward(reward_fn)


def _is_async(fn: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(getattr(fn, "__call__", None))  # noqa: B004


def _check_pickles(fn: Callable[..., Any]) -> None:
    try:
        pickle.dumps(fn)
    except Exception as error:
        raise ValueError(
            f"the reward function {fn!r} cannot be pickled, so no other process can run it ({error}); expected a "
            "function at the top of a module, not a lambda or one inside a function, or an async function"
        ) from error


def _score(fn: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> float:
    """In a process: the score; exceptions are such as can be taken to the parent."""
    try:
        return _as_score(fn(*args, **kwargs), name)
    except Exception as error:
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:  # noqa: BLE001 - whatever its class does then
            raise RewardError(f"AsyncReward({name}): {type(error).__qualname__}: {error}") from None
        raise
    except BaseException as error:  # noqa: BLE001 - such as SystemExit, which would end the parent
        raise RewardError(
            f"AsyncReward({name}): the function ended with {type(error).__name__}({error})"
        ) from None


def _as_score(value: Any, name: str) -> float:
    """The number that a reward function gave."""
    number = value
    if not isinstance(value, numbers.Real) and callable(item := getattr(value, "item", None)):
        try:
            number = item()  # of numpy and torch
        except (TypeError, ValueError, RuntimeError):
            number = None
    if not isinstance(number, numbers.Real):
        raise RewardError(
            f"AsyncReward({name}): the function gave a {type(value).__name__}; expected a number"
        )
    score = float(number)
    if not math.isfinite(score):
        raise RewardError(f"AsyncReward({name}): the function gave {score}; expected a finite number")
    return score

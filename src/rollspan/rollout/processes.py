"""Runs one function in processes that can be killed: calls that take too long really end.

A thread of its own looks after each process: it takes the next call from a queue that all share, sends it over a pipe,
and waits for the answer, for the death of the process, or for the time to be over. `concurrent.futures` has no way to
end one call that runs.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import queue
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from multiprocessing import util
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

from .errors import RolloutError

_T = TypeVar("_T")


class CallTimeoutError(RolloutError, TimeoutError):
    """The function took too long, and its process was killed."""


class ProcessLostError(RolloutError):
    """The process died under the call, or was closed."""


class ProcessStartError(ProcessLostError):
    """A process could not be started."""

    def __init__(self, why: str) -> None:
        self.why = why
        super().__init__(
            f"a process could not be started: {why}. A process imports the program anew, so what that runs has to stand "
            "below `if __name__ == '__main__':`; where it does, what the process printed says more"
        )


def check_may_start() -> None:
    """Raise ProcessStartError in a process that is itself about to start: it would run the whole program again."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise ProcessStartError(
            "this process itself is still starting, and runs the program as it imports it"
        )


class KillableProcesses(Executor):
    """Up to `workers` processes, started when they are first needed, that run one call each.

    They are forked by the fork server where there is one, else spawned; leave with their parent however that ends, with
    whatever they started; and take no Ctrl-C. `timeout` is of one call, in seconds, from when a process has it. `needs`
    is pickled to each process as it starts, so that imports are not part of a call's time; `start_timeout` is for them,
    in seconds. Calls are taken in the order in which they came, from any thread.

    The first process starts alone. Where it does not get ready, no other is tried: each would run into the same.
    Raises ProcessStartError in a process that is itself about to start.
    """

    def __init__(self, workers: int, timeout: float, start_timeout: float, needs: Any = None) -> None:
        check_may_start()
        methods = multiprocessing.get_all_start_methods()
        context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
        self._crew = _Crew(context, timeout, start_timeout, needs)
        self._workers = workers
        # Called when this object goes, when the program ends before it waits for processes, or by `shutdown`.
        self._finalizer = util.Finalize(self, self._crew.close, exitpriority=100)

    def submit(self, fn: Callable[..., _T], /, *args: Any, **kwargs: Any) -> Future[_T]:
        """As `Executor.submit`. To cancel a call that runs kills its process.

        The future raises CallTimeoutError, ProcessLostError, or what the function raised. This raises what pickling
        the function or its arguments does, and ProcessLostError after `shutdown`.
        """
        call = _Call(pickle.dumps((fn, args, kwargs)))
        self._crew.add(call, self._workers)
        return call

    def start(self) -> None:
        """Start processes ahead of the first calls; does not wait for them. Raises what `submit` does."""
        for _ in range(self._workers):
            self.submit(_nothing)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Kill the processes. Calls that wait or run raise ProcessLostError."""
        self._finalizer()
        if wait:
            self._crew.join()


class _Call(Future[Any]):
    """A call that waits or runs; who cancels it kills the process that it is in."""

    def __init__(self, payload: bytes) -> None:
        super().__init__()
        self.payload = payload
        self._process: BaseProcess | None = None
        self._given_up = False
        self._lock = threading.Lock()

    def cancel(self) -> bool:
        if super().cancel():
            return True
        with self._lock:
            self._given_up = True
            if self._process is not None:
                _kill(self._process)
        return False

    def enter(self, process: BaseProcess) -> bool:
        """It is in this process from now on. False when nobody waits for it any more."""
        with self._lock:
            self._process = None if self._given_up else process
            return not self._given_up

    def leave(self) -> bool:
        """It is in no process any more. False when its process was killed for it."""
        with self._lock:
            process, self._process = self._process, None
            return process is None or not self._given_up


class _Crew:
    """What the threads share. It does not know the executor, which can go while they wait."""

    def __init__(self, context: Any, timeout: float, start_timeout: float, needs: Any) -> None:
        self._context = context
        self._timeout = timeout
        self.start_timeout = start_timeout
        self._needs = needs
        self.first_start = threading.Lock()
        self.has_started = False  # one process at least
        self.why_none_starts = ""
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._idle = 0  # threads that wait for a call, less the calls that wait for a thread
        self._processes: set[BaseProcess] = set()
        self.closed = False
        self._lock = threading.RLock()  # garbage collection may close it in the middle of anything
        self._pid = os.getpid()

    def add(self, call: _Call, most: int) -> None:
        if os.getpid() != self._pid:
            raise ProcessLostError(
                "this process was forked off the one whose processes these are; make new ones"
            )
        with self._lock:
            if self.closed:
                raise ProcessLostError("the processes are closed; make new ones")
            self._calls.put(call)
            self._idle -= 1
            if self._idle < 0 and len(self._threads) < most:
                self._idle += 1
                thread = threading.Thread(target=self._look_after_one, name="rollout-process", daemon=True)
                self._threads.append(thread)
                thread.start()

    def close(self) -> None:
        with self._lock:
            self.closed = True
            for process in self._processes:
                _kill(process)
        with contextlib.suppress(queue.Empty):
            while True:
                call = self._calls.get_nowait()
                if call is not None and call.set_running_or_notify_cancel():
                    call.set_exception(ProcessLostError("the processes were closed before one was free"))
        for _ in self._threads:
            self._calls.put(None)

    def join(self) -> None:
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join()

    def start(self) -> tuple[BaseProcess, Connection]:
        """A process and the pipe to it. Raises ProcessLostError after `close`."""
        ours, theirs = multiprocessing.Pipe()
        process = self._context.Process(target=_serve, args=[theirs, self._needs], name="rollout-process")
        with self._lock:
            if self.closed:
                raise ProcessLostError("the processes were closed meanwhile")
            process.start()
            self._processes.add(process)
        theirs.close()
        return process, ours

    def end(self, process: BaseProcess) -> None:
        """Kill it, and forget it."""
        _kill(process)
        process.join()
        with self._lock:
            self._processes.discard(process)

    def _look_after_one(self) -> None:
        worker = _Worker(self)
        while (call := self._calls.get()) is not None:
            if call.set_running_or_notify_cancel():
                try:
                    ok, value = worker.run(call, self._timeout)
                except BaseException as error:  # noqa: BLE001 - it is the future's
                    ok, value = False, error
                if not call.leave():
                    worker.end()
                call.set_result(value) if ok else call.set_exception(value)
            del call
            with self._lock:
                self._idle += 1
        worker.end()


class _Worker:
    """What one thread looks after: a process, where there is one now, and the pipe to it."""

    def __init__(self, crew: _Crew) -> None:
        self._crew = crew
        self._now: tuple[BaseProcess, Connection] | None = None

    def run(self, call: _Call, timeout: float) -> tuple[bool, Any]:
        """Whether the function returned, and what; or what it raised."""
        if self._now is None or not self._takes(call, timeout):  # it may have died while it had nothing to do
            self._start()
            if not self._takes(call, timeout):
                raise ProcessLostError("a new process ended before it took the call")
        return self._receive(timeout, "answered")  # type: ignore[no-any-return]

    def end(self) -> None:
        """Kill the process."""
        if self._now is not None:
            process, pipe = self._now
            self._now = None
            self._crew.end(process)
            pipe.close()

    def _start(self) -> None:
        crew = self._crew
        with crew.first_start:
            if crew.why_none_starts:
                raise ProcessStartError(crew.why_none_starts)
            if not crew.has_started:
                try:
                    self._start_one()
                except ProcessStartError as error:
                    crew.why_none_starts = error.why
                    raise
                crew.has_started = True
                return
        self._start_one()

    def _start_one(self) -> None:
        self._now = self._crew.start()
        limit = self._crew.start_timeout
        try:
            self._receive(limit, "started")
        except CallTimeoutError:
            raise ProcessStartError(f"it was not ready after {limit:g} s, its start_timeout") from None
        except ProcessLostError as error:
            if self._crew.closed:
                raise
            raise ProcessStartError(str(error)) from None

    def _takes(self, call: _Call, timeout: float) -> bool:
        """Whether the process has taken the call; if not, it has ended, and the call was not made.

        Raises ProcessLostError for a call that was cancelled meanwhile.
        """
        assert self._now is not None
        process, pipe = self._now
        if not call.enter(process):
            raise ProcessLostError("the call was cancelled")
        try:
            pipe.send_bytes(call.payload)
            self._receive(timeout, "taken the call")
        except CallTimeoutError:
            raise
        except (OSError, ProcessLostError):
            self.end()
            return False
        return True

    def _receive(self, timeout: float, what: str) -> Any:
        """What the process says next. Raises CallTimeoutError, ProcessLostError."""
        assert self._now is not None
        process, pipe = self._now
        if not wait([pipe, process.sentinel], timeout):
            self.end()
            raise CallTimeoutError(f"the process had not {what} after {timeout:g} s and was killed")
        try:
            # What it forked may hold the pipe open, so its end alone does not tell that it is gone.
            data = pipe.recv_bytes() if pipe.poll() else b""
        except (EOFError, OSError):
            data = b""
        if not data:
            raise self._lost(what)
        return pickle.loads(data)

    def _lost(self, what: str) -> ProcessLostError:
        assert self._now is not None
        process, _ = self._now
        process.join(1)  # before it is killed: it is dying by itself
        code = process.exitcode
        self.end()
        return ProcessLostError(f"the process ended before it had {what} (exit code {code})")


def _kill(process: BaseProcess) -> None:
    """End a process and what it started. Its children are in its group."""
    if process.is_alive() and process.pid is not None:
        # It may not have come to make its group, or there are none on this system.
        with contextlib.suppress(OSError, AttributeError):
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()


def _serve(pipe: Connection, needs: Any) -> None:
    """In a process: run calls until the parent is gone. What `needs` imports has been imported by now."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _leave_with_parent()
    with contextlib.suppress(EOFError, OSError):
        pipe.send(None)
        while True:
            payload = pipe.recv_bytes()
            pipe.send(None)  # from here on the call is being made
            pipe.send_bytes(_answer(payload))


def _nothing() -> None:
    """What a process is started with ahead of the calls."""


def _answer(payload: bytes) -> bytes:
    try:
        fn, args, kwargs = pickle.loads(payload)
        return pickle.dumps((True, fn(*args, **kwargs)))
    except BaseException as error:  # noqa: BLE001 - the parent raises it again
        return pickle.dumps((False, error))


def _leave_with_parent() -> None:
    """The kernel ends this process and its children when the parent is gone, whatever they are doing then."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_leave_with, args=[parent], daemon=True).start()
    with contextlib.suppress(
        ImportError, AttributeError, OSError
    ):  # not on this system: the thread does what it can
        import fcntl  # noqa: PLC0415

        os.setpgid(0, 0)
        # The pipe from the parent says nothing but its end, and that as a signal which ends the whole group. A thread
        # has no turn where a function never gives up the interpreter's lock.
        fcntl.fcntl(parent.sentinel, fcntl.F_SETOWN, -os.getpid())
        flags = fcntl.fcntl(parent.sentinel, fcntl.F_GETFL)
        fcntl.fcntl(parent.sentinel, fcntl.F_SETFL, flags | os.O_ASYNC if hasattr(os, "O_ASYNC") else flags)


def _leave_with(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)

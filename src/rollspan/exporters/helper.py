"""Calls that may hang, made where nobody has to wait for their end."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any

_MOST_STUCK = 3


class Job:
    """A call under way: `done` is set when it is over, and then `error` or `result` counts."""

    __slots__ = ("done", "error", "result", "work")

    def __init__(self, work: Callable[[], Any]) -> None:
        self.work = work
        self.done = threading.Event()
        self.result: Any = None
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self.result = self.work()
        except BaseException as error:  # noqa: BLE001 - handed to the one who waits
            self.error = error
        self.done.set()

    def outcome(self) -> Any:
        if self.error is not None:
            raise self.error
        return self.result


class Helper:
    """Makes calls in a daemon thread of its own, each for as long as its caller will wait.

    Time-outs of sockets do not bound a request: a name that is looked up, and an answer that trickles in,
    take as long as they like. A call that is late is left behind with its thread.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._jobs: queue.SimpleQueue[Job | None] | None = None
        self._thread: threading.Thread | None = None
        self._stuck: list[threading.Thread] = []

    def call(self, work: Callable[[], Any], timeout: float) -> Any:
        """What `work()` returns or raises; TimeoutError if it is not back within `timeout` seconds."""
        job = self.submit(work)
        if not job.done.wait(timeout):
            self.leave_behind()
            raise TimeoutError(f"no answer within {timeout:.2g} s")
        return job.outcome()

    def submit(self, work: Callable[[], Any]) -> Job:
        """Begin a call; TimeoutError where too many calls hang already."""
        job = Job(work)
        if self._thread is None or not self._thread.is_alive():
            self._stuck = [thread for thread in self._stuck if thread.is_alive()]
            if len(self._stuck) >= _MOST_STUCK:
                raise TimeoutError(f"{len(self._stuck)} earlier requests still hang")
            if not self._start():
                job.run()  # the interpreter is ending and starts no more threads
                return job
        assert self._jobs is not None
        self._jobs.put(job)
        return job

    def leave_behind(self) -> None:
        """Let the thread end when its call does, if ever, and use another one from now on."""
        if self._thread is not None and self._jobs is not None:
            self._stuck.append(self._thread)
            self._jobs.put(None)
        self._thread = self._jobs = None

    def close(self) -> None:
        """Let the thread end."""
        if self._jobs is not None:
            self._jobs.put(None)
        self._thread = self._jobs = None

    def _start(self) -> bool:
        jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        thread = threading.Thread(target=_serve, args=(jobs,), name=self._name, daemon=True)
        try:
            thread.start()
        except RuntimeError:
            return False
        self._jobs, self._thread = jobs, thread
        return True


def _serve(jobs: queue.SimpleQueue[Job | None]) -> None:
    while (job := jobs.get()) is not None:
        job.run()
        del job

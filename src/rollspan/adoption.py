"""What a starting process does for those that died before it, without its own work or its end waiting for that."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping

from . import health, recovery
from .config import Settings
from .delivery import LONGEST_PAUSE
from .left import Left, Standing, sweep
from .recovery import Outcome


class Adoption:
    """Brings the file of records up to date at once; a thread of its own sends what is owed to the network."""

    def __init__(self, settings: Settings, endpoints: Mapping[str, str], *, skip: str) -> None:
        """`endpoints` are this process's: what was to go to others waits for `rollspan recover`."""
        self._settings = settings
        self._endpoints = dict(endpoints)
        self._skip = skip
        self._until = math.inf
        self._known = recovery.known_below(settings.dir)
        self.written = threading.Event()
        """The file has what dead processes recorded, and this process may write to it."""
        self._stopped = threading.Event()
        self._waiting = threading.Event()  # nothing goes out: all has, or an endpoint fails
        self._owes = False
        self._thread: threading.Thread | None = None
        self._in_line = False

    def start(self) -> None:
        """Begin, in a thread of its own: there may be much to read."""
        if self._thread is not None:
            return
        self._thread = threading.Thread(target=self._run, name="rollspan-adoption", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:  # the interpreter is ending and starts no more threads: `join` does the rest
            self._in_line = True
            self._write_records()

    def stop(self, deadline: float) -> None:
        """Go on until `deadline` (monotonic seconds) at the longest."""
        self._until = deadline
        self._stopped.set()

    def join(self) -> None:
        """Wait for that, unless an endpoint fails. What is not sent by then stays for the next start."""
        if self._in_line and self._owes:
            self._send()
        elif self._thread is not None and self._thread.is_alive():
            self._waiting.wait(max(self._seconds_left(), 0.0))

    def _run(self) -> None:
        self._write_records()
        failures = 0
        while self._owes and not self._send():
            self._waiting.set()
            failures += 1
            pause = min(2.0 ** (failures - 1), LONGEST_PAUSE) * (0.75 + os.urandom(1)[0] / 512)
            if self._stopped.wait(pause):
                return
        self._waiting.set()

    def _write_records(self) -> None:
        """What dead processes recorded gets into the file."""
        found = 0
        try:
            sweep(self._settings.dir, self._settings.journal_dir)
            for left in self._left_here():
                outcome = self._deliver(left, lambda exporter: exporter == "file", tries=3)
                found += outcome.delivered.get("file", 0)
                self._owes = self._owes or (bool(outcome.untried) and self._goes_where_ours_goes(left))
        except Exception:  # noqa: BLE001
            health.internal_error("adoption.file")
        finally:
            self.written.set()
        if found:
            health.logger.info("rollspan: %d sessions of processes that died were recovered", found)

    def _seconds_left(self) -> float:
        return self._until - time.monotonic()

    def _left_here(self) -> Iterator[Left]:
        for left, standing in recovery.held(self._settings, self._skip):
            if self._seconds_left() <= 0.0:
                return
            if standing is Standing.LEFT:
                yield left

    def _goes_where_ours_goes(self, left: Left) -> bool:
        return left.endpoints == self._endpoints

    def _deliver(self, left: Left, wanted: Callable[[str], bool], *, tries: int) -> Outcome:
        return recovery.deliver_left(
            left, self._settings, self._seconds_left, self._known, wanted=wanted, tries=tries
        )

    def _send(self) -> bool:
        """One round over all journals; whether everything was sent. Who fails is left alone until the next round."""
        failed: set[str] = set()
        try:
            for left in filter(self._goes_where_ours_goes, self._left_here()):
                outcome = self._deliver(left, lambda name: name != "file" and name not in failed, tries=1)
                failed.update(outcome.unreached)
                if failed:
                    self._waiting.set()
                elif outcome.delivered:
                    self._waiting.clear()
        except Exception:  # noqa: BLE001
            health.internal_error("adoption.network")
            return False
        return not failed

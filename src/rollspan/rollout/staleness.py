"""How many rollouts may be under way, and how old a trajectory may be that is trained on."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from functools import partial
from typing import Final

from rollspan import RolloutStats

from .errors import check_whole

# A named tuple's own constructor is a function in Python.
_stats: Final[Callable[[tuple[int, int, int, int]], RolloutStats]] = partial(tuple.__new__, RolloutStats)


class StalenessManager:
    """Counts rollouts, and says how many more may begin. Safe from any thread.

    A rollout is what one submission asked for: one session, or a group of them. While `max_staleness` bounds how far
    rollouts run ahead, at most `(max_staleness + 1) * consumer_batch_size` are under way or wait for the trainer, those
    included that it has consumed under the present version: whoever begins last is then consumed at most `max_staleness`
    versions later, by a trainer that takes `consumer_batch_size` a version. This is AReaL's rule, for any number that
    the trainer takes. Raises ValueError for bounds that make no sense.
    """

    def __init__(
        self,
        *,
        max_concurrent_rollouts: int | None = None,
        consumer_batch_size: int = 1,
        max_staleness: int | None = None,
        version: int = 0,
    ) -> None:
        for name, value, least in (
            ("max_concurrent_rollouts", 1 if max_concurrent_rollouts is None else max_concurrent_rollouts, 1),
            ("consumer_batch_size", consumer_batch_size, 1),
            ("max_staleness", 0 if max_staleness is None else max_staleness, 0),
            ("version", version, 0),
        ):
            check_whole(name, value, least)
        self.max_concurrent_rollouts = max_concurrent_rollouts or max(64, consumer_batch_size)
        self.consumer_batch_size = consumer_batch_size
        self.max_staleness = max_staleness
        self._lock = threading.Lock()
        self._limit = sys.maxsize if max_staleness is None else (max_staleness + 1) * consumer_batch_size
        self._version = version
        self.oldest_allowed = 0 if max_staleness is None else version - max_staleness
        """The oldest version of the weights whose tokens may be trained on now."""
        self._enqueued = self._running = self._accepted = self._rejected = 0
        self._ahead = 0
        """Of those that `max_staleness` bounds: under way, waiting for the trainer, or consumed under this version."""
        self._consumed = 0
        """Of these, the ones that were consumed."""

    def get_version(self) -> int:
        """The version of the weights that is trained on now."""
        return self._version

    def set_version(self, version: int) -> None:
        """The weights are others now. Versions only grow: raises ValueError for an older one."""
        with self._lock:
            self.check_version(version)
            if version > self._version:
                self._version = version
                if self.max_staleness is not None:
                    self.oldest_allowed = version - self.max_staleness
                self._ahead -= self._consumed
                self._consumed = 0

    def check_version(self, version: int) -> None:
        """Raise ValueError for what cannot be the version of new weights."""
        check_whole("version", version, self._version, ", the present one")

    def get_pending_limit(self) -> int:
        """How many rollouts may be ahead of the trainer; without `max_staleness` any number."""
        return self._limit

    def get_capacity(self) -> int:
        """How many rollouts may begin now; below 0 where too many are under way."""
        with self._lock:
            return min(self.max_concurrent_rollouts - self._running, self._limit - self._ahead)

    def may_be_further_ahead(self) -> bool:
        """Whether `max_staleness` lets one more begin."""
        return self._ahead < self._limit

    def may_run(self) -> bool:
        """Whether one more may run."""
        return self._running < self.max_concurrent_rollouts

    def get_stats(self) -> RolloutStats:
        """Rollouts by what they do; `enqueued` are those that wait to run."""
        with self._lock:
            return self._stats()

    def _stats(self) -> RolloutStats:
        return _stats((self._accepted, self._enqueued, self._rejected, self._running))

    def on_rollout_enqueued(self) -> None:
        """One was submitted."""
        with self._lock:
            self._enqueued += 1

    def on_rollout_dequeued(self) -> None:
        """One that was submitted is cancelled before it was handed over."""
        with self._lock:
            self._enqueued -= 1

    def on_rollout_admitted(self, *, bounded: bool = True) -> None:
        """One was handed to the runner; `bounded`: it counts for `max_staleness`."""
        with self._lock:
            self._ahead += bounded

    def on_rollout_submitted(self) -> None:
        """One begins to run (AReaL's word)."""
        with self._lock:
            self._enqueued -= 1
            self._running += 1

    def on_rollout_accepted(self) -> RolloutStats:
        """One that ran is good, and waits for the trainer; gives the counts with it."""
        with self._lock:
            self._running -= 1
            self._accepted += 1
            return self._stats()

    def on_rollout_rejected(self, *, bounded: bool = True) -> None:
        """One that ran gives nothing to train on."""
        with self._lock:
            self._running -= 1
            self._rejected += 1
            self._ahead -= bounded

    def on_rollout_consumed(self, count: int = 1) -> None:
        """The trainer has taken so many that were accepted, of those that `max_staleness` bounds."""
        with self._lock:
            self._consumed += count

    def on_rollout_returned(self, *, bounded: bool = True) -> None:
        """One that the trainer had taken is given back, and waits for it again."""
        if bounded:
            with self._lock:
                if self._consumed:
                    self._consumed -= 1
                else:  # that was under another version
                    self._ahead += 1

    def on_rollout_discarded(self, *, bounded: bool = True) -> None:
        """One that was accepted is thrown away."""
        with self._lock:
            self._accepted -= 1
            self._rejected += 1
            self._ahead -= bounded

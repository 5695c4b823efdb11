"""Where submissions wait until they are handed to the runner: first come, first served, and bounded where asked."""

from __future__ import annotations

import math
import threading
from collections import deque

from .errors import RolloutError, check_whole
from .submissions import Submission


class Intake:
    """A queue of submissions. Safe from any thread."""

    def __init__(self, size: int | None) -> None:
        """`size`: how many may wait; None for any number."""
        if size is not None:
            check_whole("queue_size", size, 1, ", or None for no bound")
        self._size = size
        self._lock = threading.Lock()  # to take it through the condition costs twice as much
        self._changed = threading.Condition(self._lock)
        self._bounded: deque[Submission] = deque()
        self._unbounded: deque[Submission] = deque()  # these do not wait behind the others
        self._closed = False

    def __len__(self) -> int:
        return len(self._bounded) + len(self._unbounded)

    @property
    def is_full(self) -> bool:
        """Whether one more has to wait before it may."""
        return self._size is not None and len(self) >= self._size

    @property
    def room(self) -> float:
        """How many more may wait."""
        return math.inf if self._size is None else self._size - len(self)

    def put(self, submission: Submission, *, block: bool) -> bool:
        """Let it wait; False where there is no room. With `block` wait for room: RolloutError when closed meanwhile."""
        with self._lock:
            if self.is_full and not self._closed:
                if not block:
                    return False
                self._changed.wait_for(lambda: self._closed or not self.is_full)
            if self._closed:
                raise RolloutError("this executor is closed: nothing can be submitted any more")
            (self._bounded if submission.bounded else self._unbounded).append(submission)
            return True

    def pop(self, *, bounded: bool) -> Submission | None:
        """The next one, of those that `max_staleness` does not bound first; with `bounded` also of the others."""
        with self._lock:
            if self._unbounded:
                queue = self._unbounded
            elif bounded and self._bounded:
                queue = self._bounded
            else:
                return None
            if self._size is not None:
                self._changed.notify()
            return queue.popleft()

    def close(self) -> list[Submission]:
        """Take no more; gives those that wait."""
        with self._changed:
            self._closed = True
            left = [*self._unbounded, *self._bounded]
            self._unbounded.clear()
            self._bounded.clear()
            self._changed.notify_all()
            return left

"""Modules are loaded under one lock, for which a fork waits.

A process that is forked while another of its threads loads a module finds that module's lock taken for good, by a
thread that it does not have: it would hang when it came to load the module itself.
"""

from __future__ import annotations

import contextlib
import logging  # noqa: F401
import os
import threading

# Hooks before a fork run in the reverse order of their registration. This one and logging register locks of their own,
# which a module that is being loaded may want: so ours has to come before theirs, and be registered after.
with contextlib.suppress(RuntimeError):  # it cannot be loaded when the process is ending already
    import concurrent.futures.thread  # noqa: F401

_LONGEST = 5.0  # seconds that a fork waits; whatever is stuck by then must not keep the job from forking

lock = threading.RLock()
_forking = threading.local()


def _before() -> None:
    _forking.waited = lock.acquire(timeout=_LONGEST)


def _in_parent() -> None:
    if _forking.waited:
        lock.release()


def _in_child() -> None:
    global lock  # noqa: PLW0603 - whoever held it is not here
    lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)

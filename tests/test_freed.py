"""A session that is over is freed at once, however it ended: nothing of it is left to the garbage collector."""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import rollspan
from rollspan import native
from rollspan.testing import recording

from .needs import need


def _submitted() -> Any:
    session = rollspan.start_session(task_id=1)
    session.mark_enqueued()
    return session


def consumed() -> None:
    """From mark to mark."""
    session = _submitted()
    with session.execution(), rollspan.phase("generate"):
        pass
    session.mark_accepted(reward=1.0)
    session.mark_consumed()


def dropped_while_it_waits() -> None:
    """Before anybody ran it."""
    _submitted().mark_dropped("input_queue_full")


def dropped_inside_of_a_phase() -> None:
    """It ends with that."""
    session = _submitted()
    with session.execution(), rollspan.phase("generate"):
        session.mark_dropped("timeout")


def aborted_while_it_runs() -> None:
    """Its execution is cut short, and left later."""
    session = _submitted()
    with session.execution(), rollspan.phase("generate"):
        session.abort("cancelled")


def aborted_while_it_runs_twice() -> None:
    """Both executions are cut short, and never left."""
    session = _submitted()
    session.start_execution({})
    session.start_execution({})
    session.abort("cancelled")


def failed() -> None:
    """By an exception."""
    session = _submitted()
    with contextlib.suppress(ValueError), session.execution():
        raise ValueError
    session.mark_failed(ValueError())


def a_block() -> None:
    """The whole life is one block, with a counter."""
    with rollspan.session() as session, rollspan.phase("generate"):
        session.count("turns")


WAYS = (
    consumed,
    dropped_while_it_waits,
    dropped_inside_of_a_phase,
    aborted_while_it_runs,
    aborted_while_it_runs_twice,
    failed,
    a_block,
)


@pytest.mark.parametrize("in_c", [True, False], ids=["C", "Python"])
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_what_is_over_is_freed_at_once(way: Callable[[], None], in_c: bool, tmp_path: Path) -> None:
    """Without the garbage collector a thousand of them leave a few blocks of memory; each takes more than eight."""
    if in_c:
        need(native.is_built(), "the parts in C were not built: there is no C compiler")
    counted: list[int] = []
    with recording(tmp_path, native=in_c):
        try:
            for _ in range(4):
                rollspan.flush()
                gc.collect()
                gc.disable()
                before = sys.getallocatedblocks()
                for _ in range(1000):
                    way()
                rollspan.flush()
                counted.append(sys.getallocatedblocks() - before)
                gc.enable()
        finally:
            gc.enable()
    assert min(counted[1:]) < 8 * 1000, counted

"""How a delivery makes one batch of many small ones, and when it sends."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pytest

from rollspan.delivery import BATCH, Batch, ThreadedDelivery
from rollspan.exporters.base import Delivered, Result, Retry
from rollspan.finished import FinishedTrace
from rollspan.journal import Journal, Position


class Exporter:
    """Notes how many traces it was given, each time."""

    name = "noting"
    timeout = 0.0

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.answers: list[Result] = []
        self.may_go_on = threading.Event()
        self.may_go_on.set()

    def export(self, traces: Sequence[FinishedTrace], resource: Mapping[str, Any], timeout: float) -> Result:
        self.sizes.append(len(traces))
        self.may_go_on.wait(10)
        return self.answers.pop() if self.answers else Delivered()

    def close(self, timeout: float = 10.0) -> None:
        """Nothing."""

    def abandon(self) -> None:
        """Nothing."""


def batches_of(*sizes: int) -> Iterator[Batch]:
    at = 0
    for size in sizes:
        finished = [FinishedTrace((), None) for _ in range(size)]
        for trace in finished:
            at += 1
            trace.at = Position(1, at)
        yield Batch(Position(1, at), finished)


def soon(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    return condition()


@pytest.fixture(name="exporter")
def _exporter() -> Exporter:
    return Exporter()


def resting(exporter: Exporter) -> ThreadedDelivery:
    """One that rests for as long as a test takes."""
    return ThreadedDelivery(exporter, {}, Journal(threading.RLock(), list), rest=60.0)


def test_what_follows_a_request_waits_for_more(exporter: Exporter) -> None:
    """The first batch goes out at once, full ones too; the rest when somebody is in a hurry."""
    delivery = resting(exporter)
    first, *others, last = batches_of(3, 10, 20, BATCH, 5, 0)
    delivery.offer(first)
    assert soon(lambda: delivery.caught_up(first.end))
    for batch in others:
        delivery.offer(batch)
    assert soon(lambda: len(exporter.sizes) == 2)
    time.sleep(0.05)
    assert exporter.sizes == [3, BATCH]
    assert delivery.queued == 35
    delivery.offer(last)
    delivery.hurry()
    assert soon(lambda: delivery.caught_up(last.end))
    assert exporter.sizes == [3, BATCH, 35]
    delivery.stop(time.monotonic(), 0.0)


def test_nothing_is_added_to_what_is_being_sent(exporter: Exporter) -> None:
    """What comes meanwhile is a batch of its own, which takes what comes later."""
    delivery = resting(exporter)
    exporter.may_go_on.clear()
    exporter.answers = [Retry("not now")]
    first, second, third = batches_of(3, 10, 20)
    delivery.offer(first)
    assert soon(lambda: exporter.sizes == [3])
    delivery.offer(second)
    exporter.may_go_on.set()
    assert soon(lambda: delivery._sending is None)
    delivery.offer(third)
    delivery.hurry()
    assert soon(lambda: delivery.caught_up(third.end))
    assert exporter.sizes == [3, 3, 30]
    delivery.stop(time.monotonic(), 0.0)


def test_the_end_waits_for_nothing(exporter: Exporter) -> None:
    """Who stops has what is left sent."""
    delivery = resting(exporter)
    first, second = batches_of(3, 10)
    delivery.offer(first)
    assert soon(lambda: delivery.caught_up(first.end))
    delivery.offer(second)
    delivery.stop(time.monotonic() + 10, 0.0)
    delivery.join()
    assert exporter.sizes == [3, 10]

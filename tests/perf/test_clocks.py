"""Clocks of hosts are set by what they saw at the same moment."""

from __future__ import annotations

from rollspan.perf.clocks import Clocks
from rollspan.perf.lanes import Slice
from rollspan.perf.sources import Process

SECOND = 1_000_000_000


def clocks(*seen: tuple[int, str, str, float]) -> Clocks:
    """Of (rank, host, key, time)."""
    made = Clocks()
    for rank, host, key, at in seen:
        event = {"name": "clock.anchor", "args": {"key": key}}
        made.watch(Process(rank, "", host, 1), Slice(0, round(at * SECOND), event))
    return made


def test_the_first_common_moment_counts() -> None:
    """A host is set after that of the lowest rank, by the first anchor that both have."""
    made = clocks(
        (1, "b", "y", 17), (0, "a", "x", 10), (0, "a", "y", 14), (1, "b", "z", 1), (0, "a", "z", 20)
    )
    assert made.reference == "a"
    assert made.shifts() == {"b": -3 * SECOND}


def test_what_is_nearly_right_is_left() -> None:
    """A difference of a tenth of a second or less may be the network's, so nothing is moved."""
    assert clocks((0, "a", "x", 10), (1, "b", "x", 10.1)).shifts() == {}
    assert clocks((0, "a", "x", 10), (1, "b", "x", 10.2)).shifts() == {"b": -SECOND // 5}


def test_without_a_common_moment_nothing_is_known() -> None:
    """Hosts that share no anchor keep their clocks."""
    assert clocks((0, "a", "x", 10), (1, "b", "y", 99)).shifts() == {}
    assert Clocks().shifts() == {}
    assert Clocks().reference == ""

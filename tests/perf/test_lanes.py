"""Lanes: everything on one of them nests, nothing is lost, and tasks of one thread stay apart."""

from __future__ import annotations

from copy import deepcopy

from hypothesis import given
from hypothesis import strategies as st

from rollspan.perf.lanes import Slice, nest

EDGE = 300
TIMES = st.integers(0, 5000)


@st.composite
def threads(draw: st.DrawFn) -> list[Slice]:
    """The slices of a thread; some have ids and parents, some have none, some are points."""
    made: list[Slice] = []
    for number in range(draw(st.integers(0, 25))):
        start, is_point = draw(TIMES), draw(st.booleans())
        one = Slice(start, start if is_point else start + draw(TIMES), {"name": number}, is_point)
        if draw(st.booleans()):
            parents = [each.span for each in made] + ["", "elsewhere"]
            one.span, one.trace, one.parent = (
                str(number),
                draw(st.sampled_from("ab")),
                draw(st.sampled_from(parents)),
            )
        made.append(one)
    return draw(st.permutations(made))


@given(threads())
def test_a_lane_nests_and_nothing_is_lost(slices: list[Slice]) -> None:
    """Intervals of a lane are disjoint or nested, as they came but for a moved end, and all are there."""
    before = {one.event["name"]: deepcopy(one) for one in slices}
    laid = list(nest(slices))
    assert sorted(one.event["name"] for _, one in laid) == sorted(before)
    stacks: dict[int, list[Slice]] = {}
    known: set[str] = set()
    for lane, one in laid:
        was = before[one.event["name"]]
        assert was.start == one.start <= one.end
        assert was.end - EDGE * len(slices) <= one.end <= was.end
        if one.is_point:
            continue
        stack = stacks.setdefault(lane, [])
        while stack and stack[-1].end <= one.start:
            stack.pop()
        assert not stack or one.end <= stack[-1].end
        if stack and stack[-1].span and one.span and one.parent in known:
            assert one.parent == stack[-1].span
        stack.append(one)
        known |= {one.span} - {""}
    assert sorted(stacks) == list(range(len(stacks)))


def lanes(*slices: Slice) -> dict[str, int]:
    return {one.event["name"]: lane for lane, one in nest(slices)}


def a_slice(name: str, start: int, end: int, parent: str = "", trace: str = "t") -> Slice:
    return Slice(start, end, {"name": name}, False, trace, name, parent)


def test_tasks_stay_apart() -> None:
    """What two tasks of a thread do at the same time stands on two lanes, each with its own children."""
    found = lanes(
        a_slice("a", 0, 10_000),
        a_slice("a1", 2000, 4000, "a"),
        a_slice("b", 1000, 12_000),
        a_slice("b1", 2500, 3000, "b"),
        a_slice("b2", 5000, 6000, "b"),
    )
    assert found == {"a": 0, "a1": 0, "b": 1, "b1": 1, "b2": 1}


def test_another_traces_scope_is_not_put_below_a_step() -> None:
    """A task that runs within the time of a step, but is not of its trace, is not shown as part of it."""
    assert lanes(a_slice("step", 0, 9000), a_slice("task", 2000, 3000, trace="u")) == {"step": 0, "task": 1}
    assert lanes(a_slice("step", 0, 9000), a_slice("part", 2000, 3000, "lost")) == {"step": 0, "part": 0}


def test_rounding_opens_no_lane() -> None:
    """Neighbours and children that overlap by the quarter of a microsecond that floats lose stay on one lane."""
    slices = [a_slice("a", 0, 5250), a_slice("in a", 4000, 5250, "a"), a_slice("b", 5000, 9000)]
    assert set(lanes(*slices).values()) == {0}
    assert [(one.start, one.end) for one in slices] == [(0, 5000), (4000, 5000), (5000, 9000)]


def test_points_lie_on_the_lane_of_their_parent() -> None:
    """A point goes to its parent's lane, else to where it is inside of what began last."""
    point = Slice(3000, 3000, {"name": "p"}, True, "u", "p", "b")
    free = Slice(3000, 3000, {"name": "free"}, True)
    found = lanes(a_slice("a", 0, 9000), a_slice("b", 1000, 10_000, trace="u"), point, free)
    assert found == {"a": 0, "b": 1, "p": 1, "free": 1}

"""What is said of timed scopes and steps that are used wrongly."""

from __future__ import annotations

from pathlib import Path

import pytest

import rollspan
from rollspan import perf
from rollspan.testing import Recording


def test_wrong_use_is_told(rec: Recording, caplog: pytest.LogCaptureFixture) -> None:
    """Once for each type of value, with the value, what was expected, and what becomes of it; nothing is raised."""
    for _ in range(2):
        with perf.trace_scope("x", category=7), perf.trace_scope("y", category=["io"]):  # type: ignore[arg-type]
            pass
        with perf.trace_scope("x", args="ab"), perf.trace_scope("y", args=Truthless()):  # type: ignore[arg-type]
            pass
        with (
            perf.trace_scope("x", args={"global_step": "3"}),
            perf.trace_scope("y", args={"global_step": None}),
        ):
            pass
        with (
            perf.step("three"),
            perf.trace_scope("x", args={"global_step": 1.5}),
        ):  # in a block it is an argument
            pass
    misc = "a text, such as 'compute' or 'io'; `misc` is used"
    left_out = "a mapping, such as {'tokens': 3}; left out"
    assert [record.getMessage().removeprefix("rollspan: ") for record in caplog.records] == [
        f"a timed scope has category=7 (int): expected {misc}",
        f"a timed scope has category=['io'] (list): expected {misc}",
        f"a timed scope has args='ab' (str): expected {left_out}",
        f"a timed scope has args='<truthless>' (Truthless): expected {left_out}",
        "a timed scope has args={'global_step': '3'} (str): expected an int, such as 12; no step begins",
        "step('three'), of type str: expected an int, such as 12; sessions name this one, but neither the timeline nor "
        "ROLLSPAN_PROFILE_STEPS takes it for a step",
    ]


class Truthless:
    """As arrays are: neither true nor false."""

    def __bool__(self) -> bool:
        raise ValueError("it is ambiguous")

    def __str__(self) -> str:
        return "<truthless>"


def test_what_is_never_entered_is_told(rec: Recording, caplog: pytest.LogCaptureFixture) -> None:
    """A step without `with`, or the first scope of a name, leaves a warning alone; whatever was used, none."""

    @perf.trace_perf("never called")
    def function() -> None:
        pass

    del function
    with rollspan.session(), perf.trace_scope("in a session"), perf.trace_scope("odd", args={"x": [1, "a"]}):
        pass
    with perf.step(1), perf.trace_scope("in a step"):
        perf.instant("moment")
    rollspan.flush()
    assert caplog.records == []
    for _ in range(2):
        perf.trace_scope("forgotten", args={"tokens": 3})
        perf.step(2)
    assert [record.getMessage() for record in caplog.records] == [
        "rollspan: scope 'forgotten' was never entered and is not recorded: write `with perf.trace_scope('forgotten'):`",
        "rollspan: step(2) was never entered and is not recorded: write `with rollspan.step(2):`",
    ]


def test_a_decorator_without_its_name_is_explained() -> None:
    """Forgetting the parentheses is a TypeError that says what to write."""
    with pytest.raises(TypeError, match=r"@perf.trace_perf\('load_batch'\), not @perf.trace_perf$"):
        perf.trace_perf(print)  # type: ignore[arg-type]


def test_what_is_entered_before_rollspan_is_turned_on_is_no_wrong_use(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A block around the whole program, in which it is turned on, was entered all the same."""
    with perf.trace_scope("the whole program"), perf.trace_scope("in", args={"global_step": 1}), perf.step(1):
        rollspan.configure(dir=tmp_path / "data")
    assert caplog.records == []

"""Values that note what is done with them."""

from __future__ import annotations

import math
from collections.abc import Callable
from operator import neg
from typing import Any

import pytest

from rollspan.noting import Notes, NotNotedError, expression


def noted(work: Callable[[Any, Any], Any], a: Any, b: Any) -> tuple[str, list[str]]:
    notes = Notes()
    result = work(notes.noting(a, "a"), notes.noting(b, "b"))
    return expression(notes.noted(result)), list(notes.conditions)


@pytest.mark.parametrize(
    ("work", "source", "conditions"),
    [
        (lambda a, b: a - b, "(a - b)", []),
        (lambda a, b: (b - 3 + a) / 10, "(((b - 3) + a) / 10)", []),
        (lambda a, b: 10 - a, "(10 - a)", []),
        (lambda a, b: -(a - b), "-(a - b)", []),
        (lambda a, b: b + neg(-a), "(b + a)", []),
        (lambda a, b: sum([a, b]), "(a + b)", []),
        (max, "b", ["a < b"]),
        (lambda a, b: [a] if a <= b else [b], "[a]", ["a <= b"]),
        (lambda a, b: {"x": sorted([(b, 1), (a, 2)])[0][0]}, "{'x': a}", ["a < b"]),
        (lambda a, b: 1 if a else 2, "1", ["a != 0"]),
        (lambda a, b: a == 7, "False", ["a != 7"]),
        (lambda a, b: "text", "'text'", []),
    ],
)
def test_what_is_done_is_noted(work: Callable[[Any, Any], Any], source: str, conditions: list[str]) -> None:
    """Sums, quotients and signs as expressions, comparisons as conditions, each once."""
    assert noted(work, 5, 9) == (source, conditions)


@pytest.mark.parametrize(
    "work",
    [
        lambda a, b: a * b,
        lambda a, b: a // b,
        lambda a, b: abs(a),
        lambda a, b: round(a),
        lambda a, b: int(a),
        lambda a, b: float(a),
        lambda a, b: math.fsum([float(b), a]),
        lambda a, b: f"{a}",
        lambda a, b: a % b,
        lambda a, b: 2.5,
    ],
)
def test_what_leaves_no_note_is_refused(work: Callable[[Any, Any], Any]) -> None:
    """Nothing that was worked out from a value passes for a constant."""
    with pytest.raises(NotNotedError):
        noted(work, 5, 9)


def test_texts_and_flags() -> None:
    """A text is found again by where it came from; of a flag it is noted which it is."""
    assert noted(lambda a, b: {"t": a, "f": b}, "hello", True) == ("{'t': a, 'f': True}", ["a", "b is True"])
    with pytest.raises(NotNotedError):
        noted(lambda a, b: a, "", False)

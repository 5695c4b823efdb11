"""Functions that fold the sessions of one shape, each made of what `fold` did with one of them.

Sessions of a job have few shapes: the same phases in the same order, the same attributes of the same types. For
these the steps of folding are always the same, so they are written down once. A session is folded with values
that note what is done with them, see `noting`. So there is an expression for each field of the record, and a
condition for each turn that was taken; of both a function is made, which takes a fraction of the time. Where a
condition does not hold it gives None, and the steps are taken one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias

from . import health, semconv
from .describe import SUBMISSION, described
from .noting import Notes, NotNotedError
from .record import Record
from .spandata import Link

Attributes: TypeAlias = Mapping[str, Any]
Fold: TypeAlias = Callable[
    [str, Attributes, Sequence[Link], int, int, Sequence[int], Sequence[int], Sequence[Attributes]],
    Record | None,
]
"""(trace id, root's attributes, links, start, end; starts, ends and attributes of the other spans) -> record"""

MOST_SPANS: Final = 32  # besides the root: longer sessions seldom have a shape in common
_MET_OFTEN: Final = (
    50  # sessions of a shape after which its functions, made in some milliseconds, are worth it
)
_MOST_MET: Final = 512
_MOST_MADE: Final = (
    256  # who comes later has none: to make them again and again would cost more than they save
)


class Shape:
    """What is made for the sessions of one shape: `fold`, and what exporters make besides, by their own names."""

    __slots__ = ("fold", "made", "outline")

    def __init__(self, fold: Fold, outline: Any) -> None:
        self.fold = fold
        self.outline = outline
        self.made: dict[str, Any] = {}


_met: dict[Any, int] = {}
"""How often sessions were met that have this in common."""
_made: dict[Any, Shape | None] = {}
"""Their shape, once they were met often; None where no function can be made."""


def in_common(
    attributes: Attributes, links: Sequence[Link], extras: Sequence[Attributes], *others: Any
) -> tuple[Any, ...]:
    """What the sessions have in common that the same function may fold."""
    types = [(*extra, *map(type, extra.values())) for extra in extras]
    if links:
        types += [(str(to.get(semconv.LINK_KIND)), *to, *map(type, to.values())) for _, _, to in links]
        types.append((len(links),))
    return (*others, *attributes, *map(type, attributes.values()), *types)


def known(common: Any) -> Shape | None:
    """The shape of sessions that have this in common, where it has a function."""
    return _made.get(common)


def learn(common: Any, outline: Any, fold: Fold, *session: Any) -> None:
    """Take note of a session that `fold` has folded; once its shape was met often, make a function of it."""
    if common in _made or len(_made) >= _MOST_MADE:
        return
    times = _met.pop(common, 0) + 1
    if times < _MET_OFTEN:
        if len(_met) >= _MOST_MET:
            _met.clear()
        _met[common] = times
        return
    _made[common] = None
    try:
        function = _function(fold, outline, *session)
    except Exception:  # noqa: BLE001 - the record is there all the same
        health.internal_error("shapes")
    else:
        _made[common] = None if function is None else Shape(function, outline)


def expressions(phase: str | None, attributes: Attributes, prefix: str) -> dict[str, tuple[Any, str]]:
    """By their names in the specification: attributes, and the expression for each.

    `prefix` and a number stand for a value of theirs as the journal has them.
    """
    values = described(phase, attributes)
    if type(values.get(semconv.REWARD_SCORE)) is str:  # what it says makes a difference
        raise NotNotedError
    _check_renamed(values, list(attributes.values()))
    # Once more with values that nothing else is equal to, to see which went where.
    marks = [_mark(value, i) for i, value in enumerate(attributes.values())]
    numbers = {mark: f"{prefix}{i}" for i, mark in enumerate(marks) if type(mark) is int}
    found: dict[str, tuple[Any, str]] = {}
    for i, (name, mark) in enumerate(described(phase, dict(zip(attributes, marks, strict=True))).items()):
        if i < len(marks) and mark is marks[i]:
            found[name] = values[name], f"{prefix}{i}"
        elif i < len(marks) and type(mark) is list and len(mark) == 1 and mark[0] is marks[i]:
            found[name] = values[name], f"[{prefix}{i}]"
        elif type(mark) is int and mark in numbers:
            found[name] = values[name], numbers[mark]
        else:
            raise NotNotedError
    return found


def _check_renamed(values: Attributes, given: Sequence[Any]) -> None:
    """Whether nothing was done to the given values but to put them under other names, or into lists."""
    for value, before in zip(values.values(), given, strict=False):
        if value is not before and not (type(value) is list and len(value) == 1 and value[0] is before):
            raise NotNotedError


def _mark(value: Any, number: int) -> Any:
    """Another value of the same type."""
    if type(value) is int:
        return (1 << 40) + number
    if type(value) is str:
        return f"mark {number}"
    return (1 << 40) + number + 0.5 if type(value) is float else value


def _attributes(notes: Notes, phase: str | None, given: Attributes, prefix: str) -> dict[str, Any]:
    known = expressions(phase, given, prefix)
    # All sessions of a shape have links of the same kinds.
    return {
        name: value if name == semconv.LINK_KIND else notes.noting(value, expression)
        for name, (value, expression) in known.items()
    }


def _function(
    fold: Fold,
    outline: Any,
    trace_id: str,
    root: Attributes,
    links: Sequence[Link],
    start: int,
    end: int,
    starts: Sequence[int],
    ends: Sequence[int],
    extras: Sequence[Attributes],
) -> Fold | None:
    notes = Notes()
    try:
        record = fold(
            notes.noting(trace_id, "trace_id"),
            _attributes(notes, SUBMISSION, root, "r"),
            [
                link._replace(attributes=_attributes(notes, "", link[2], f"l{i}_"))
                for i, link in enumerate(links)
            ],
            notes.noting(start, "start"),
            notes.noting(end, "end"),
            tuple(notes.noting(at, f"b{i}") for i, at in enumerate(starts)),
            tuple(notes.noting(at, f"e{i}") for i, at in enumerate(ends)),
            tuple(_attributes(notes, outline.names[i], extra, f"x{i}_") for i, extra in enumerate(extras)),
        )
        if record is None:
            return None
        expression = notes.expression(record)
    except NotNotedError:
        return None
    unpacked = [
        ("r", len(root), "root.values()"),
        ("b", len(starts), "starts"),
        ("e", len(ends), "ends"),
        *((f"x{i}_", len(extra), f"extras[{i}].values()") for i, extra in enumerate(extras)),
        *((f"l{i}_", len(link[2]), f"links[{i}][2].values()") for i, link in enumerate(links)),
    ]
    lines = [
        f"    {', '.join(f'{prefix}{i}' for i in range(count))}, = {values}"
        for prefix, count, values in unpacked
        if count
    ]
    text = "\n".join(
        (
            "def fold(trace_id, root, links, start, end, starts, ends, extras):",
            *lines,
            f"    if not ({' and '.join(notes.conditions)}):",
            "        return None",
            f"    return {expression}",
        )
    )
    found: dict[str, Any] = {}
    # Names out of the session stand in the text as literals alone.
    exec(compile(text, "<fold of a shape>", "exec"), found)
    made: Fold = found["fold"]
    return made

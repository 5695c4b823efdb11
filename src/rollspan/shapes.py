"""Functions for the sessions of one shape, each made of what was done with one of them.

Sessions of a job have few shapes: the same phases in the same order, the same attributes of the same types. For
these the steps of folding are always the same, so they are written down once. A session is folded with values
that note what is done with them, see `noting`. So there is an expression for each field of the record, and a
condition for each turn that was taken. One function is made that takes the values off a session's lines where
these are of the shape and the conditions hold, see `taking`, and one that makes a record of values. They take a
fraction of the time; where the first gives None, the steps are taken one by one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from itertools import chain, islice
from typing import Any, Final, TypeAlias

from . import health, lines, semconv, templates
from .describe import SUBMISSION, described
from .noting import Noted, Notes, NotNotedError, expression
from .record import Record
from .rows import SessionRows
from .spandata import Link
from .taking import Part, take_source, told, value_names

Attributes: TypeAlias = Mapping[str, Any]
Fold: TypeAlias = Callable[
    [str, Attributes, Sequence[Link], int, int, Sequence[int], Sequence[int], Sequence[Attributes]],
    Record | None,
]
"""(trace id, root's attributes, links, start, end; starts, ends and attributes of the other spans) -> record"""
Values: TypeAlias = tuple[Any, ...]
"""What a session's lines have that others of its shape have otherwise, see `taking`."""

_MET_OFTEN: Final = (
    50  # sessions of a shape after which its functions, made in some milliseconds, are worth it
)
_MOST_MET: Final = 512
_MOST_MADE: Final = (
    256  # who comes later has none: to make them again and again would cost more than they save
)
_MOST_GUESSED: Final = 4  # to try so many costs less than to look closely


class Shape:
    """What is made for the sessions of one shape: functions, and what exporters make besides, by their own names.

    `sample` is the session that they are made of, its attributes named as in the journal; `fields` its record, with
    the expressions for another one.
    """

    __slots__ = ("export_spans", "fields", "made", "parameters", "record", "sample", "take", "take_unparsed")

    def __init__(self, fold: Fold, parts: Sequence[Part], sample: SessionRows) -> None:
        """Raises NotNotedError where no functions can be made."""
        notes = Notes()
        record = _folded(fold, notes, sample)
        if record is None:
            raise NotNotedError
        self.sample = sample
        self.export_spans: bool = parts[0].get("x", True)
        self.fields: dict[str, Any] = notes.noted(record)
        self.parameters = ", ".join(value_names(parts))
        self.made: dict[str, Any] = {}
        known: dict[str, Any] = {"link_of": lines.link_of}
        self.take: Callable[[str, Sequence[Part]], Values | None] = function(
            take_source(parts, notes.conditions), "take", known
        )
        self.take_unparsed: Callable[[str, list[bytes]], Values | None] = _take_nothing
        with contextlib.suppress(templates.NoTemplateError):
            made, names = templates.templates_of(parts)
            text = templates.filled_source(parts, names, chain(told(parts), notes.conditions))
            known = {"here": templates, "templates": made, "Link": Link}
            self.take_unparsed = function(text, "take", known)
        text = f"def record({self.parameters}):\n    return {expression(self.fields)}"
        self.record: Callable[..., Record] = function(text, "record", {})

    def rows(self, values: Values) -> SessionRows:
        """The spans of a session with these values."""
        sample = self.sample
        left = iter(values)
        trace_id, start, end, links = islice(left, 4)
        root = dict(zip(sample.attributes, left, strict=False))
        starts, ends = (tuple(islice(left, len(sample.starts))) for _ in range(2))
        extras = [dict(zip(extra, left, strict=False)) for extra in sample.extras]
        return sample._replace(
            trace_hex=trace_id.encode(),
            attributes=described(SUBMISSION, root),
            links=list(links),
            start=start,
            end=end,
            starts=starts,
            ends=ends,
            extras=tuple(map(described, sample.outline.names, extras)),
        )


def _take_nothing(trace_id: str, unparsed: list[bytes]) -> None:
    """These lines have to be parsed."""


def function(text: str, name: str, names: dict[str, Any]) -> Callable[..., Any]:
    """The function with this name and source. Names and texts out of a session stand there as literals alone."""
    exec(compile(text, f"<{name} of a shape>", "exec"), names)
    made: Callable[..., Any] = names[name]
    return made


_met: dict[Any, int] = {}
"""How often sessions were met that have this in common."""
_made: dict[Any, Shape | None] = {}
"""Their shape, once they were met often; None where no function can be made."""
_last: dict[Any, tuple[Shape, ...]] = {}
"""Shapes that sessions of this size had last, the younger ones first."""
_seen: dict[tuple[int, int], tuple[Shape, ...]] = {}
"""The same by how many lines they have, and commas in the longest, of those that are known by how their lines look."""


def seen(unparsed: list[bytes]) -> Sequence[Shape]:
    """The shapes of sessions whose lines looked somewhat like these; `take_unparsed` tells whether they are of one."""
    return _seen.get(_look(unparsed), ()) if _seen else ()


def see(shape: Shape, values: Values, trace_id: str, unparsed: list[bytes]) -> None:
    """Take note of what the lines of a shape look like, where its function finds these values in them."""
    if shape.take_unparsed(trace_id, unparsed) == values:
        look = _look(unparsed)
        others = [other for other in _seen.get(look, ()) if other is not shape]
        _seen[look] = (shape, *others[: _MOST_GUESSED - 1])


def _look(unparsed: list[bytes]) -> tuple[int, int]:
    return len(unparsed), max(unparsed, key=len).count(b",")


def in_common(
    parts: Sequence[Part],
    attributes: Attributes,
    links: Sequence[Link],
    extras: Sequence[Attributes],
    *others: Any,
) -> tuple[Any, ...]:
    """What the sessions have in common that the same function may fold."""
    layout = [(*part, *part.get("a", ()), len(part.get("s", ())), part.get("x")) for part in parts]
    layout.append((repr(parts[0].get("c")),))
    types = [(*extra, *map(type, extra.values())) for extra in extras]
    if links:
        types += [(str(to.get(semconv.LINK_KIND)), *to, *map(type, to.values())) for _, _, to in links]
        types.append((len(links),))
    return (*layout, *others, *attributes, *map(type, attributes.values()), *types)


def guessed(parts: Sequence[Part]) -> Sequence[Shape]:
    """The shapes that sessions of this size had last. Whether one is this one's too, its `take` will tell."""
    return _last.get(_size(parts), ())


def known(common: Any, parts: Sequence[Part]) -> Shape | None:
    """The shape of sessions that have this in common, where it has functions."""
    shape = _made.get(common)
    if shape is not None:
        size = _size(parts)
        others = [other for other in _last.get(size, ()) if other is not shape]
        _last[size] = (shape, *others[: _MOST_GUESSED - 1])
    return shape


def _size(parts: Sequence[Part]) -> tuple[int, ...]:
    first, last = parts[0], parts[-1]
    return len(parts), len(first.get("a", ())), len(last.get("a", ())), len(last.get("s", ()))


def learn(common: Any, fold: Fold, parts: Sequence[Part], session: SessionRows) -> None:
    """Take note of a session that `fold` has folded; once its shape was met often, make functions of it."""
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
        _made[common] = Shape(fold, parts, session)
    except NotNotedError:
        pass
    except Exception:  # noqa: BLE001 - the record is there all the same
        health.internal_error("shapes")


def expressions(phase: str | None, attributes: Attributes, prefix: str) -> dict[str, Noted]:
    """Attributes by their names in the specification, each with the expression for another session's.

    `prefix` and a number stand for a value of theirs as the journal has them.
    """
    values = described(phase, attributes)
    if type(values.get(semconv.REWARD_SCORE)) is str:  # what it says makes a difference
        raise NotNotedError
    _check_renamed(values, list(attributes.values()))
    # Once more with values that nothing else is equal to, to see which went where.
    marks = [_mark(value, i) for i, value in enumerate(attributes.values())]
    numbers = {mark: f"{prefix}{i}" for i, mark in enumerate(marks) if type(mark) is int}
    found: dict[str, Noted] = {}
    for i, (name, mark) in enumerate(described(phase, dict(zip(attributes, marks, strict=True))).items()):
        if i < len(marks) and mark is marks[i]:
            found[name] = Noted(values[name], f"{prefix}{i}")
        elif i < len(marks) and type(mark) is list and len(mark) == 1 and mark[0] is marks[i]:
            found[name] = Noted(values[name], f"[{prefix}{i}]")
        elif type(mark) is int and mark in numbers:
            found[name] = Noted(values[name], numbers[mark])
        else:
            raise NotNotedError
    kept = {noted.source.strip("[]") for noted in found.values()}
    if not all(f"{prefix}{i}" in kept or type(mark) is bool for i, mark in enumerate(marks)):
        raise NotNotedError  # left out for what it says; of a flag, that is a condition
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
    for i, value in enumerate(given.values()):
        if type(value) is bool:  # also of one that is left out
            notes.noting(value, f"{prefix}{i}")
    # All sessions of a shape have links of the same kinds.
    return {
        name: value if name == semconv.LINK_KIND else notes.noting(value, source)
        for name, (value, source) in expressions(phase, given, prefix).items()
    }


def _folded(fold: Fold, notes: Notes, session: SessionRows) -> Record | None:
    """The session's record, made of values that note what is done with them."""
    return fold(
        notes.noting(session.trace_hex.decode(), "trace_id"),
        _attributes(notes, SUBMISSION, session.attributes, "r"),
        [
            link._replace(attributes=_attributes(notes, "", link[2], f"l{i}_"))
            for i, link in enumerate(session.links)
        ],
        notes.noting(session.start, "start"),
        notes.noting(session.end, "end"),
        tuple(notes.noting(at, f"b{i}") for i, at in enumerate(session.starts)),
        tuple(notes.noting(at, f"e{i}") for i, at in enumerate(session.ends)),
        tuple(
            _attributes(notes, session.outline.names[i], extra, f"x{i}_")
            for i, extra in enumerate(session.extras)
        ),
    )

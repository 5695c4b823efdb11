"""Functions that fold the sessions of one shape, each made of what `fold` did with one of them.

Sessions of a job have few shapes: the same phases in the same order, the same attributes of the same types. For
these the steps of folding are always the same, so they are written down once. A session is folded with numbers
that note where they come from, what becomes of them, and how they compare. So there is an expression for each
field of the record, and a condition for each turn that was taken; of both a function is made, which takes a
fraction of the time. Where a condition does not hold it gives None, and the steps are taken one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import add, eq, ge, gt, le, lt, ne, sub, truediv
from typing import Any, Final, TypeAlias

from . import semconv
from .record import Record
from .spandata import Link

Attributes: TypeAlias = Mapping[str, Any]
Fold: TypeAlias = Callable[
    [str, Attributes, Sequence[Link], int, int, Sequence[int], Sequence[int], Sequence[Attributes]],
    Record | None,
]
"""(trace id, root's attributes, links, start, end; starts, ends and attributes of the other spans) -> record"""

MOST_SPANS: Final = 32  # besides the root: longer sessions seldom have a shape in common
_MET_OFTEN: Final = 8  # sessions of a shape after which a function is worth making
_MOST_MET: Final = 512
_MOST_MADE: Final = 128


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
    if common in _made:
        return
    times = _met.pop(common, 0) + 1
    if times < _MET_OFTEN:
        if len(_met) >= _MOST_MET:
            _met.clear()
        _met[common] = times
        return
    if len(_made) >= _MOST_MADE:
        _made.clear()
    function = _function(fold, *session)
    _made[common] = None if function is None else Shape(function, outline)


class _NotTraceableError(Exception):
    """Something was done with a value that leaves no note."""


class _Int(int):
    """A number that notes what is done with it."""

    source: str
    conditions: dict[str, None]

    __hash__ = int.__hash__


class _Float(float):
    source: str
    conditions: dict[str, None]

    __hash__ = float.__hash__


_Noting: TypeAlias = _Int | _Float


def _noting(value: float, source: str, conditions: dict[str, None]) -> _Noting:
    made: _Noting = _Int(value) if isinstance(value, int) else _Float(value)
    made.source, made.conditions = source, conditions
    return made


def _plain(value: Any) -> Any:
    return +value  # of which no note is taken


def _source(value: Any) -> str:
    return value.source if isinstance(value, _Int | _Float) else repr(value)


def _operation(sign: str, do: Callable[[Any, Any], Any], swapped: bool) -> Callable[[Any, Any], Any]:
    def operate(self: _Noting, other: Any) -> Any:
        if not isinstance(other, int | float):
            return NotImplemented
        if sign == "+" and type(other) is int and other == 0:  # where `sum` begins
            return self
        a, b = (other, self) if swapped else (self, other)
        return _noting(do(_plain(a), _plain(b)), f"({_source(a)} {sign} {_source(b)})", self.conditions)

    return operate


def _note(conditions: dict[str, None], a: str, sign: str, b: str) -> None:
    """Add a condition, unless another says as much; those that it says as much as go."""
    if sign in (">", ">="):
        a, sign, b = b, sign.replace(">", "<"), a
    if sign in ("<=", "!=") and f"{a} < {b}" in conditions:
        return
    if sign == "!=" and f"{b} < {a}" in conditions:
        return
    if sign == "<":
        for weaker in (f"{a} <= {b}", f"{a} != {b}", f"{b} != {a}"):
            conditions.pop(weaker, None)
    conditions[f"{a} {sign} {b}"] = None


def _comparison(sign: str, opposite: str, do: Callable[[Any, Any], bool]) -> Callable[[Any, Any], Any]:
    def compare(self: _Noting, other: Any) -> Any:
        if not isinstance(other, int | float):
            return NotImplemented
        holds = do(_plain(self), _plain(other))
        a, b = _source(self), _source(other)
        if a != b:
            _note(self.conditions, a, sign if holds else opposite, b)
        return holds

    return compare


def _negated(self: _Noting) -> _Noting:
    source = self.source
    twice = source.startswith("-")  # as nothing else does
    return _noting(-_plain(self), source[1:] if twice else f"-{source}", self.conditions)


def _is_true(self: _Noting) -> bool:
    return bool(self != 0)


def _unnoted(self: _Noting, *others: Any) -> Any:
    raise _NotTraceableError


_UNNOTED: Final = (
    *(
        "mul",
        "rmul",
        "floordiv",
        "rfloordiv",
        "mod",
        "rmod",
        "divmod",
        "rdivmod",
        "pow",
        "rpow",
        "abs",
        "round",
    ),
    *("int", "float", "index", "trunc", "floor", "ceil", "str", "repr", "format"),
    *("and", "rand", "or", "ror", "xor", "rxor", "lshift", "rlshift", "rshift", "rrshift", "invert"),
)

for _kind in (_Int, _Float):
    for _name in _UNNOTED:
        setattr(_kind, f"__{_name}__", _unnoted)
    for _name, _sign, _do in (("add", "+", add), ("sub", "-", sub), ("truediv", "/", truediv)):
        setattr(_kind, f"__{_name}__", _operation(_sign, _do, swapped=False))
        setattr(_kind, f"__r{_name}__", _operation(_sign, _do, swapped=True))
    for _name, _sign, _opposite, _test in (
        ("lt", "<", ">=", lt),
        ("le", "<=", ">", le),
        ("gt", ">", "<=", gt),
        ("ge", ">=", "<", ge),
        ("eq", "==", "!=", eq),
        ("ne", "!=", "==", ne),
    ):
        setattr(_kind, f"__{_name}__", _comparison(_sign, _opposite, _test))
    for _name, _method in (("neg", _negated), ("bool", _is_true)):
        setattr(_kind, f"__{_name}__", _method)


class _Notes:
    """What is learnt while a session is folded."""

    def __init__(self) -> None:
        self.conditions: dict[str, None] = {}
        self._texts: dict[str, str] = {}

    def noting(self, value: Any, source: str) -> Any:
        """`value` so that it can be found again in the record."""
        if isinstance(value, bool):
            self.conditions[f"{source} is {value}"] = None
        elif isinstance(value, int | float):
            return _noting(value, source, self.conditions)
        elif isinstance(value, str):
            self.conditions[source] = None  # it is not empty
            mark = f"\0{source}"
            self._texts[mark] = source
            return mark
        return value

    def attributes(self, given: Attributes, prefix: str) -> dict[str, Any]:
        if type(given.get(semconv.REWARD_SCORE)) is str or "" in given.values():
            raise _NotTraceableError  # what the text says makes a difference
        noting = {name: self.noting(value, f"{prefix}{i}") for i, (name, value) in enumerate(given.items())}
        if semconv.LINK_KIND in given:
            noting[semconv.LINK_KIND] = given[
                semconv.LINK_KIND
            ]  # all of a shape have links of the same kinds
        return noting

    def expression(self, value: Any) -> str:
        """What makes the same value of another session of the shape."""
        if isinstance(value, _Int | _Float):
            return value.source
        if isinstance(value, str):
            return self._texts.get(value) or repr(value)
        if isinstance(value, dict):
            return "{" + ", ".join(f"{k!r}: {self.expression(v)}" for k, v in value.items()) + "}"
        if isinstance(value, list):
            return "[" + ", ".join(map(self.expression, value)) + "]"
        if isinstance(value, int):
            return repr(value)
        raise _NotTraceableError


def _function(
    fold: Fold,
    trace_id: str,
    root: Attributes,
    links: Sequence[Link],
    start: int,
    end: int,
    starts: Sequence[int],
    ends: Sequence[int],
    extras: Sequence[Attributes],
) -> Fold | None:
    notes = _Notes()
    try:
        record = fold(
            notes.noting(trace_id, "trace_id"),
            notes.attributes(root, "r"),
            [link._replace(attributes=notes.attributes(link[2], f"l{i}_")) for i, link in enumerate(links)],
            notes.noting(start, "start"),
            notes.noting(end, "end"),
            tuple(notes.noting(at, f"b{i}") for i, at in enumerate(starts)),
            tuple(notes.noting(at, f"e{i}") for i, at in enumerate(ends)),
            tuple(notes.attributes(extra, f"x{i}_") for i, extra in enumerate(extras)),
        )
        if record is None:
            return None
        expression = notes.expression(record)
    except _NotTraceableError:
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
    exec(compile(text, "<fold of a shape>", "exec"), found)
    made: Fold = found["fold"]
    return made

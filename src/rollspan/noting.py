"""Numbers and texts that note where they come from, what becomes of them, and how they compare.

What is worked out with them is an expression; each turn that was taken on the way is a condition.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import add, eq, ge, gt, le, lt, ne, sub, truediv
from typing import Any, Final, NamedTuple, TypeAlias

Conditions: TypeAlias = dict[str, None]
"""Source of what must hold, in the order in which it was asked."""


class NotNotedError(Exception):
    """Something was done with a value that leaves no note."""


class Noted(NamedTuple):
    """A value, and the source of what makes the same of another case."""

    value: Any
    source: str


class _Int(int):
    source: str
    conditions: Conditions

    __hash__ = int.__hash__


class _Float(float):
    source: str
    conditions: Conditions

    __hash__ = float.__hash__


_Noting: TypeAlias = _Int | _Float


def _noting(value: float, source: str, conditions: Conditions) -> _Noting:
    made: _Noting = _Int(value) if isinstance(value, int) else _Float(value)
    made.source, made.conditions = source, conditions
    return made


def _plain(value: Any) -> Any:
    return +value  # of which no note is taken


def _source(value: Any) -> str:
    if isinstance(value, _Int | _Float):
        return value.source
    if value - value != 0:  # an infinity, or no number, which no literal says
        raise NotNotedError
    return repr(value)


def _operation(sign: str, do: Callable[[Any, Any], Any], swapped: bool) -> Callable[[Any, Any], Any]:
    def operate(self: _Noting, other: Any) -> Any:
        if not isinstance(other, int | float):
            return NotImplemented
        if sign == "+" and type(other) is int and other == 0:  # where `sum` begins
            return self
        a, b = (other, self) if swapped else (self, other)
        return _noting(do(_plain(a), _plain(b)), f"({_source(a)} {sign} {_source(b)})", self.conditions)

    return operate


def _note(conditions: Conditions, a: str, sign: str, b: str) -> None:
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
    raise NotNotedError


_UNNOTED: Final = (
    *("mul", "rmul", "floordiv", "rfloordiv", "mod", "rmod", "divmod", "rdivmod", "pow", "rpow"),
    *("abs", "round", "int", "float", "index", "trunc", "floor", "ceil", "str", "repr", "format"),
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


class Notes:
    """The values of one case, and what must hold for another one to be worked out in the same way."""

    def __init__(self) -> None:
        self.conditions: Conditions = {}
        self._texts: dict[str, Noted] = {}

    def noting(self, value: Any, source: str) -> Any:
        """`value`, as what `source` stands for, so that it can be found again in what is worked out.

        Of a flag it is noted which it is, of a text that there is one: it must make no difference what it says.
        """
        if isinstance(value, bool):
            self.conditions[f"{source} is {value}"] = None
        elif isinstance(value, int | float):
            return _noting(value, source, self.conditions)
        elif isinstance(value, str):
            if not value:
                raise NotNotedError
            self.conditions[source] = None
            mark = f"\0{source}"
            self._texts[mark] = Noted(value, source)
            return mark
        return value

    def noted(self, value: Any) -> Any:
        """What was worked out, with a `Noted` for each value in it that would be another in another case."""
        if isinstance(value, _Int | _Float):
            return Noted(_plain(value), value.source)
        if isinstance(value, str):
            return self._texts.get(value, value)
        if isinstance(value, dict):
            return {key: self.noted(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self.noted(item) for item in value]
        if isinstance(value, int):
            return value
        raise NotNotedError


def expression(noted: Any) -> str:
    """Source of what `Notes.noted` gave."""
    if isinstance(noted, Noted):
        return noted.source
    if isinstance(noted, dict):
        return "{" + ", ".join(f"{key!r}: {expression(item)}" for key, item in noted.items()) + "}"
    if isinstance(noted, list):
        return "[" + ", ".join(map(expression, noted)) + "]"
    return repr(noted)

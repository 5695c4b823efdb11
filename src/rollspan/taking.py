"""Source of a function that takes a session's values off its lines, where these are as one shape has them.

The shape says which keys, names, types and whole rows there are; what is left are the values, which get names:
`trace_id`, `start`, `end`, `links`; `r0`, `r1` and so on the root's attributes; `b0` and `e0` begin and end of the
first row, `x0_0` its first attribute; `l0_0` the first attribute of the first link, which is in `links` too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, Final, TypeAlias

from . import semconv
from .lines import ATTRIBUTES, END, START, begins_with, link_of
from .spandata import Link

Part: TypeAlias = Mapping[str, Any]
"""The JSON object of a line."""

# Of a line, what the function looks into. What else may be in it, open spans say, is over when the session is.
_KEYS: Final = {"n": "n{}", "x": "x{}", "st": "st{}", "c": "c{}", "a": "a{}", "l": "k{}", "s": "s{}"}
_CONSTANT: Final = ("n", "x", "st", "c")
_COMMON: Final = ("trace_id", "start", "end", "links")


class _Source:
    """Statements, in their order."""

    def __init__(self) -> None:
        self.statements: list[str] = []

    def unpack(self, names: Iterable[str], values: str) -> None:
        if targets := ", ".join(names):
            self.statements.append(f"{targets}, = {values}")

    def check(self, conditions: Iterable[str]) -> None:
        if condition := " and ".join(conditions):
            self.statements.append(f"if not ({condition}): return None")


def take_source(lines: Sequence[Part], conditions: Iterable[str]) -> str:
    """Source of `take(trace_id, lines)`: a tuple with the values, in the order of `value_names`.

    It gives None for lines that are not as these are, or whose values are not as the conditions say.
    """
    source = _Source()
    source.unpack((f"line{i}" for i in range(len(lines))), "lines")
    source.check(f"tuple(line{i}) == {tuple(part)}" for i, part in enumerate(lines))
    for i, part in enumerate(lines):
        source.unpack(_names_in(part, i, len(lines)), f"line{i}.values()")
    source.check(
        chain(
            (f"{_KEYS[key].format(i)} == {part[key]!r}" for i, part, key in _with(lines, *_CONSTANT)),
            (f"tuple(a{i}) == {tuple(part['a'])}" for i, part, _ in _with(lines, "a")),
            (f"len({_KEYS[key].format(i)}) == {len(part[key])}" for i, part, key in _with(lines, "s", "l")),
        )
    )
    root = {name: f"r{n}" for n, name in enumerate(root_of(lines))}
    for name, value in begins_with("", lines[0]).items():
        if not any(name in part["a"] for _, part, _ in _with(lines, "a")):
            said = "trace_id" if name == semconv.SESSION_ID else repr(value)
            source.statements.append(f"{root[name]} = {said}")
    for i, part, _ in _with(lines, "a"):
        later = {name for other in lines[i + 1 :] for name in other.get("a", ())}
        source.unpack(("_" if name in later else root[name] for name in part["a"]), f"a{i}.values()")
    _take_rows(source, lines)
    links = links_of(lines)
    lists = ", ".join(f"*map(link_of, k{i})" for i, _, _ in _with(lines, "l"))
    source.statements.append(f"links = ({lists})" if not lists else f"links = ({lists},)")
    source.check(f"tuple(links[{n}][2]) == {tuple(link[2])}" for n, link in enumerate(links))
    for n, link in enumerate(links):
        source.unpack((f"l{n}_{i}" for i in range(len(link[2]))), f"links[{n}][2].values()")
    source.check(chain(_types(lines), told(lines), conditions))
    source.statements.append(f"return ({', '.join(value_names(lines))},)")
    return "\n    ".join(("def take(trace_id, lines):", *source.statements))


def value_names(lines: Sequence[Part]) -> list[str]:
    """The names of a session's values, in order."""
    rows = _rows(lines)
    return [
        *_COMMON,
        *(f"r{n}" for n in range(len(root_of(lines)))),
        *(f"b{n}" for n in range(len(rows))),
        *(f"e{n}" for n in range(len(rows))),
        *(f"x{n}_{i}" for n, row in enumerate(rows) for i in range(len(row[ATTRIBUTES]))),
        *(f"l{n}_{i}" for n, link in enumerate(links_of(lines)) for i in range(len(link[2]))),
    ]


def _with(lines: Sequence[Part], *keys: str) -> Iterable[tuple[int, Part, str]]:
    """The lines that have one of these keys, with their number."""
    return [(i, part, key) for key in keys for i, part in enumerate(lines) if key in part]


def _names_in(part: Part, i: int, count: int) -> list[str]:
    names = {key: name.format(i) for key, name in _KEYS.items()}
    if i == 0:
        names["t"] = "start"
    if i == count - 1:
        names["e"] = "end"
    return [names.get(key, "_") for key in part]


def root_of(lines: Sequence[Part]) -> dict[str, Any]:
    """The root's attributes: the last value that was given, where a name first stood."""
    root = begins_with("", lines[0])
    for part in lines:
        root.update(part.get("a", ()))
    return root


def _rows(lines: Sequence[Part]) -> list[Sequence[Any]]:
    return [row for part in lines for row in part.get("s", ())]


def links_of(lines: Sequence[Part]) -> list[Link]:
    return [link_of(link) for part in lines for link in part.get("l", ())]


def _take_rows(source: _Source, lines: Sequence[Part]) -> None:
    first = 0
    constants: dict[str, Any] = {}
    rows = _rows(lines)
    for i, part, _ in _with(lines, "s"):
        targets = []
        for n, row in enumerate(part["s"], first):
            names = [f"row{n}_{place}" for place in range(len(row))]
            names[START], names[END], names[ATTRIBUTES] = f"b{n}", f"e{n}", f"x{n}"
            constants.update(
                (name, value) for name, value in zip(names, row, strict=True) if name.startswith("row")
            )
            targets.append(f"[{', '.join(names)}]")
        source.unpack(targets, f"s{i}")
        first += len(part["s"])
    if constants:
        source.check([f"({', '.join(constants)},) == {tuple(constants.values())}"])
    source.check(
        f"tuple(x{n}) == {tuple(row[ATTRIBUTES])}" if row[ATTRIBUTES] else f"not x{n}"
        for n, row in enumerate(rows)
    )
    for n, row in enumerate(rows):
        source.unpack((f"x{n}_{i}" for i in range(len(row[ATTRIBUTES]))), f"x{n}.values()")


def told(lines: Sequence[Part]) -> Iterable[str]:
    """Conditions for what says what a session or a link is."""
    for name, key, value in _attributes(lines):
        if (name[0] == "r" and key == semconv.PHASE) or (name[0] == "l" and key == semconv.LINK_KIND):
            yield f"{name} == {value!r}"


def _types(lines: Sequence[Part]) -> Iterable[str]:
    """Conditions for the values' types."""
    for name, _, value in _attributes(lines):
        yield f"{name} is None" if value is None else f"type({name}) is {type(value).__name__}"


def _attributes(lines: Sequence[Part]) -> Iterable[tuple[str, str, Any]]:
    """The attributes' values: their names here, their keys, and what they are in these lines."""
    attributes = {
        "r": root_of(lines),
        **{f"x{n}_": row[ATTRIBUTES] for n, row in enumerate(_rows(lines))},
        **{f"l{n}_": link[2] for n, link in enumerate(links_of(lines))},
    }
    for prefix, values in attributes.items():
        for n, (key, value) in enumerate(values.items()):
            yield f"{prefix}{n}", key, value

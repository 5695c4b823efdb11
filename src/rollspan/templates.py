"""What the lines of one shape look like, byte for byte, with holes where one session's differ from another's.

Lines of a shape that is known are not parsed: their values are taken out of the holes, in C. Where there is none, and
for a line that is not as its template says, they are.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

import orjson

from . import native, semconv
from .lines import ATTRIBUTES, END, JSON_AT, START, begins_with
from .taking import Part, links_of, root_of, value_names

Template: TypeAlias = tuple[bytes | str, ...]
"""Bytes, and between them holes: `i` for a whole number, `f` another number, `s` a text, `b` true or false."""

_KINDS: Final = {int: "i", float: "f", str: "s", bool: "b"}
_UNUSED: Final = "_"


class NoTemplateError(Exception):
    """A value of these lines is neither a text nor a number nor a flag."""


class _Hole(NamedTuple):
    kind: str
    name: str
    """The value's, see `taking`."""


_Pieces: TypeAlias = Iterable[bytes | _Hole]


def fill(templates: Sequence[Template], lines: list[bytes], at: int) -> list[Any] | None:
    """The values in the holes of lines whose JSON begins at `at`, or None where one is not as its template says."""
    return None  # in Python there is no shorter way than to parse them


def templates_of(parts: Sequence[Part]) -> tuple[tuple[Template, ...], list[str]]:
    """The templates of the lines with these JSON objects, and the names of the holes' values.

    Raises NoTemplateError.
    """
    templates: list[Template] = []
    names: list[str] = []
    first_row = first_link = 0
    for i, part in enumerate(parts):
        pieces = list(_line(parts, i, first_row, first_link))
        first_row += len(part.get("s", ()))
        first_link += len(part.get("l", ()))
        names += [piece.name for piece in pieces if isinstance(piece, _Hole)]
        templates.append(_joined(pieces))
    return tuple(templates), names


def filled_source(parts: Sequence[Part], names: Sequence[str], conditions: Iterable[str]) -> str:
    """Source of `take(trace_id, lines)`, as of `taking.take_source`, for lines that were not parsed.

    `names` are those of the values in the holes. It works with `here`, this module, with `templates` and `Link`.
    """
    source = [
        f"values = here.fill(templates, lines, {JSON_AT})",
        "if values is None: return None",
        f"{', '.join(names)}, = values",
    ]
    made = {
        name: "trace_id" if name == semconv.SESSION_ID else repr(value)
        for name, value in begins_with("", parts[0]).items()
    }
    values = {f"r{n}": made.get(name, "None") for n, name in enumerate(root_of(parts))}
    links = [
        f"Link(int(to{n}, 16), int(by{n}, 16), {{{', '.join(f'{key!r}: l{n}_{i}' for i, key in enumerate(link[2]))}}})"
        for n, link in enumerate(links_of(parts))
    ]
    values["links"] = f"({', '.join(links)}{',' if links else ''})"
    known = {*names, "trace_id"}  # of the others, what is no link's and not in the first line alone is null
    wanted = value_names(parts)
    source += [
        f"{name} = {values.get(name, 'None')}"
        for name in sorted(wanted, key="links".__eq__)
        if name not in known
    ]
    fit = {f"{-1 << 63} <= {name}" for name in names} | {
        f"{name} < {1 << 63}" for name in names
    }  # as holes take them
    if told := " and ".join(condition for condition in conditions if condition not in fit):
        source.append(f"if not ({told}): return None")
    source.append(f"return ({', '.join(wanted)},)")
    return "\n    ".join(("def take(trace_id, lines):", *source))


def _line(parts: Sequence[Part], i: int, first_row: int, first_link: int) -> _Pieces:
    part = parts[i]
    later = {name for other in parts[i + 1 :] for name in other.get("a", ())}
    root = {name: _UNUSED if name in later else f"r{n}" for n, name in enumerate(root_of(parts))}
    for count, (key, value) in enumerate(part.items()):
        yield b"{" if not count else b","
        yield orjson.dumps(key) + b":"
        if key == "t" and not i:
            yield _hole(value, "start")
        elif key == "e" and i == len(parts) - 1:
            yield _hole(value, "end")
        elif key == "u":
            yield _hole(value, _UNUSED)
        elif key == "a":
            yield from _attributes(value, root)
        elif key == "s":
            yield from _list(_row(row, n) for n, row in enumerate(value, first_row))
        elif key == "o":
            yield from _list(_open(row) for row in value)
        elif key == "l":
            yield from _list(_link(link, n) for n, link in enumerate(value, first_link))
        else:
            yield orjson.dumps(value)
    yield b"}"


def _row(row: Sequence[Any], n: int) -> _Pieces:
    for place, value in enumerate(row):
        yield b"," if place else b"["
        if place == ATTRIBUTES:
            yield from _attributes(value, {name: f"x{n}_{i}" for i, name in enumerate(value)})
        elif place in (START, END):
            yield _hole(value, f"b{n}" if place == START else f"e{n}")
        else:
            yield orjson.dumps(value)
    yield b"]"


def _open(row: Sequence[Any]) -> _Pieces:
    *before, start, attributes = row
    yield b"["
    for value in before:
        yield orjson.dumps(value) + b","
    yield _hole(start, _UNUSED)
    yield b","
    yield from _attributes(attributes, dict.fromkeys(attributes, _UNUSED))
    yield b"]"


def _link(link: Sequence[Any], n: int) -> _Pieces:
    to, by, attributes = link
    yield b"["
    yield _hole(to, f"to{n}")
    yield b","
    yield _hole(by, f"by{n}")
    yield b","
    yield from _attributes(attributes, {name: f"l{n}_{i}" for i, name in enumerate(attributes)})
    yield b"]"


def _attributes(values: Mapping[str, Any], names: Mapping[str, str]) -> _Pieces:
    yield b"{"
    for count, (key, value) in enumerate(values.items()):
        yield (b"," if count else b"") + orjson.dumps(key) + b":"
        yield b"null" if value is None else _hole(value, names[key])
    yield b"}"


def _list(each: Iterable[_Pieces]) -> _Pieces:
    yield b"["
    for count, pieces in enumerate(each):
        if count:
            yield b","
        yield from pieces
    yield b"]"


def _hole(value: Any, name: str) -> _Hole:
    if type(value) not in _KINDS:
        raise NoTemplateError
    return _Hole(_KINDS[type(value)], name)


def _joined(pieces: _Pieces) -> Template:
    joined: list[bytes | str] = []
    for piece in pieces:
        last = joined[-1] if joined else ""
        if isinstance(piece, _Hole):
            joined.append(piece.kind)
        elif isinstance(last, bytes):
            joined[-1] = last + piece
        else:
            joined.append(piece)
    return tuple(joined)


native.stands_for("fill", sys.modules[__name__], "fill")

"""How the value of one setting is read, be it an argument or the text of an environment variable.

Each function returns the value or raises `ValueError` whose text says what was expected.
"""

from __future__ import annotations

import math
import operator
import os
import re
from collections.abc import Callable
from pathlib import Path

Parser = Callable[[object], object]

_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})
_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_UNITS |= {f"{letter}ib": factor for letter, factor in _UNITS.items() if letter not in ("", "b")}
_UNITS |= {"kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]*)", re.ASCII | re.IGNORECASE)
_DIGITS = re.compile(r"[+-]?\d{1,18}", re.ASCII)
_LONGEST = 256
_RANGE = re.compile(r"(\d{1,12})(?:\s*-\s*(\d{1,12}))?", re.ASCII)
_MOST_NUMBERS = 100_000


def boolean(value: object) -> bool:
    """`True`, `False`, or one of 1 true yes on 0 false no off, in any case."""
    if isinstance(value, int | str):
        word = str(int(value)) if isinstance(value, int) else value.strip().lower()
        if word in _TRUE:
            return True
        if word in _FALSE:
            return False
    raise ValueError("one of 1, true, yes, on, 0, false, no, off")


def sdk_disabled(value: object) -> bool:
    """The rule of OpenTelemetry's specification: only "true", in any case, is true."""
    if value is True or (isinstance(value, str) and value.strip().lower() == "true"):
        return True
    if value is False or (isinstance(value, str) and value.strip().lower() == "false"):
        return False
    raise ValueError('"true" or "false"')


def _integer(value: object) -> int | None:
    """The integer that `value` is (also one of numpy), else None."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        return None
    return operator.index(value)


def whole(least: int) -> Parser:
    """A whole number, `least` or more."""

    def parse(value: object) -> int:
        number = (
            int(value) if isinstance(value, str) and _DIGITS.fullmatch(value.strip()) else _integer(value)
        )
        if number is not None and number >= least:
            return number
        raise ValueError(f"a whole number, {least} or more")

    return parse


def size(least: int, *, zero: bool = False) -> Parser:
    """A number of bytes, `least` or more (or 0 where `zero` has a meaning), with or without a unit."""

    def parse(value: object) -> int:
        number = _integer(value)
        if isinstance(value, str):
            match = _SIZE.fullmatch(value.strip())
            factor = _UNITS.get(match[2].lower()) if match else None
            if match and factor and len(match[1]) <= 18:
                number = int(float(match[1]) * factor) if "." in match[1] else int(match[1]) * factor
        if number is not None and ((number == 0 and zero) or least <= number < 1 << 63):
            return number
        either = "0 or " if zero else ""
        raise ValueError(f"{either}a number of bytes from {least}, such as 67108864 or 64MiB")

    return parse


def seconds(*, zero: bool) -> Parser:
    """A finite number of seconds, above 0, or also 0 where `zero`."""

    def parse(value: object) -> float:
        number = math.nan
        if isinstance(value, str | int | float) and not isinstance(value, bool):
            try:
                number = float(value)
            except (ValueError, OverflowError):
                number = math.nan
        if math.isfinite(number) and (number > 0 or (zero and number == 0)):
            return number
        raise ValueError(f"a number of seconds, {'0 or more' if zero else 'more than 0'}")

    return parse


def file_mode(value: object) -> int:
    """Permission bits, octal as text; the owner must be able to read and write."""
    mode = -1
    if isinstance(value, int) and not isinstance(value, bool):
        mode = value
    elif isinstance(value, str):
        digits = value.strip().lower().removeprefix("0o")
        if digits and len(digits) <= 4 and set(digits) <= set("01234567"):
            mode = int(digits, 8)
    if 0 <= mode <= 0o777 and mode & 0o600 == 0o600:
        return mode
    raise ValueError("octal permissions between 0600 and 0777 that let the owner read and write")


def choice(*words: str) -> Parser:
    """One of `words`, in any case."""

    def parse(value: object) -> str:
        word = value.strip().lower() if isinstance(value, str) else ""
        if word in words:
            return word
        raise ValueError(f"one of {', '.join(words)}")

    return parse


def label(value: object) -> str:
    """A short printable name; a number is taken as its digits."""
    text = str(value).strip() if isinstance(value, str | int) and not isinstance(value, bool) else ""
    if text and len(text) <= _LONGEST and text.isprintable():
        return text
    raise ValueError(f"a name of 1 to {_LONGEST} printable characters")


def folder(value: object) -> Path:
    """The absolute path of a folder, which need not exist yet; ~ is the home folder."""
    expected = "the path of a folder"
    if not isinstance(value, str | os.PathLike) or not os.fspath(value):
        raise ValueError(expected)
    text = os.fspath(value)
    if not isinstance(text, str) or "\0" in text:
        raise ValueError(expected)
    path = absolute(Path(os.path.expanduser(text)))  # noqa: PTH111 - Path.expanduser raises for an unknown user
    try:
        if path.exists() and not path.is_dir():
            raise ValueError(f"{expected}; a file stands there")
    except OSError:
        return path  # may not be looked at (yet): whoever writes there says so
    return path


def absolute(path: Path) -> Path:
    """`path` from the root, or unchanged if the current folder is gone."""
    try:
        return Path(os.path.abspath(path))  # noqa: PTH100 - Path.resolve would follow links
    except OSError:
        return path


def names(value: object) -> tuple[str, ...]:
    """Names of exporters, with commas between them or as a sequence; `none` alone means nothing at all."""
    expected = 'names with commas between them, such as "otlp" or "otlp,console", or "none" alone'
    parts: list[object]
    if isinstance(value, str):
        parts = list(value.split(","))
    elif isinstance(value, list | tuple):
        parts = list(value)
    else:
        raise ValueError(expected)
    found: dict[str, None] = {}
    for part in parts:
        if not isinstance(part, str):
            raise ValueError(expected)
        if part.strip():
            found[part.strip()] = None
    if "none" in found:
        if len(found) > 1:
            raise ValueError(expected)
        return ()
    if not found and isinstance(value, str):
        raise ValueError(expected)
    return tuple(found)


def some_of(*words: str) -> Parser:
    """Some of `words`, in any case, with commas between them or as a sequence; `none` alone means nothing."""

    def parse(value: object) -> tuple[str, ...]:
        expected = f"some of {', '.join(words)} with commas between them, or none"
        try:
            found = tuple(word.lower() for word in names(value))
        except ValueError:
            raise ValueError(expected) from None
        if set(found) <= set(words):
            return found
        raise ValueError(expected)

    return parse


def numbers(value: object) -> tuple[int, ...]:
    """Whole numbers from 0 in order, given as `5,10-12`, as a number or as a sequence; `none` alone means nothing."""
    parts = list(value.split(",")) if isinstance(value, str) else value
    if not isinstance(parts, list | tuple | set | frozenset):
        parts = [parts]
    found: set[int] = set()
    for part in parts:
        match = _RANGE.fullmatch(part.strip()) if isinstance(part, str) else None
        number = _integer(part)
        if match and int(match[1]) <= (last := int(match[2] or match[1])) < int(match[1]) + _MOST_NUMBERS:
            found.update(range(int(match[1]), last + 1))
        elif number is not None and number >= 0:
            found.add(number)
        elif not (parts == [part] and isinstance(part, str) and part.strip().lower() == "none"):
            raise ValueError('whole numbers from 0, such as "5,10-12"')
    return tuple(sorted(found))


def endpoint(value: object) -> str:
    """Where an OTLP receiver listens: `http://host:4318`, or `host:4317` for gRPC."""
    text = value.strip() if isinstance(value, str) else ""
    scheme, separator, rest = text.partition("://")
    host = rest if separator else scheme
    known = scheme.lower() in ("http", "https") if separator else ":" in host
    if known and host and not host.startswith((":", "/")) and not any(c.isspace() for c in text):
        return text
    raise ValueError("an address such as http://localhost:4318")


def without_user(address: str) -> str:
    """An address without the user and the password that may stand in it."""
    scheme = address.partition("://")[0] + "://" if "://" in address else ""
    return scheme + host_of(address)


def host_of(address: str) -> str:
    """An address without scheme, user and password."""
    authority, slash, path = address.rpartition("://")[2].partition("/")
    return authority.rpartition("@")[2] + slash + path

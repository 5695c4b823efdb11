"""Attributes as protobuf bytes: KeyValues, and the AnyValues in them.

A message is a row of (tag, value); a nested one stands behind its tag and its length. The names of tags are
those of opentelemetry-proto 1.x.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Final, TypeVar

_MOST_CACHED: Final = 4096  # entries of each cache, which then starts anew
_MOST_NESTED: Final = 32
_SHORT: Final = 24  # of a text that is remembered whole; ids are longer, and not met again
_INT64: Final = 1 << 63
_UINT64: Final = (1 << 64) - 1

_T = TypeVar("_T")

_double: Final = struct.Struct("<d").pack


def _slow_varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


_VARINTS: Final = tuple(_slow_varint(number) for number in range(2048))


def varint(number: int) -> bytes:
    """A number as protobuf writes it."""
    return _VARINTS[number] if number < 2048 else _slow_varint(number)


def field(tag: bytes, body: bytes) -> bytes:
    """A text, or a nested message."""
    return tag + varint(len(body)) + body


def utf8(text: str) -> bytes:
    """Text as bytes, whatever is in it."""
    try:
        return text.encode()
    except UnicodeEncodeError:  # a lone surrogate
        return text.encode("utf-8", "backslashreplace")


def text_of(value: object) -> str:
    """Any value as text, also one whose own `str` fails."""
    try:
        return str(value)
    except Exception:  # noqa: BLE001
        return f"<unprintable {type(value).__name__}>"


_keys: dict[object, bytes] = {}


def _key(key: object) -> bytes:
    """A KeyValue's beginning: the key, and the tag of the value."""
    known = _keys.get(key)
    if known is None:
        text = utf8(key if isinstance(key, str) else text_of(key))
        known = remember(_keys, key, field(b"\x0a", text) + b"\x12")
    return known


class Attributes:
    """Encodes mappings as KeyValues behind one tag.

    All that stands before a value depends on its key, its type and its length alone, and there are few of
    these: so it is remembered, and a KeyValue is mostly two pieces put beside each other. Short texts, which
    are mostly names, are remembered whole.
    """

    __slots__ = (
        "_before_int",
        "_before_list",
        "_before_text",
        "_doubles",
        "_false",
        "_tag",
        "_texts",
        "_true",
    )

    def __init__(self, tag: bytes) -> None:
        self._tag = tag
        self._before_text: dict[tuple[str, int], bytes] = {}
        self._texts: dict[tuple[str, str], bytes] = {}
        self._before_list: dict[tuple[str, int], bytes] = {}
        self._doubles: dict[str, Callable[[float], bytes]] = {}
        self._before_int: dict[tuple[str, int], bytes] = {}
        self._true: dict[str, bytes] = {}
        self._false: dict[str, bytes] = {}

    def encode(self, pairs: Iterable[tuple[str, Any]], depth: int = 0) -> bytes:
        """KeyValues of these pairs of keys and values."""
        texts, doubles, before_int = self._texts, self._doubles, self._before_int
        out = []
        for key, value in pairs:
            kind = type(value)
            if kind is str:
                if len(value) <= _SHORT:
                    out.append(texts.get((key, value)) or self._learn_text(key, value))
                    continue
                text = value.encode() if value.isascii() else utf8(value)
                out.append(self._before_text.get((key, len(text))) or self._learn_before_text(key, text))
                out.append(text)
            elif kind is float:
                out.append((doubles.get(key) or self._learn_double(key))(value))
            elif kind is int:
                if 0 <= value < 2048:
                    number = _VARINTS[value]
                elif -_INT64 <= value < _INT64:
                    number = _slow_varint(value & _UINT64)
                else:
                    out.append(self._whole(key, _any(value, depth)))
                    continue
                out.append(before_int.get((key, len(number))) or self._learn_int(key, number))
                out.append(number)
            elif kind is bool:
                known = self._true if value else self._false
                out.append(known.get(key) or remember(known, key, self._whole(key, _any(value, 0))))
            elif kind is list and (intervals := _intervals(value)):
                out.append(self._before_list.get((key, len(value))) or self._learn_list(key, value))
                out.append(intervals)
            else:
                out.append(self._whole(key, _any(value, depth)))
        return b"".join(out)

    def _whole(self, key: str, value: bytes) -> bytes:
        return field(self._tag, _key(key) + varint(len(value)) + value)

    def _learn_text(self, key: str, text: str) -> bytes:
        return remember(self._texts, (key, text), self._whole(key, field(b"\x0a", utf8(text))))

    def _learn_before_text(self, key: str, text: bytes) -> bytes:
        before = self._whole(key, field(b"\x0a", text))
        before = before[: len(before) - len(text)]
        return remember(self._before_text, (key, len(text)), before)

    def _learn_double(self, key: str) -> Callable[[float], bytes]:
        before = self._whole(key, b"\x21" + bytes(8))[:-8]
        pack: Callable[[float], bytes] = partial(struct.Struct(f"<{len(before)}sd").pack, before)
        return remember(self._doubles, key, pack)

    def _learn_list(self, key: str, intervals: list[Any]) -> bytes:
        size = len(intervals) * _INTERVAL
        before = self._whole(key, field(b"\x2a", bytes(size)))[:-size]
        return remember(self._before_list, (key, len(intervals)), before)

    def _learn_int(self, key: str, number: bytes) -> bytes:
        before = self._whole(key, b"\x18" + number)[: -len(number)]
        return remember(self._before_int, (key, len(number)), before)


def remember(known: dict[Any, _T], key: object, value: _T) -> _T:
    """Put into a cache, which starts anew when it is full."""
    if len(known) >= _MOST_CACHED:
        known.clear()
    known[key] = value
    return value


_START_TS: Final = field(b"\x0a", field(b"\x0a", b"start_ts") + field(b"\x12", b"\x21" + bytes(8)))[:-8]
_END_TS: Final = field(b"\x0a", field(b"\x0a", b"end_ts") + field(b"\x12", b"\x21" + bytes(8)))[:-8]
_PAIRS: Final = len(_START_TS) + len(_END_TS) + 16
# An item of a list that is a mapping of two pairs.
_BEFORE_INTERVAL: Final = bytes((0x0A, _PAIRS + 2, 0x32, _PAIRS))
_interval: Final = struct.Struct(f"<4s{len(_START_TS)}sd{len(_END_TS)}sd").pack
_INTERVAL: Final = 4 + _PAIRS


def _intervals(items: list[Any]) -> bytes | None:
    """The items of a list of a phase's intervals, by far the most frequent structure; None for any other."""
    out = []
    for item in items:
        if type(item) is not dict or len(item) != 2:
            return None
        start, end = item.get("start_ts"), item.get("end_ts")
        if type(start) is not float or type(end) is not float:
            return None
        out.append(_interval(_BEFORE_INTERVAL, _START_TS, start, _END_TS, end))
    return b"".join(out)


def _any(value: Any, depth: int) -> bytes:
    """An AnyValue. What OTLP has no form for becomes text."""
    kind = type(value)
    if (kind is list or kind is dict) and depth < _MOST_NESTED:
        return _nested(value, depth + 1)
    if isinstance(value, str):
        return field(b"\x0a", utf8(value))
    if isinstance(value, bool):
        return b"\x10\x01" if value else b"\x10\x00"
    if isinstance(value, int):
        if -_INT64 <= value < _INT64:
            return b"\x18" + varint(int(value) & _UINT64)
        return field(b"\x0a", _digits(value).encode())
    if isinstance(value, float):
        return b"\x21" + _double(value)
    if value is None:
        return b""
    if isinstance(value, bytes):
        return field(b"\x3a", value)
    if isinstance(value, Mapping | tuple | list) and depth < _MOST_NESTED:
        return _nested(value, depth + 1)
    return field(b"\x0a", utf8(text_of(value)))


def _nested(value: Any, depth: int) -> bytes:
    try:
        if isinstance(value, list | tuple):
            return field(b"\x2a", b"".join([field(b"\x0a", _any(item, depth)) for item in value]))
        return field(b"\x32", OTHER_ATTRIBUTES.encode(value.items(), depth))
    except Exception:  # noqa: BLE001 - a mapping of somebody else's making
        return field(b"\x0a", utf8(text_of(value)))


def _digits(value: int) -> str:
    try:
        return str(int(value))
    except ValueError:  # Python refuses to print very long integers
        return hex(value)


SPAN_ATTRIBUTES: Final = Attributes(b"\x4a")
LOG_ATTRIBUTES: Final = Attributes(b"\x32")
LINK_ATTRIBUTES: Final = Attributes(b"\x22")
OTHER_ATTRIBUTES: Final = Attributes(b"\x0a")  # of a resource, and of values that are mappings

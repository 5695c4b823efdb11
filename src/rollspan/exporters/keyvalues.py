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
_SMALL: Final = 2048  # numbers whose form is ready
_INT64: Final = 1 << 63
_UINT64: Final = (1 << 64) - 1

_T = TypeVar("_T")

_double: Final = struct.Struct("<d").pack


def _long_varint(number: int) -> bytes:
    if number < 1 << 14:
        return bytes((number & 0x7F | 0x80, number >> 7)) if number > 0x7F else bytes((number,))
    return bytes((number & 0x7F | 0x80,)) + _long_varint(number >> 7)


small_numbers: Final = tuple(map(_long_varint, range(_SMALL)))


def varint(number: int) -> bytes:
    """A number as protobuf writes it."""
    return small_numbers[number] if number < _SMALL else _long_varint(number)


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
    """Encodes pairs of keys and values as KeyValues behind one tag.

    All that stands before a value depends on its key, its type and its length alone, and there are few of
    these: so it is remembered, and a KeyValue is mostly two pieces put beside each other. Short texts, which
    are mostly names, are remembered whole.
    """

    __slots__ = ("_before_int", "_before_text", "_doubles", "_flags", "_tag", "_texts", "_words")

    def __init__(self, tag: bytes) -> None:
        self._tag = tag
        self._texts: dict[tuple[str, str], bytes] = {}
        self._before_text: dict[tuple[str, int], bytes] = {}
        self._before_int: dict[tuple[str, int], bytes] = {}
        self._doubles: dict[str, Callable[[float], bytes]] = {}
        self._flags: dict[tuple[str, bool], bytes] = {}
        self._words: dict[tuple[str, str], bytes] = {}  # lists of one short text

    def encode(self, pairs: Iterable[tuple[str, Any]], depth: int = 0) -> bytes:
        """KeyValues of these pairs."""
        texts, before_int = self._texts, self._before_int
        out = []
        for pair in pairs:
            key, value = pair
            kind = type(value)
            if kind is str:
                if len(value) <= _SHORT:
                    out.append(texts.get(pair) or self._learn(texts, pair, value))
                    continue
                text = value.encode() if value.isascii() else utf8(value)
                out.append(self._before_text.get((key, len(text))) or self._learn_before_text(key, text))
                out.append(text)
            elif kind is int:
                if 0 <= value < _SMALL:
                    number = small_numbers[value]
                elif -_INT64 <= value < _INT64:
                    number = _long_varint(value & _UINT64)
                else:
                    out.append(self._whole(key, _any(value, depth)))
                    continue
                out.append(before_int.get((key, len(number))) or self._learn_int(key, number))
                out.append(number)
            elif kind is float:
                out.append((self._doubles.get(key) or self._learn_double(key))(value))
            elif kind is bool:
                out.append(self._flags.get(pair) or self._learn(self._flags, pair, value))
            elif kind is list and len(value) == 1 and type(word := value[0]) is str and len(word) <= _SHORT:
                out.append(self._words.get((key, word)) or self._learn(self._words, (key, word), value))
            else:
                out.append(self._whole(key, _any(value, depth)))
        return b"".join(out)

    def _whole(self, key: str, value: bytes) -> bytes:
        return field(self._tag, _key(key) + varint(len(value)) + value)

    def _learn(self, known: dict[Any, bytes], pair: tuple[str, Any], value: Any) -> bytes:
        return remember(known, pair, self._whole(pair[0], _any(value, 0)))

    def _learn_before_text(self, key: str, text: bytes) -> bytes:
        before = self._whole(key, field(b"\x0a", text))
        before = before[: len(before) - len(text)]
        return remember(self._before_text, (key, len(text)), before)

    def _learn_double(self, key: str) -> Callable[[float], bytes]:
        before = self._whole(key, b"\x21" + bytes(8))[:-8]
        pack: Callable[[float], bytes] = partial(struct.Struct(f"<{len(before)}sd").pack, before)
        return remember(self._doubles, key, pack)

    def _learn_int(self, key: str, number: bytes) -> bytes:
        before = self._whole(key, b"\x18" + number)[: -len(number)]
        return remember(self._before_int, (key, len(number)), before)


def remember(known: dict[Any, _T], key: object, value: _T) -> _T:
    """Put into a cache, which starts anew when it is full."""
    if len(known) >= _MOST_CACHED:
        known.clear()
    known[key] = value
    return value


def _double_before(key: str) -> bytes:
    return field(b"\x0a", _key(key) + varint(9) + b"\x21" + bytes(8))[:-8]


def _interval_packer() -> Callable[[float, float], bytes]:
    """A phase's interval as an item of a list: by far the most frequent structure."""
    start, end = _double_before("start_ts"), _double_before("end_ts")
    pairs = len(start) + len(end) + 16
    pack = struct.Struct(f"<4s{len(start)}sd{len(end)}sd").pack
    return lambda starts, ends: pack(bytes((0x0A, pairs + 2, 0x32, pairs)), start, starts, end, ends)


_interval: Final = _interval_packer()


def _item(value: Any, depth: int) -> bytes:
    """An item of a list."""
    if type(value) is dict and len(value) == 2:
        start, end = value.get("start_ts"), value.get("end_ts")
        if type(start) is float and type(end) is float:
            return _interval(start, end)
    return field(b"\x0a", _any(value, depth))


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
            return field(b"\x2a", b"".join([_item(item, depth) for item in value]))
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

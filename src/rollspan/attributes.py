"""One defined form for every attribute, made once, before anything is written.

Scalars and lists of one scalar type stay as they are. NaN and the infinities become the strings "NaN",
"Infinity" and "-Infinity" (a NaN makes some backends fail a whole search), integers beyond 64 bits decimal
strings, bytes text (or base64), sets sorted lists, mappings JSON text, exceptions their class, anything else its
`str` or, for tensors, a description: reading a tensor's value could block on the device that holds it.
"""

from __future__ import annotations

import base64
import enum
import math
from collections.abc import Mapping
from typing import Any

import orjson

from . import health
from .spandata import AttributeValue, Scalar

MAX_SPAN_ATTRIBUTES = 128  # OpenTelemetry's default limit
MAX_ATTRIBUTES = (
    MAX_SPAN_ATTRIBUTES - 5
)  # session, phase, parent phase, error, and late or foreign are added later
MAX_ROOT_ATTRIBUTES = (
    MAX_SPAN_ATTRIBUTES - 30
)  # what all sessions have, verdict, steps, the executor's counts, reward, and sums are added later
MAX_DEPTH = 8
DEFAULT_MAX_BYTES = 16384

INT64 = 1 << 63
NOT_FINITE = ("NaN", "Infinity", "-Infinity")
_CUT = "..."


def _float(value: float) -> float | str:
    if math.isfinite(value):
        return value
    return NOT_FINITE[0 if value != value else 1 if value > 0 else 2]


def _text(value: str, limit: int) -> str:
    if not value.isascii():
        try:
            size = len(value.encode())
        except UnicodeEncodeError:  # a lone surrogate: OTLP strings are UTF-8
            value = value.encode("utf-8", "backslashreplace").decode()
            size = len(value.encode())
    else:
        size = len(value)
        value = str.__str__(value)
    if size <= limit:
        return value
    health.count("attributes.cut")
    return value.encode()[: max(limit - len(_CUT), 0)].decode("utf-8", "ignore") + _CUT


def error_type(exc: BaseException | type[BaseException]) -> str:
    """The value of `error.type` for an exception: its class, qualified unless built in."""
    kind = exc if isinstance(exc, type) else type(exc)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _describe(value: Any) -> str:
    """Text for a value of a type that has no form of its own."""
    if isinstance(value, BaseException):
        return error_type(value)  # its message may hold a prompt
    kind = type(value)
    shape = getattr(value, "shape", None)
    if shape is not None and hasattr(value, "dtype"):
        return f"<{kind.__module__}.{kind.__qualname__} shape={tuple(shape)} dtype={value.dtype}>"
    return str(value)


def _scalar(value: Any, limit: int) -> Scalar:
    kind = type(value)
    if kind is bool:
        return bool(value)
    if kind is int:
        return int(value) if -INT64 <= value < INT64 else _text(_digits(value), limit)
    if kind is float:
        return _float(value)
    if kind is str:
        return _text(value, limit)
    if isinstance(value, enum.Enum):
        return _scalar(value.value, limit)
    if isinstance(value, str):
        return _text(str.__str__(value), limit)
    if isinstance(value, bool | int):
        return _scalar(int(value), limit)
    if isinstance(value, float):
        return _float(float(value))
    if isinstance(value, bytes | bytearray | memoryview):
        raw = bytes(value)
        try:
            return _text(raw.decode(), limit)
        except UnicodeDecodeError:
            return _text(base64.b64encode(raw).decode(), limit)
    if kind.__module__ == "numpy" and getattr(value, "shape", None) == ():
        return _scalar(value.item(), limit)
    return _text(_describe(value), limit)


def _digits(value: int) -> str:
    try:
        return str(value)
    except ValueError:  # Python refuses to print very long integers
        return hex(value)


def _plain(value: Any, limit: int, depth: int, above: tuple[int, ...]) -> Any:
    """A value inside a mapping or a nested list, as something JSON can say."""
    if isinstance(value, Mapping | list | tuple | set | frozenset):
        if id(value) in above:
            return "<recursion>"
        if depth >= MAX_DEPTH:
            return "<too deep>"
        above = (*above, id(value))
        if isinstance(value, Mapping):
            return {_key(k): _plain(v, limit, depth + 1, above) for k, v in value.items()}
        return [_plain(v, limit, depth + 1, above) for v in value]
    return None if value is None else _scalar(value, limit)


def _sequence(value: Any, limit: int) -> AttributeValue:
    items = list(value)
    if len(items) == 1 and type(items[0]) is str:
        return [_text(items[0], limit)]
    if any(isinstance(v, Mapping | list | tuple | set | frozenset) for v in items):
        return _text(orjson.dumps(_plain(value, limit, 0, ())).decode(), limit)
    cleaned = ["null" if v is None else _scalar(v, limit) for v in items]
    kinds = {type(v) for v in cleaned}
    if len(kinds) > 1:  # OTLP has mixed lists, OpenTelemetry's attributes have not
        cleaned = [float(v) for v in cleaned] if kinds == {int, float} else [_say(v) for v in cleaned]
    if sum(len(v) if isinstance(v, str) else 8 for v in cleaned) > limit:
        health.count("attributes.cut")
        kept: list[Scalar] = []
        size = 0
        for item in cleaned:
            size += len(item) if isinstance(item, str) else 8
            if size > limit:
                break
            kept.append(item)
        cleaned = kept
    return cleaned


def _say(value: Scalar) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def clean(value: Any, limit: int = DEFAULT_MAX_BYTES) -> AttributeValue | None:
    """`value` in its defined form, at most about `limit` bytes long; None stands for no attribute."""
    kind = type(value)
    if kind is int and -INT64 <= value < INT64:
        return int(value)
    if kind is bool or value is None:
        return value  # type: ignore[no-any-return]
    if kind is str and len(value) <= limit and value.isascii():
        return value  # type: ignore[no-any-return]
    try:
        if isinstance(value, list | tuple):
            return _sequence(value, limit)
        if isinstance(value, set | frozenset):
            return _sequence(sorted(value, key=lambda v: (type(v).__name__, str(v))), limit)
        if isinstance(value, Mapping):
            return _text(orjson.dumps(_plain(value, limit, 0, ())).decode(), limit)
        return _scalar(value, limit)
    except Exception as error:  # a hostile __str__, __iter__ or __len__ of the user's
        if health.by_a_signal_handler(error):
            raise
        health.count("attributes.unprintable")
        return _text(f"<unprintable {kind.__module__}.{kind.__qualname__}>", limit)


def _key(key: Any) -> str:
    text = clean(key, 255)
    return text if isinstance(text, str) and text else ("_" if text in ("", None) else str(text))


def fit_name(name: Any) -> str:
    """A span's or counter's name: text that UTF-8 can say, of bounded length, never empty."""
    return name if type(name) is str and name and name.isascii() and len(name) < 256 else _key(name)


def salvage(value: Any) -> Any:
    """Anything, as JSON can say it: for a journal line that could not be written as it was."""
    return _plain(value, DEFAULT_MAX_BYTES, -MAX_DEPTH, ())


_good_keys: set[str] = set()  # seen and found fit: keys are few and come again and again
_GOOD_KEYS_KEPT = 4096


def _fit(key: Any) -> str:
    name = key if type(key) is str and key and key.isascii() and len(key) < 256 else _key(key)
    if name is key and len(_good_keys) < _GOOD_KEYS_KEPT:
        _good_keys.add(name)
    return name


def clean_into(target: dict[str, AttributeValue], new: Mapping[Any, Any], limit: int) -> None:
    """Put the cleaned `new` attributes into `target`, which keeps at most `MAX_ATTRIBUTES`."""
    crowded = len(target) + len(new) > MAX_ATTRIBUTES
    for key, value in new.items():
        name = key if key in _good_keys else _fit(key)
        kind = type(value)
        if (
            (kind is str and value.isascii() and len(value) <= limit)
            or (kind is int and -INT64 <= value < INT64)
            or kind is bool
            or (kind is float and value - value == 0)  # finite
        ):
            cleaned: AttributeValue = value
        elif value is None:
            continue
        else:
            cleaned = clean(value, limit)  # type: ignore[assignment]  # None for None alone
        if crowded and len(target) >= MAX_ATTRIBUTES and name not in target:
            health.count("attributes.dropped")
            continue
        target[name] = cleaned


def fit(attributes: Mapping[Any, Any], limit: int) -> dict[str, AttributeValue]:
    """The attributes with every value in its form."""
    cleaned: dict[str, AttributeValue] = {}
    clean_into(cleaned, attributes, limit)
    return cleaned


def fit_root(
    known: dict[str, AttributeValue], new: Mapping[str, AttributeValue]
) -> dict[str, AttributeValue]:
    """Those of the clean `new` attributes for which a root has room beside `known`, which takes them."""
    kept: dict[str, AttributeValue] = {}
    for name, value in new.items():
        if name in known or len(known) < MAX_ROOT_ATTRIBUTES:
            known[name] = kept[name] = value
        else:
            health.count("attributes.dropped")
    return kept

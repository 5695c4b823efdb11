"""Text that is safe in any terminal: names of unknown origin, durations, counts."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping
from typing import Any

from rich.cells import cell_len, set_cell_size

_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_MINUTE, _HOUR, _DAY = 60, 3600, 86400


def safe(value: object, width: int = 64) -> str:
    """`value` as one line of at most `width` cells, with nothing in it that steers a terminal.

    Control, direction and unassigned characters become visible escapes; what is cut ends in an ellipsis.
    The result is plain text: put it into a `rich.text.Text`, never into console markup.
    """
    text = value if isinstance(value, str) else str(value)
    if not (text.isascii() and text.isprintable()):
        # Marks without a width would pile up unbounded over one cell, so the count is bounded too.
        text = "".join(map(_visible, text[: 4 * width]))
    if cell_len(text) <= width:
        return text
    return set_cell_size(text, max(0, width - 1)).rstrip() + "…"


def _visible(character: str) -> str:
    if unicodedata.category(character) not in _HIDDEN:
        return character
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def number(record: Mapping[str, Any], key: str) -> float | None:
    """The finite number under `key`, else None: files are written by others, too."""
    return finite(record.get(key))


def finite(value: object) -> float | None:
    """`value` when it is a finite number and no bool, else None."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # an integer beyond the range of floats
        return None


def duration(seconds: float, trim: bool = False) -> str:
    """`seconds` for people, three digits: `12.3 µs`, `431 ms`, `1.25 s`, `2 min 05 s`, `1 h 30 min`.

    `trim` leaves out what says nothing, for the labels of an axis: `1 s` rather than `1.00 s`.
    """
    if seconds < 0:
        return "-" + duration(-seconds, trim)
    if seconds < 5e-10:
        return "0 s"
    for unit, name in ((1e-9, "ns"), (1e-6, "µs"), (1e-3, "ms"), (1.0, "s")):
        text = _three_digits(seconds / unit, trim)
        if float(text) < (1000 if name != "s" else _MINUTE):
            return f"{text} {name}"
    whole = round(seconds)
    if whole < _HOUR:
        return _two_parts(whole // _MINUTE, "min", whole % _MINUTE, "s", trim)
    whole = round(seconds / _MINUTE)
    if whole < _DAY // _MINUTE:
        return _two_parts(whole // 60, "h", whole % 60, "min", trim)
    whole = round(seconds / _HOUR)
    return _two_parts(whole // 24, "d", whole % 24, "h", trim)


def _three_digits(value: float, trim: bool) -> str:
    places = 2 if value < 9.995 else 1 if value < 99.95 else 0
    text = f"{value:.{places}f}"
    return text.rstrip("0").rstrip(".") if trim and places else text


def _two_parts(large: int, large_name: str, small: int, small_name: str, trim: bool) -> str:
    if trim and not small:
        return f"{large} {large_name}"
    return f"{large} {large_name} {small:02d} {small_name}"


def count(value: float) -> str:
    """A count with a thin separator per thousand: `12,345`."""
    return f"{value:,.0f}"


def plain(value: float) -> str:
    """A measured number at four significant digits, without noise: `0.512`, `3`, `-1.25`."""
    return f"{value:.4g}"


def share(part: float, whole: float) -> str:
    """`part` of `whole` in per cent, one decimal; empty where there is no whole."""
    return f"{100 * part / whole:.1f} %" if whole > 0 else ""

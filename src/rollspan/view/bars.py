"""Bars and their axis in character cells: an eighth of a cell fine, or plain ASCII."""

from __future__ import annotations

from collections.abc import Iterable

from rich.cells import cell_len

from rollspan.view.text import duration

TIMES = "\N{MULTIPLICATION SIGN}"
_LEFT_BLOCKS = " ▏▎▍▌▋▊▉█"
_LOWER_BLOCKS = " ▁▂▃▄▅▆▇█"
_SHORTEST = 1e-9  # seconds: the resolution of the stamps
_IN_ASCII = {"µ": "u", "…": "~", "·": "|", "→": "->", TIMES: "x"}
_STEPS = [digit * 10.0**power for power in range(-9, 1) for digit in (1, 2, 5)]
_STEPS += [10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 18000, 43200]
_STEPS += [86400.0 * 10**power * digit for power in range(6) for digit in (1, 2, 5)]


def bar(
    spans: Iterable[tuple[float, float]],
    length: float,
    width: int,
    light: bool = False,
    ascii_only: bool = False,
) -> str:
    """`width` cells that show `spans` (start, end) on a scale from 0 to `length`.

    Every span leaves at least a mark. Work is solid; `light` (waits) is shaded, so that the two differ
    without colour as well. Of several spans, the height of a cell says how much of its time they fill.
    """
    spans = list(spans)
    first, last, covered = [1.0] * width, [0.0] * width, [0.0] * width
    thickest = set()
    scale = width / length if length >= _SHORTEST else 0.0
    for start, end in spans:
        left = min(max(start * scale, 0.0), width)
        right = min(max(end * scale, left), width)
        low, high = min(int(left), width - 1), min(int(right), width - 1)
        best, best_cover = low, -1.0
        for cell in range(low, high + 1):
            begin, finish = max(left - cell, 0.0), min(right - cell, 1.0)
            first[cell], last[cell] = min(first[cell], begin), max(last[cell], finish)
            covered[cell] = min(1.0, covered[cell] + finish - begin)
            if finish - begin > best_cover:
                best, best_cover = cell, finish - begin
        thickest.add(best)
    if light or ascii_only:
        full = ("-" if light else "#") if ascii_only else "░"
        return "".join(full if covered[at] >= 0.5 or at in thickest else " " for at in range(width))
    if len(spans) > 1:
        heights = (max(round(part * 8), at in thickest) for at, part in enumerate(covered))
        return "".join(_LOWER_BLOCKS[height] for height in heights)
    return "".join(_block(first[at], last[at], at in thickest) for at in range(width))


def _block(first: float, last: float, needs_mark: bool) -> str:
    """The glyph for a cell filled from `first` to `last`; Unicode has halves and eighths on the right."""
    filled = last - first
    if filled < 1 / 16 and not needs_mark:
        return " "
    if filled >= 15 / 16:
        return "█"
    if first >= 1 - last and first > 1 / 16:  # nearer to the right edge
        return "█" if first < 0.25 else "▐" if filled >= 0.3 else "▕"
    return _LEFT_BLOCKS[min(8, max(1, round(filled * 8)))]


def axis(length: float, width: int, ascii_only: bool = False) -> tuple[str, str]:
    """Two lines of `width` cells: labels at round times, and the ruler below them."""
    start, line, tick, end = "|-+|" if ascii_only else "├─┬┤"
    ruler = [start, *[line] * (width - 2), end]
    labels = ["0"] + [" "] * (width - 1)
    at, step = 1, _step(length, width)
    while step and at * step <= length:
        cell = min(round(at * step / length * width), width - 1)
        label = encodable(duration(at * step, trim=True), ascii_only)
        if 0 < cell < width - 1:
            ruler[cell] = tick
        if cell + cell_len(label) <= width:
            labels[cell : cell + len(label)] = label
        at += 1
    return "".join(labels), "".join(ruler)


def _step(length: float, width: int) -> float | None:
    """The smallest round step whose labels keep a distance; None for a scale without length."""
    for step in _STEPS:
        if length < _SHORTEST:
            return None
        if step > length:
            return length
        times = range(1, min(width, int(length / step)) + 1)
        widest = max(len(duration(time * step, trim=True)) for time in times)
        if step / length * width >= widest + 4:
            return step
    return None


def encodable(text: str, ascii_only: bool) -> str:
    """`text`, in ASCII where the terminal's encoding has no more."""
    if not ascii_only:
        return text
    for character, plain in _IN_ASCII.items():
        text = text.replace(character, plain)
    return text.encode("ascii", "replace").decode()

"""Moments that several hosts share, by which the timeline sets their clocks."""

from __future__ import annotations

import os
from collections import Counter

from rollspan import semconv

from .scopes import instant

_MOST = 16  # of a name: the first one that two hosts share is enough

_taken: Counter[str] = Counter()


def clock_anchor(name: str) -> None:
    """All ranks are here now, having left a barrier of the whole job. Each says so as often, under the same name.

    Later ones than the first few of a name are not kept.
    """
    number = _taken[name]
    _taken[name] += 1
    if number < _MOST:
        restart = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        key = f"{name} {restart}.{number}"
        instant(semconv.CLOCK_ANCHOR, category="sync", args={semconv.CLOCK_ANCHOR_KEY: key})

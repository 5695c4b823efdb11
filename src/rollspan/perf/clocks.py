"""Clocks of hosts: how far one is off, told by moments that several of them saw."""

from __future__ import annotations

from collections.abc import Mapping

from rollspan import semconv
from rollspan.perf.lanes import Slice
from rollspan.perf.sources import Process

_LEAST_NS = 100_000_000


class Clocks:
    """What the hosts' clocks showed at the moments they share."""

    def __init__(self) -> None:
        self._seen: dict[str, dict[str, int]] = {}
        self._lowest: tuple[int, str] | None = None

    def watch(self, process: Process, one: Slice) -> None:
        """Note the host of a process, and the moment where the slice is an anchor."""
        moments = self._seen.setdefault(process.host, {})
        lowest = (process.rank, process.host)
        self._lowest = min(self._lowest or lowest, lowest)
        args = one.event.get("args")
        if one.event.get("name") == semconv.CLOCK_ANCHOR and isinstance(args, dict):
            key = str(args.get(semconv.CLOCK_ANCHOR_KEY))
            moments[key] = min(one.end, moments.get(key, one.end))

    @property
    def reference(self) -> str:
        """The host of the lowest rank, after whose clock the others are set."""
        return "" if self._lowest is None else self._lowest[1]

    def shifts(self) -> dict[str, int]:
        """Nanoseconds to add to what a host's clock says, for each host that is off by more than 0.1 s."""
        right = self._seen.get(self.reference, {})
        found = {host: _difference(right, moments) for host, moments in sorted(self._seen.items())}
        return {host: shift for host, shift in found.items() if abs(shift) > _LEAST_NS}


def _difference(right: Mapping[str, int], moments: Mapping[str, int]) -> int:
    common = right.keys() & moments.keys()
    first = min(common, key=lambda key: (right[key], key), default=None)
    return 0 if first is None else right[first] - moments[first]

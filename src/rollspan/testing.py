"""For tests of programs that use rollspan: recordings, fixed ids and clock, trees of spans, an OTLP receiver."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from . import clock, health, ids, left, switch, view
from .finished import FinishedTrace
from .joiner import Joiner
from .journal import Position
from .spandata import SpanData
from .testing_receiver import OtlpReceiver

__all__ = ["OtlpReceiver", "Recording", "fixed", "recording", "tree"]


class Recording:
    """What was recorded in a data directory while it is open."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def records(self) -> list[dict[str, Any]]:
        """Records of the sessions that have ended, in the order in which they were written."""
        switch.flush(10.0)
        try:
            return view.load(self.directory)
        except FileNotFoundError:
            return []

    def traces(self) -> list[FinishedTrace]:
        """Sessions and steps that have ended, with their spans, in the order in which they ended."""
        switch.flush(10.0)
        found: list[FinishedTrace] = []
        for journal in left.journals(self.directory):
            joiner = Joiner()
            for number, path in journal.segments:
                chunk = path.read_bytes().rstrip(b"\0")
                found.extend(joiner.feed(chunk, Position(number, 0)))
        return found


@contextlib.contextmanager
def recording(directory: Path, **settings: Any) -> Iterator[Recording]:
    """Turn rollspan on below `directory` for a `with` block. Errors inside rollspan are raised, not logged.

    Nothing is sent anywhere, whatever the environment says, unless `settings` name exporters.
    """
    was_raising, health.raise_internal_errors = health.raise_internal_errors, True
    nowhere = {"traces_exporters": (), "records_exporters": (), "metrics_exporters": ()}
    switch.configure(**{"dir": directory, "journal_keep": True, **nowhere, **settings})
    try:
        yield Recording(directory)
    finally:
        switch.shutdown(5.0)
        health.raise_internal_errors = was_raising
        health.reset()


@contextlib.contextmanager
def fixed(start_ns: int = 1_700_000_000_000_000_000, step_ns: int = 1_000_000) -> Iterator[None]:
    """Trace ids 1, 2, 3 ... and a clock that advances by `step_ns` at each look, for a `with` block."""
    now = [0]

    def monotonic_ns() -> int:
        now[0] += step_ns
        return now[0]

    before = clock.monotonic_ns, clock.time_ns, ids.trace_hex
    count = iter(range(1, 1 << 62))
    clock.monotonic_ns = monotonic_ns
    clock.time_ns = lambda: start_ns + now[0]
    ids.trace_hex = lambda: b"%032x" % next(count)
    try:
        yield
    finally:
        clock.monotonic_ns, clock.time_ns, ids.trace_hex = before


def tree(spans: Sequence[SpanData]) -> dict[str, Any]:
    """Names of one trace's spans, nested: {"rollout": {"generate": {}}}; a second `generate` is `generate#2`."""
    known = {span.span_id for span in spans}

    def below(parent: int) -> dict[str, Any]:
        branch: dict[str, Any] = {}
        children = [s for s in spans if s.parent_id == parent or (parent == 0 and s.parent_id not in known)]
        for span in sorted(children, key=lambda s: (s.start_ns, s.end_ns)):
            name, n = span.name, 1
            while name in branch:
                n += 1
                name = f"{span.name}#{n}"
            branch[name] = below(span.span_id)
        return branch

    return below(0)

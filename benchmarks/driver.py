"""Runs the contenders in turn: one process each, one at work at a time, rounds interleaved in a shuffled order."""

from __future__ import annotations

import http.client
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from .contenders import Entry

ROOT = Path(__file__).resolve().parent.parent
_SEED = 539  # of the turns: the same in every run, and no contender always comes after the same one
# Settings of the user's job, and a proxy between a contender and the sink, are not what is measured.
_FOREIGN = ("ROLLSPAN_", "OTEL_", "RANK", "WORLD_SIZE", "TORCHELASTIC_", "SLURM_", "RAY_")


class BenchmarkError(Exception):
    """A contender failed, or did not deliver what it claims."""


class Round(NamedTuple):
    """One round: who came when, and by contender what was measured and what arrived."""

    order: list[str]
    results: dict[str, dict[str, float]]


def environment() -> dict[str, str]:
    """What the processes inherit."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(_FOREIGN) and not name.lower().endswith("_proxy")
    }


class Sink:
    """The OTLP endpoint's process."""

    def __init__(self) -> None:
        self._process = start(sys.executable, "benchmarks.sink")
        self._port = int(line_of(self._process))
        self.endpoint = f"http://127.0.0.1:{self._port}"

    def taken(self) -> dict[str, int]:
        """What came since the last call."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        try:
            connection.request("GET", "/")
            counts: dict[str, int] = json.loads(connection.getresponse().read())
        finally:
            connection.close()
        return counts

    def close(self) -> None:
        end(self._process)


class Child:
    """A contender's process."""

    def __init__(self, entry: Entry, python: str, folder: Path, endpoint: str) -> None:
        self.entry = entry
        self._folder = folder / entry.name
        self._folder.mkdir()
        self._log = folder / f"{entry.name}.log"
        self._next = 0
        self._read: dict[Path, int] = {}
        with self._log.open("w") as log:
            self._process = start(
                python, "benchmarks.child", entry.name, str(self._folder), endpoint, stderr=log
            )
        self.versions: dict[str, str] = self._answer()["versions"]

    def ask(self, command: str, sessions: int) -> dict[str, Any]:
        """Let it work: `round` or `profile`. Raises BenchmarkError."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{command} {self._next} {sessions}\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # `_answer` says why it is gone
        self._next += sessions
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        text = line_of(self._process)
        if not text:
            raise BenchmarkError(f"{self.entry.name} ended early:\n{self._log.read_text()[-4000:]}")
        answer: dict[str, Any] = json.loads(text)
        return answer

    def lines(self) -> int:
        """Lines that its file has got since the last call."""
        new = 0
        for path in self._folder.rglob("sessions*.jsonl"):
            with path.open("rb") as file:
                file.seek(self._read.get(path, 0))
                new += file.read().count(b"\n")
                self._read[path] = file.tell()
        return new

    def close(self) -> None:
        end(self._process)


@contextmanager
def running(
    entries: Sequence[Entry], pythons: dict[str, str], folder: Path
) -> Iterator[tuple[Sink, list[Child]]]:
    """The sink and a process for each entry, ready to work. `pythons`: interpreters other than this one."""
    sink = Sink()
    children: list[Child] = []
    try:
        for entry in entries:
            children.append(Child(entry, pythons.get(entry.name, sys.executable), folder, sink.endpoint))
        yield sink, children
    finally:
        for child in children:
            child.close()
        sink.close()


def rounds(sink: Sink, children: Sequence[Child], count: int, sessions: int) -> Iterator[Round]:
    """One round after the other, after one that is not counted. Raises BenchmarkError."""
    order = random.Random(_SEED)
    for number in range(count + 1):
        turn = order.sample(children, len(children))
        results = {child.entry.name: _one(sink, child, sessions) for child in turn}
        if number:
            yield Round([child.entry.name for child in turn], results)


def _one(sink: Sink, child: Child, sessions: int) -> dict[str, float]:
    """What was measured and what arrived. A contender that is quick because it loses something does not count."""
    result = child.ask("round", sessions)
    arrived = {**sink.taken(), "lines": child.lines()}
    entry = child.entry
    for what, each in (("lines", entry.lines), ("spans", entry.spans), ("records", entry.records)):
        if arrived[what] != each * sessions:
            raise BenchmarkError(
                f"{entry.name}: {arrived[what]} {what} arrived of {sessions} sessions, expected {each * sessions}"
            )
    return {**result, **arrived}


def start(python: str, module: str, *arguments: str, stderr: Any = None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [python, "-m", module, *arguments],
        cwd=ROOT,
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
    )


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def end(process: subprocess.Popen[str]) -> None:
    """Close its input, and wait until it has ended by itself."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.close()
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    process.stdout.close()

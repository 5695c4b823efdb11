"""Standard output of the commands: in any encoding, and into readers that leave early."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterable, Iterator
from typing import BinaryIO, NoReturn

from rich.console import Console, RenderableType


class _Output(Console):
    def on_broken_pipe(self) -> None:
        _leave_quietly()


def print_parts(parts: Iterable[RenderableType]) -> None:
    """The parts with an empty line between them."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal of ASCII gets a question mark, not a traceback
    console = _Output(highlight=False, markup=False, emoji=False)
    for at, part in enumerate(parts):
        if at:
            console.print()
        console.print(part)


def write_lines(lines: Iterable[bytes]) -> None:
    """Lines for programs, as they are."""
    with raw_output() as file:
        for line in lines:
            file.write(line)


@contextlib.contextmanager
def raw_output() -> Iterator[BinaryIO]:
    """Standard output for bytes."""
    try:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        _leave_quietly()


def _leave_quietly() -> NoReturn:
    """End well: the reader had enough, as head does. Python would complain again at its exit's flush."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(0)

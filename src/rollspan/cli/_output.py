"""Standard output of the commands: in any encoding, and into readers that leave early."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NoReturn

import click
from rich.console import Console, RenderableType


class _Output(Console):
    def on_broken_pipe(self) -> None:
        leave()


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
    """Standard output for bytes; nothing, where the program was started without one."""
    if sys.stdout is None:
        with Path(os.devnull).open("wb") as nothing:
            yield nothing
        return
    try:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        leave()


def leave(error: OSError | None = None) -> NoReturn:
    """End well where the reader had enough, as head does, and with 1 and a word where its disk is full.

    Python would complain again at its exit's flush.
    """
    with contextlib.suppress(OSError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if error is None or isinstance(error, BrokenPipeError):
        sys.exit(0)
    click.echo(f"rollspan: cannot write to standard output: {error.strerror}", err=True)
    sys.exit(1)

"""Reward functions of the tests, at the top of a module, so that other processes can import them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import rollspan


def length(
    prompt: str, completions: str, prompt_ids: list[int], completion_ids: list[int], **data: Any
) -> float:
    """As many as the answer has tokens."""
    return len(completion_ids)


def same(value: Any) -> Any:
    """What it is given."""
    return value


def pid() -> int:
    """Of the process that scores."""
    return os.getpid()


def with_a_phase(value: float) -> float:
    """Works in a phase of its own."""
    with rollspan.phase("parse"):
        return value


def fails(text: str) -> float:
    """Raises."""
    raise KeyError(text)


class UnpicklableError(Exception):
    """Cannot be made again from its arguments."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(f"{one} and {two}")


def fails_with_what_cannot_travel() -> float:
    """Raises what the parent could not make again."""
    raise UnpicklableError("one", "two")


class Loads:
    """Hangs or dies where a process is given it; in the process that made it nothing happens."""

    def __init__(self, how: str, path: str = "") -> None:
        self.how = how
        self.path = path

    def __setstate__(self, state: dict[str, str]) -> None:
        if state["how"] == "hang":
            time.sleep(3600)
        with Path(state["path"]).open("a") as file:
            file.write("x")
        os._exit(7)

    def __call__(self) -> float:
        """Never comes to be called."""
        return 0.0


def leaves() -> float:
    """Ends the program."""
    sys.exit(3)


def hangs(path: str) -> float:
    """Never answers; leaves its pid in a file."""
    _say_pid(path)
    time.sleep(3600)
    return 0.0


def hangs_in_c(path: str) -> float:
    """Never answers, and gives no other thread of its process a turn."""
    _say_pid(path)
    re.match(r"(a+)+$", "a" * 64 + "b")
    return 0.0


def hangs_in_a_child(path: str) -> float:
    """Waits for a program that it started, whose pid is in the file."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"]) as child:
        _say_pid(path, child.pid)
    return 0.0


def dies_once(path: str) -> float:
    """Kills its process the first time; the second time it is 1."""
    if not Path(path).exists():
        _say_pid(path)
        os.kill(os.getpid(), signal.SIGKILL)
    return 1.0


def hangs_once(path: str) -> float:
    """Never answers the first time; the second time it is 1."""
    return 1.0 if Path(path).exists() else hangs(path)


def exits() -> float:
    """Takes its process along."""
    os._exit(7)


def fails_twice(path: str) -> float:
    """Raises the first two times; the third time it is 1."""
    file = Path(path)
    count = len(file.read_text()) if file.exists() else 0
    file.write_text("x" * (count + 1))
    if count < 2:
        raise ValueError("not yet")
    return 1.0


def _say_pid(path: str, pid: int | None = None) -> None:
    temporary = Path(f"{path}.part")
    temporary.write_text(str(pid or os.getpid()))
    temporary.replace(path)

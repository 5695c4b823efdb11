"""Commands as a cluster's user starts them, and what they left in a data directory."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Record = dict[str, Any]

_NOT_INHERITED = (
    "ROLLSPAN_", "OTEL_", "RAY_", "SLURM_", "TORCHELASTIC_", "OMPI_", "PMI_", "RANK", "WORLD_SIZE", "LOCAL_", "MASTER_",
)  # fmt: skip
_BIN = Path(sys.executable).parent
BARE = {
    **{k: v for k, v in os.environ.items() if not k.startswith(_NOT_INHERITED) and "PROXY" not in k.upper()},
    "PATH": f"{_BIN}{os.pathsep}{os.environ.get('PATH', '')}",
    "OMP_NUM_THREADS": "1",
}
"""An environment that says nothing of any job, with this Python's commands first."""
ROLLSPAN = (sys.executable, "-m", "rollspan.cli.main")


class Job:
    """Commands in one folder, of which nothing is left at the end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "rollspan-data"
        self._mark = f"MARK_OF_THIS_TEST={folder}"
        self._started: list[subprocess.Popen[str]] = []

    def program(self, source: str, name: str = "train.py") -> str:
        """Write a program into the folder; its path."""
        path = self.folder / name
        path.write_text(source)
        return str(path)

    def start(self, *command: str, **environ: str) -> subprocess.Popen[str]:
        """Start a command; stderr goes where stdout does."""
        name, _, value = self._mark.partition("=")
        process = subprocess.Popen(
            command,
            cwd=self.folder,
            env={**BARE, name: value, **environ},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._started.append(process)
        return process

    def run(self, *command: str, fails: bool = False, **environ: str) -> str:
        """What a command says, which has to end well, or has to fail."""
        return said(self.start(*command, **environ), fails=fails)

    def rollspan(self, *arguments: str, fails: bool = False, **environ: str) -> str:
        """What the command `rollspan` says."""
        return self.run(*ROLLSPAN, *arguments, fails=fails, **environ)

    def end(self) -> None:
        """Kill whatever is left of the commands, their children's children too.

        torchrun's ranks are no longer in its session and bear the mark; Ray's workers overwrite the mark, by the
        title they give themselves, and stay in the session.
        """
        sessions = {process.pid for process in self._started}
        for found in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                environment = (found / "environ").read_bytes().decode(errors="replace").split("\0")
                if os.getsid(int(found.name)) in sessions or self._mark in environment:
                    os.kill(int(found.name), signal.SIGKILL)
        for process in self._started:
            process.communicate()


def said(process: subprocess.Popen[str], *, fails: bool = False) -> str:
    """What a command says until its end, which has to be a good one, or must not be."""
    output, _ = process.communicate(timeout=300)
    assert bool(process.returncode) == fails, f"exit code {process.returncode}\n{output}"
    return output


def by_file(directory: Path) -> dict[str, list[Record]]:
    """Records by the name of the file they stand in."""
    return {
        path.name: [json.loads(line) for line in path.read_text().splitlines()]
        for path in sorted(directory.glob("sessions-r*.jsonl"))
    }


def written(directory: Path) -> int:
    """How many records are whole in the files so far; they may be in the middle of being written."""
    return sum(path.read_bytes().count(b"\n") for path in directory.glob("sessions-r*.jsonl"))


def records(directory: Path) -> list[Record]:
    """All records of a data directory; none may stand there twice."""
    found = [record for rows in by_file(directory).values() for record in rows]
    ids = [record["session_id"] for record in found]
    assert len(set(ids)) == len(ids), "a session stands there twice"
    return found


def run_ids(found: list[Record]) -> set[str]:
    """The runs that records belong to."""
    return {record["run_id"] for record in found}


def writers(directory: Path) -> dict[str, set[str]]:
    """By file, the processes whose sessions stand in it, for programs that put theirs into `workflow`."""
    found = defaultdict(set)
    for name, rows in by_file(directory).items():
        found[name] |= {row["workflow"] for row in rows}
    return dict(found)


def lines(process: subprocess.Popen[str]) -> Iterator[str]:
    """What a command says, line by line, while it runs."""
    assert process.stdout is not None
    for line in process.stdout:
        yield line.rstrip("\n")

"""AReaL's own files, one JSON object a line, written by an exporter beside the others: no caller waits for a disk."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias

import orjson

from rollspan import exporters, health, switch
from rollspan.config import Settings
from rollspan.exporters.base import Delivered, Result, Retry
from rollspan.exporters.lockedfile import HeldByAnotherError, LockedFile
from rollspan.exporters.ownfile import NO_LOCKS
from rollspan.finished import FinishedTrace
from rollspan.journal import START, Position
from rollspan.spandata import AttributeValue

from .chrome import ChromeEvents
from .records import SessionLines, SessionLines539

NAME: Final = "areal"

SOURCES: Final = {source.kind: source for source in (ChromeEvents, SessionLines, SessionLines539)}

Source: TypeAlias = ChromeEvents | SessionLines


class Output:
    """A file, and who says what a finished trace comes to in it."""

    def __init__(self, path: Path, source: Source, mode: int = Settings.file_mode) -> None:
        """`mode`: its permissions, where it comes to be."""
        self.path = path
        self._source = source
        self._mode = mode

    def open(self) -> None:
        """From now on it is written, for those who may read the records."""
        global _registered  # noqa: PLW0603 - one exporter writes all of them
        if (runtime := switch.runtime()) is not None:
            self._mode = runtime.settings.file_mode
        if not _registered:
            _registered = True
            exporters.also(exporters.Further(NAME, lambda: ArealFiles(_outputs), _about))
        _outputs.append(self)

    def close(self) -> None:
        """No longer."""
        if self in _outputs:
            _outputs.remove(self)

    def about(self) -> dict[str, Any]:
        """What makes another one like it."""
        about = {"path": str(self.path), "kind": self._source.kind, "mode": self._mode}
        return about | self._source.about()

    def known(self) -> set[Any]:
        """Ids of the traces that are in the file."""
        if not self.path.exists():
            return set()
        with self.path.open("rb") as file:
            return set(map(_trace_id, file))

    def write(self, traces: Iterable[FinishedTrace], resource: Mapping[str, AttributeValue]) -> None:
        """Append what these come to. Raises OSError or HeldByAnotherError, and then nothing of it was written."""
        try:
            self.append(line for trace in traces for line in self._source.of(trace, resource))
        except BaseException:
            self._source.renew()
            raise

    def append(self, lines: Iterable[Mapping[str, Any]], patience: float = 0.0) -> None:
        """As `write`, of lines. Another process, which has the file for a moment, is waited for `patience` seconds."""
        data = b"".join(orjson.dumps(line, option=_OPTIONS) for line in lines)
        if not data:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file = self._locked(time.monotonic() + patience)
        try:
            file.append(data)
        finally:
            file.close()

    def _locked(self, until: float) -> LockedFile:
        while True:
            try:
                return LockedFile(self.path, self._mode)
            except HeldByAnotherError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.005)
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    raise
                return LockedFile(self.path, self._mode, locked=False)


_OPTIONS: Final = orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS
_outputs: list[Output] = []
_registered = False


def _about() -> list[dict[str, Any]]:
    return [output.about() for output in _outputs]


def _trace_id(line: bytes) -> Any:
    try:
        found = orjson.loads(line)
        return found.get("trace_id") or found["args"].get("trace_id")
    except (ValueError, KeyError, AttributeError):  # torn, a name, or AReaL's own
        return None


def left(about: Iterable[Mapping[str, Any]]) -> ArealFiles:
    """The exporter of a process that is dead, of which `about` was said; it may have written more than it had noted."""
    outputs = []
    for said in about:
        path = Path(said["path"])
        of_output = ("path", "kind", "mode")
        source = SOURCES[said["kind"]](**{key: said[key] for key in said if key not in of_output})
        is_here = any(folder.is_dir() for folder in path.parents[:3])
        if is_here:  # else the trial was moved, or this is another machine
            outputs.append(Output(path, source, said.get("mode", Settings.file_mode)))
    return ArealFiles(outputs, look_first=True)


class ArealFiles:
    """The exporter. What is written is known by its place in the journal: a retry repeats no file's lines."""

    name = NAME
    timeout = 0.0

    def __init__(self, outputs: list[Output], *, look_first: bool = False) -> None:
        """`look_first`: what is in a file already is not written again."""
        self._outputs = outputs
        self._looks_first = look_first
        self._known: dict[Output, set[Any]] = {}
        self._at: dict[Output, Position] = {}

    def export(
        self, traces: Sequence[FinishedTrace], resource: Mapping[str, AttributeValue], timeout: float
    ) -> Result:
        """Append what `traces` come to, to each file."""
        for output in list(self._outputs):
            at = self._at.get(output, START)
            try:
                new = [t for t in traces if not START < t.at <= at]
                output.write(self._unknown(output, new), resource)
            except HeldByAnotherError:
                return Retry(f"another process is writing {output.path}", after=0.05)
            except OSError as error:
                return Retry(f"cannot write to {output.path}: {error.strerror or error}")
            self._at[output] = traces[-1].at
        return Delivered()

    def _unknown(self, output: Output, traces: Sequence[FinishedTrace]) -> Sequence[FinishedTrace]:
        if not self._looks_first:
            return traces
        if output not in self._known:
            self._known[output] = output.known()
        known = self._known[output]
        return [t for t in traces if f"{t.spans[0].trace_id:032x}" not in known]

    def close(self, timeout: float = 10.0) -> None:
        """Nothing is open between two batches."""

    def abandon(self) -> None:
        """Nothing is open between two batches."""


_waited_in_vain = False


def wait() -> bool:
    """Until all that is over is in the files; not for long, and for one who waited in vain before hardly at all."""
    global _waited_in_vain  # noqa: PLW0603
    try:
        runtime = switch.runtime()
        if runtime is None:
            return True
        done = runtime.flush(0.1 if _waited_in_vain else runtime.settings.exit_timeout, only=NAME)
    except Exception:  # noqa: BLE001
        health.internal_error("compat.areal.wait")
        return False
    _waited_in_vain = not done
    return done

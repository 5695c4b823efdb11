"""AReaL's tracer in a virtual environment of its own, outside of the checkout, made when it is first needed."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

# Without its dependencies: `contenders/areal_tracer.py` says how its tracer's module runs with two of them alone.
# orjson and colorlog are imported by it, and have no part in tracing a session.
_WHEEL = "areal==1.0.4 --hash=sha256:7d7cfab10d9ec0990d9263290a9472366827783b9ad5fce22f56a1add416bdd9\n"
_NEEDS = ("colorlog>=6", "orjson>=3.10")
_MARKER = "installed"
_WANTED = f"{sys.version}\n{_WHEEL}{_NEEDS}\n"


class NoArealError(Exception):
    """It could not be installed; the text says why, and what to do."""


def folder() -> Path:
    """Where it lies."""
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "rollspan" / "bench-areal"


def ready() -> Path | None:
    """Its interpreter, where all is in place."""
    interpreter, marker = folder() / "bin" / "python", folder() / _MARKER
    return interpreter if interpreter.exists() and marker.exists() and marker.read_text() == _WANTED else None


def python(say: Callable[[str], None]) -> Path:
    """Its interpreter. Raises NoArealError. What is about to be downloaded is told to `say`."""
    interpreter = ready()
    if interpreter is not None:
        return interpreter
    home = folder()
    say(
        f"Setting up {home} for AReaL's session tracer. To be downloaded, unless pip has it cached: the wheel of "
        "areal 1.0.4 (1.1 MB), orjson and colorlog (0.2 MB). This happens once."
    )
    interpreter = home / "bin" / "python"
    try:
        venv.create(home, clear=True, with_pip=False)
        requirements = home / "areal.txt"
        requirements.write_text(_WHEEL)
        # The framework's bounds on Python (3.11 and 3.12) are not its tracer's, and all should run on the same one.
        _pip(
            interpreter, "--no-deps", "--require-hashes", "--ignore-requires-python", "-r", str(requirements)
        )
        _pip(interpreter, *_NEEDS)
        (home / _MARKER).write_text(_WANTED)
    except OSError as error:
        raise NoArealError(f"cannot make {home}: {error}") from error
    return interpreter


def _pip(interpreter: Path, *arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--python", str(interpreter), "install", "--quiet", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise NoArealError(
            f"pip could not install AReaL's tracer; --skip areal runs without it\n{done.stderr}"
        )

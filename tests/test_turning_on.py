"""Turning rollspan on by the environment alone, in every process of a job, and what it does when off."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest

QUIET = {f"OTEL_{signal}_EXPORTER": "none" for signal in ("TRACES", "LOGS", "METRICS")}
SITE = Path(sysconfig.get_path("purelib"))


def run(code: str, folder: Path, *command: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """A Python of its own, in `folder`, with `environ` and nothing of the caller's OTEL_ and ROLLSPAN_."""
    program = folder / "program.py"
    program.write_text(code)
    inherited = {
        name: text
        for name, text in os.environ.items()
        if not name.startswith(("OTEL_", "ROLLSPAN_", "SLURM_"))
    }
    return subprocess.run(
        [*command, sys.executable, str(program)] if command else [sys.executable, str(program)],
        capture_output=True,
        text=True,
        cwd=folder,
        env=inherited | environ,
        timeout=120,
        check=True,
    )


def answer(code: str, folder: Path, *command: str, **environ: str) -> Any:
    """The JSON that the program printed last."""
    return json.loads(run(code, folder, *command, **environ).stdout.splitlines()[-1])


def instrument() -> str:
    """The command `opentelemetry-instrument` of this environment."""
    command = Path(sysconfig.get_path("scripts"), "opentelemetry-instrument")
    if not command.exists():
        pytest.skip("opentelemetry-instrument is not installed; `pip install -e .[dev]` brings it")
    return str(command)


TELL = """
import json, os
from rollspan import config
def tell():
    settings = config.resolve().settings
    return [settings.run_id, str(settings.dir), settings.enabled]
"""


def test_the_start_up_files_are_installed() -> None:
    """The environment that runs these tests has rollspan.pth and rollspan.start in it."""
    assert (SITE / "rollspan.pth").is_file()
    assert (SITE / "rollspan.start").is_file()


def test_off_start_up_loads_nothing_of_ours(tmp_path: Path) -> None:
    """Without ROLLSPAN_ENABLED, start-up imports nothing of rollspan and leaves the environment alone."""
    code = (
        "import json, os, sys\n"
        "print(json.dumps([[m for m in sys.modules if m.split('.')[0] == 'rollspan'],"
        " [n for n in os.environ if n.startswith('ROLLSPAN_')]]))"
    )
    assert answer(code, tmp_path) == [[], []]


@pytest.mark.parametrize("word", [None, "0", "false", "No", "off", ""])
def test_off_importing_rollspan_costs_little(tmp_path: Path, word: str | None) -> None:
    """Turned off, `import rollspan` loads no OpenTelemetry, starts no thread and writes nothing."""
    code = (
        "import json, os, sys, threading, rollspan\n"
        "print(json.dumps([[m for m in sys.modules if m.startswith('opentelemetry')],"
        " threading.active_count(), sorted(os.listdir('.')), 'ROLLSPAN_RUN_ID' in os.environ]))"
    )
    environ = {} if word is None else {"ROLLSPAN_ENABLED": word}
    assert answer(code, tmp_path, **environ) == [[], 1, ["program.py"], False]


def test_off_using_the_api_leaves_no_trace(tmp_path: Path) -> None:
    """Turned off, sessions and phases load no OpenTelemetry, start no thread and write nothing."""
    code = (
        "import json, os, sys, threading, rollspan\n"
        "with rollspan.session(task_id=1):\n"
        "    with rollspan.phase('generate', model='m') as span: span.set_attribute('a', 1)\n"
        "one = rollspan.start_session(); one.mark_enqueued()\n"
        "with one.execution(): pass\n"
        "one.mark_accepted(reward=1.0); one.mark_consumed(); rollspan.flush(); rollspan.shutdown()\n"
        "print(json.dumps([[m for m in sys.modules if m.startswith('opentelemetry')],"
        " threading.active_count(), sorted(os.listdir('.'))]))"
    )
    assert answer(code, tmp_path) == [[], 1, ["program.py"]]


def test_on_start_up_loads_nothing_heavy(tmp_path: Path) -> None:
    """Turned on, start-up names the run, and loads no OpenTelemetry, starts no thread, writes nothing."""
    code = (
        "import json, os, sys, threading\n"
        "heavy = ('opentelemetry', 'logging', 'orjson', 'asyncio')\n"
        "print(json.dumps([[m for m in heavy if m in sys.modules],"
        " threading.active_count(), sorted(os.listdir('.')), 'ROLLSPAN_RUN_ID' in os.environ]))"
    )
    assert answer(code, tmp_path, ROLLSPAN_ENABLED="1") == [[], 1, ["program.py"], True]


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_children_of_multiprocessing_are_in_the_run(tmp_path: Path, method: str) -> None:
    """However a child is made, it finds the run and the folder of its parent, from any current folder."""
    code = (
        TELL
        + f"""
import multiprocessing
def child(queue):
    os.chdir("/")
    queue.put(tell())
if __name__ == "__main__":
    context = multiprocessing.get_context({method!r})
    queue = context.SimpleQueue()
    process = context.Process(target=child, args=(queue,))
    process.start(); answer = queue.get(); process.join()
    print(json.dumps([tell(), answer]))
"""
    )
    parent, child = answer(code, tmp_path, ROLLSPAN_ENABLED="1")
    assert parent == child
    assert parent[1:] == [str(tmp_path / "rollspan-data"), True]


def test_grandchildren_by_subprocess_are_in_the_run(tmp_path: Path) -> None:
    """A launcher that never touches rollspan hands the run on to the programs that it starts."""
    (tmp_path / "worker.py").write_text(TELL + "print(json.dumps(tell()))")
    (tmp_path / "launcher.py").write_text(
        "import subprocess, sys, os\n"
        "subprocess.run([sys.executable, os.path.abspath('worker.py')], check=True, cwd='/')\n"
    )
    code = (
        "import subprocess, sys, json\n"
        "runs = [subprocess.run([sys.executable, 'launcher.py'], capture_output=True, text=True, check=True)"
        " for _ in range(2)]\n"
        "print(json.dumps([json.loads(r.stdout) for r in runs]))"
    )
    first, second = answer(code, tmp_path, ROLLSPAN_ENABLED="1")
    assert first == second
    assert first[1:] == [str(tmp_path / "rollspan-data"), True]


def test_two_jobs_are_two_runs(tmp_path: Path) -> None:
    """Programs without a common ancestor that was turned on have run ids of their own."""
    code = TELL + "print(json.dumps(tell()))"
    assert answer(code, tmp_path, ROLLSPAN_ENABLED="1")[0] != answer(code, tmp_path, ROLLSPAN_ENABLED="1")[0]


def test_a_wrong_value_is_reported_once_for_the_whole_job(tmp_path: Path) -> None:
    """Parent and children share the variable; the parent alone says what was expected."""
    code = (
        "import subprocess, sys\nfrom rollspan import config\nconfig.report(config.resolve())\n"
        "for _ in range(2):\n"
        "    subprocess.run([sys.executable, '-c',"
        " 'from rollspan import config; config.report(config.resolve())'], check=True)\n"
    )
    errors = run(code, tmp_path, ROLLSPAN_ENABLED="1", ROLLSPAN_RANK="first").stderr
    assert errors.count("ROLLSPAN_RANK='first'") == 1
    assert "a whole number" in errors


@pytest.mark.parametrize(
    ("code", "times"),
    [
        ("with rollspan.session(): pass", 1),
        ("rollspan.configure(run_id='mine')\nwith rollspan.session(): pass", 0),
        ("pass", 0),
    ],
)
def test_a_name_that_others_cannot_know_is_said_at_the_first_use(
    tmp_path: Path, code: str, times: int
) -> None:
    """A rank whose name of the run was made in it says so when it records, and not before it may have another."""
    rank = {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_SIZE": "2"}
    done = run(f"import rollspan\n{code}", tmp_path, ROLLSPAN_ENABLED="1", **rank)
    assert done.stderr.count("rollspan:") == done.stderr.count("is known to 1 of them") == times


def test_a_wrong_word_for_enabled_is_said_and_means_off(tmp_path: Path) -> None:
    """ROLLSPAN_ENABLED=maybe does not turn anything on, and does not pass in silence."""
    done = run("import os; print('ROLLSPAN_RUN_ID' in os.environ)", tmp_path, ROLLSPAN_ENABLED="maybe")
    assert done.stdout.strip() == "False"
    assert "ROLLSPAN_ENABLED='maybe'" in done.stderr


def test_start_up_goes_on_whatever_happens(tmp_path: Path) -> None:
    """A current folder that is gone is no reason to fail."""
    gone = tmp_path / "gone"
    code = (
        "import os, subprocess, sys\n"
        f"os.mkdir({str(gone)!r}); os.chdir({str(gone)!r}); os.rmdir({str(gone)!r})\n"
        "on = dict(os.environ, ROLLSPAN_ENABLED='1')\n"
        "subprocess.run([sys.executable, '-c', 'print(1)'], check=True, env=on)"
    )
    done = run(code, tmp_path)
    assert (done.stdout, done.stderr) == ("1\n", "")


def test_opentelemetry_instrument_turns_it_on(tmp_path: Path) -> None:
    """Under `opentelemetry-instrument` no variable of ours is needed."""
    code = TELL + "print(json.dumps([tell(), 'ROLLSPAN_RUN_ID' in os.environ]))"
    (_, folder, enabled), handed_on = answer(code, tmp_path, instrument(), **QUIET)
    assert enabled
    assert handed_on
    assert folder == str(tmp_path / "rollspan-data")


def test_opentelemetry_instrument_can_be_told_not_to(tmp_path: Path) -> None:
    """ROLLSPAN_ENABLED=0 keeps rollspan off under `opentelemetry-instrument` too."""
    code = TELL + "print(json.dumps([tell(), 'ROLLSPAN_RUN_ID' in os.environ]))"
    (_, _, enabled), handed_on = answer(code, tmp_path, instrument(), ROLLSPAN_ENABLED="0", **QUIET)
    assert not enabled
    assert not handed_on


def test_the_instrumentor_can_be_undone(tmp_path: Path) -> None:
    """`uninstrument` takes back what `instrument` put into the environment."""
    pytest.importorskip("opentelemetry.instrumentation")
    code = (
        "import json, os\nfrom rollspan.instrumentor import RolloutInstrumentor\n"
        "one = RolloutInstrumentor(); one.instrument(); on = os.environ.get('ROLLSPAN_ENABLED')\n"
        "one.uninstrument(); print(json.dumps([on, os.environ.get('ROLLSPAN_ENABLED')]))"
    )
    assert answer(code, tmp_path) == ["1", None]

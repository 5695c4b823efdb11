"""The `rollspan` command as a whole."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import rollspan
from rollspan.cli.main import COMMANDS

ROLLSPAN = str(Path(sysconfig.get_path("scripts"), "rollspan"))


def call(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `rollspan` with `arguments`."""
    return subprocess.run([ROLLSPAN, *arguments], capture_output=True, text=True, timeout=60, check=False)


def test_help_lists_every_command_and_loads_none() -> None:
    """`rollspan --help` comes without loading a command, OpenTelemetry or torch."""
    done = call("--help")
    assert done.returncode == 0
    assert [word for word in COMMANDS if f"\n  {word} " not in done.stdout] == []
    code = (
        "import sys; from rollspan.cli.main import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "print([m for m in sys.modules if m.startswith(('opentelemetry', 'torch', 'rich', 'rollspan.cli.'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "['rollspan.cli.main']"


def test_the_package_is_the_command_too() -> None:
    """`python -m rollspan` works where the command is not on the path, and calls itself so."""
    done = subprocess.run(
        [sys.executable, "-m", "rollspan", "show", "--help"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Usage: python -m rollspan show")


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_has_help(name: str) -> None:
    """Each listed command exists and explains itself."""
    done = call(name, "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"Usage: rollspan {name}")


def test_a_mistyped_command_is_wrong_use_with_the_nearest_name() -> None:
    """Exit code 2 and what was probably meant."""
    done = call("docter")
    assert done.returncode == 2
    assert "Did you mean doctor?" in done.stderr


def test_version_is_told_both_ways() -> None:
    """`--version` is one line; `version` adds what rollspan runs on."""
    assert call("--version").stdout == f"rollspan {rollspan.__version__}\n"
    told = json.loads(call("version", "--json").stdout)
    assert told["rollspan"] == rollspan.__version__
    assert told["opentelemetry-sdk"]
    assert "opentelemetry-sdk" in call("version").stdout


def test_ctrl_c_leaves_with_130_and_no_traceback() -> None:
    """An interrupted command ends as the shell expects."""
    code = (
        "import signal, sys, types, click\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a background job inherits it ignored
        "from rollspan.cli import main\n"
        "@click.command(name='version')\n"
        "def command():\n"
        "    print('here', flush=True)\n"
        "    import time; time.sleep(60)\n"
        "sys.modules['rollspan.cli.version'] = types.SimpleNamespace(command=command)\n"
        "main.main(['version'])\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "here\n"
        os.kill(child.pid, signal.SIGINT)
        _, errors = child.communicate(timeout=30)
    assert child.returncode == 130
    assert "Traceback" not in errors


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one step with some rollouts."""
    folder = tmp_path_factory.mktemp("run") / "data"
    code = (
        "import rollspan\n"
        "with rollspan.step(1):\n"
        "    for number in range(3):\n"
        "        with rollspan.session(task_id=number): pass"
    )
    environment = os.environ | {"ROLLSPAN_ENABLED": "1", "ROLLSPAN_DIR": str(folder)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    return folder


WRITING = [
    "show",
    "show --json",
    "show --json --slowest 2",
    "timeline",
    "timeline -o -",
    "recover",
    "version",
]


@pytest.mark.parametrize("arguments", WRITING)
def test_an_output_that_takes_no_more_is_no_traceback(arguments: str, data: Path) -> None:
    """On a full disk one line and exit code 1; without a reader, or with no standard output at all, no word and 0."""
    command, *options = arguments.split()
    words = [
        sys.executable,
        "-m",
        "rollspan",
        command,
        *options,
        *([str(data)] if command != "version" else []),
    ]
    for redirection, code, said in (
        (">/dev/full", 1, "No space left on device"),
        (">&-", 0, ""),
        ("| true", 0, ""),
    ):
        script = f"set -o pipefail; (sleep 0.3; exec {shlex.join(words)}) {redirection}"
        done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
        assert done.returncode == code
        assert done.stderr.count("\n") <= 1
        assert said in done.stderr
        assert "Traceback" not in done.stderr

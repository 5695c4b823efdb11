"""`rollspan env`: its output, put where it is meant for, puts a process into the run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROLLSPAN = str(Path(sysconfig.get_path("scripts"), "rollspan"))
TELL = (
    "import json; from rollspan import config; s = config.resolve().settings;"
    "print(json.dumps([s.enabled, s.run_id, str(s.dir), s.role]))"
)


def bare(**more: str) -> dict[str, str]:
    """This environment without what would turn anything on, and with `more`."""
    drop = ("OTEL_", "ROLLSPAN_", "SLURM_", "RAY_", "TORCHELASTIC_")
    return {name: text for name, text in os.environ.items() if not name.startswith(drop)} | more


def env(*arguments: str, folder: Path, code: int = 0, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run `rollspan env` in `folder`."""
    done = subprocess.run(
        [ROLLSPAN, "env", *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        env=bare(**environ),
        timeout=60,
        check=False,
    )
    assert done.returncode == code, done.stderr
    return done


def test_a_shell_that_evaluates_it_is_in_the_run(tmp_path: Path) -> None:
    """`eval "$(rollspan env)"` turns on what is started afterwards, quotes and spaces in values included."""
    folder = tmp_path / "it's here"
    folder.mkdir()
    child = f'"{sys.executable}" -c "{TELL}"'
    script = f'eval "$("{ROLLSPAN}" env --role "an actor")"; cd /; {child}; {child}'
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, cwd=folder, env=bare(), timeout=60, check=True
    )
    first, second = map(json.loads, done.stdout.splitlines())
    assert first == second
    assert first[0] is True
    assert first[2:] == [str(folder / "rollspan-data"), "an actor"]


def test_json_and_ray_are_json(tmp_path: Path) -> None:
    """`--format json` is an object of strings; `--format ray` is a runtime_env with it as env_vars."""
    plain = json.loads(env("--format", "json", "--run-id", "r7", folder=tmp_path).stdout)
    assert plain == {
        "ROLLSPAN_ENABLED": "1",
        "ROLLSPAN_RUN_ID": "r7",
        "ROLLSPAN_DIR": str(tmp_path / "rollspan-data"),
    }
    assert json.loads(env("--format", "ray", "--run-id", "r7", folder=tmp_path).stdout) == {"env_vars": plain}


def test_a_pods_values_are_quoted_strings(tmp_path: Path) -> None:
    """In `--format k8s` every value is a quoted string, as YAML would take 1 or yes for something else."""
    lines = env("--format", "k8s", "--role", 'a "b": yes', folder=tmp_path).stdout.splitlines()
    values = [line.partition("value: ")[2] for line in lines if "value: " in line]
    names = [line.partition("name: ")[2] for line in lines if "- name: " in line]
    assert "env:" in lines
    told = dict(zip(names, map(json.loads, values), strict=True))
    assert told["ROLLSPAN_ENABLED"] == "1"
    assert told["ROLLSPAN_ROLE"] == 'a "b": yes'


def test_an_sbatch_file_leaves_the_runs_name_to_slurm(tmp_path: Path) -> None:
    """A file is submitted more than once, so a made name is not in it; one that was asked for is."""
    assert "ROLLSPAN_RUN_ID" not in env("--format", "slurm", folder=tmp_path).stdout
    assert "ROLLSPAN_RUN_ID" not in env("--format", "slurm", folder=tmp_path, ROLLSPAN_ENABLED="1").stdout
    assert "export ROLLSPAN_RUN_ID=r7" in env("--format", "slurm", "--run-id", "r7", folder=tmp_path).stdout
    assert (
        "export ROLLSPAN_RUN_ID=r8" in env("--format", "slurm", folder=tmp_path, ROLLSPAN_RUN_ID="r8").stdout
    )


def test_what_this_shell_has_is_passed_on(tmp_path: Path) -> None:
    """Settings and OTEL_ variables of this shell are in it; the rank, of one process only, is not."""
    told = json.loads(
        env(
            "--format",
            "json",
            folder=tmp_path,
            ROLLSPAN_ENABLED="1",
            ROLLSPAN_RANK="3",
            ROLLSPAN_SPANS="light",
            ROLLSPAN_RUN_ID="r1",
            OTEL_EXPORTER_OTLP_ENDPOINT="http://collector:4318",
        ).stdout
    )
    assert told["ROLLSPAN_SPANS"] == "light"
    assert told["ROLLSPAN_RUN_ID"] == "r1"
    assert told["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://collector:4318"
    assert "ROLLSPAN_RANK" not in told
    assert not [name for name in told if name in ("ROLLSPAN_REPORTED", "ROLLSPAN_HANDED_RUN_ID")]


def test_an_option_beats_the_shell(tmp_path: Path) -> None:
    """An argument is stronger than the environment here too."""
    told = json.loads(
        env(
            *("--format", "json", "--endpoint", "http://b:4318", "--role", "two"),
            folder=tmp_path,
            OTEL_EXPORTER_OTLP_ENDPOINT="http://a:4318",
            ROLLSPAN_ROLE="one",
        ).stdout
    )
    assert told["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://b:4318"
    assert told["ROLLSPAN_ROLE"] == "two"


def test_credentials_are_printed_only_when_asked_for(tmp_path: Path) -> None:
    """Headers stay out of a terminal or a file, with a word that they do."""
    secret = {"OTEL_EXPORTER_OTLP_HEADERS": "authorization=s3cret"}
    done = env("--format", "json", folder=tmp_path, **secret)
    assert "s3cret" not in done.stdout + done.stderr
    assert "OTEL_EXPORTER_OTLP_HEADERS" in done.stderr
    assert "s3cret" in env("--format", "json", "--secrets", folder=tmp_path, **secret).stdout


@pytest.mark.parametrize("arguments", [["--format", "xml"], ["--endpoint", "nonsense"], ["--dir", ""]])
def test_wrong_use_is_exit_code_2(tmp_path: Path, arguments: list[str]) -> None:
    """A wrong value says what was expected and prints no environment."""
    done = env(*arguments, folder=tmp_path, code=2)
    assert done.stdout == ""
    assert "Error" in done.stderr


@pytest.mark.parametrize(
    ("endpoint", "says"),
    [
        ("localhost:4318", "such as http://localhost:4318"),
        ("http://collector:4318/v1/traces", "leave off /v1/traces"),
    ],
)
def test_an_endpoint_of_which_nothing_would_come_is_wrong_use(
    tmp_path: Path, endpoint: str, says: str
) -> None:
    """An address that no process of the run could send to over HTTP is not handed out; over gRPC it is fine."""
    assert says in env("--endpoint", endpoint, folder=tmp_path, code=2).stderr
    done = env("--endpoint", endpoint, folder=tmp_path, OTEL_EXPORTER_OTLP_PROTOCOL="grpc")
    assert f"export OTEL_EXPORTER_OTLP_ENDPOINT={endpoint}\n" in done.stdout


def test_a_wrong_variable_is_a_warning(tmp_path: Path) -> None:
    """What stands wrongly in this shell is said, and the rest is printed."""
    done = env("--format", "json", folder=tmp_path, ROLLSPAN_SPANZ="x")
    assert "did you mean ROLLSPAN_SPANS" in done.stderr
    assert json.loads(done.stdout)["ROLLSPAN_ENABLED"] == "1"

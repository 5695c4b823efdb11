"""`rollspan env`: what other machines and other launchers need in their environment to be in the same run."""

from __future__ import annotations

import json
import os
import shlex
from typing import Any, Final

import click

from rollspan import autostart, config
from rollspan.cli import _endpoints

_OF_ONE_PROCESS: Final = frozenset({"ROLLSPAN_RANK", *config.INTERNAL})
_SECRET: Final = ("_HEADERS", "_CLIENT_KEY")


def wanted(environ: Any, arguments: dict[str, str | None], endpoint: str | None) -> dict[str, str]:
    """Variables for every process of the run: rollspan's, resolved, and OpenTelemetry's as they are."""
    resolved = autostart.resolved if autostart.resolved and not any(arguments.values()) else None
    resolved = resolved or config.resolve(environ, **arguments)
    for problem in resolved.problems:
        if problem.variable.startswith("argument "):
            raise click.UsageError(str(problem))
        click.echo(f"Warning: {problem}", err=True)
    if endpoint is not None and (
        wrong := _endpoints.problem(
            "--endpoint", endpoint, grpc=_endpoints.grpc_is_meant(environ), common=True
        )
    ):
        raise click.UsageError(wrong)
    settings = resolved.settings
    given = {
        name: text
        for name, text in sorted(environ.items())
        if name.startswith(("ROLLSPAN_", "OTEL_")) and text and name not in _OF_ONE_PROCESS
    }
    ours: dict[str, Any] = {
        "ROLLSPAN_ENABLED": "1",
        "ROLLSPAN_RUN_ID": settings.run_id,
        "ROLLSPAN_DIR": settings.dir,
        "ROLLSPAN_JOURNAL_DIR": settings.journal_dir,
        "ROLLSPAN_ROLE": settings.role,
        "ROLLSPAN_SYSTEM": settings.system,
        "ROLLSPAN_ALGORITHM": settings.algorithm,
        "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
    }
    return {name: str(text) for name, text in ours.items() if text is not None} | {
        name: text for name, text in given.items() if ours.get(name) is None
    }


def _shell(variables: dict[str, str]) -> str:
    return "\n".join(f"export {name}={shlex.quote(text)}" for name, text in variables.items())


def _json(variables: dict[str, str]) -> str:
    return json.dumps(variables, indent=2)


def _ray(variables: dict[str, str]) -> str:
    return json.dumps({"env_vars": variables}, indent=2)


def _k8s(variables: dict[str, str]) -> str:
    # A JSON string is a YAML string, whatever is in it.
    entries = [f"  - name: {name}\n    value: {json.dumps(text)}" for name, text in variables.items()]
    return "\n".join(["# ROLLSPAN_DIR has to be on a volume that outlives the pod.", "env:", *entries])


def _slurm(variables: dict[str, str]) -> str:
    lines = ["# Into the sbatch file, above srun. The run's name is the job's id, new at each submission."]
    return "\n".join([*lines, _shell(variables)])


FORMATS: Final = {"shell": _shell, "json": _json, "ray": _ray, "k8s": _k8s, "slurm": _slurm}


@click.command(name="env")
@click.option(
    "--format", "form", type=click.Choice(list(FORMATS)), default="shell", show_default=True, help="For whom."
)
@click.option("--dir", "folder", metavar="DIR", help="ROLLSPAN_DIR, as the processes of the run see it.")
@click.option(
    "--run-id", metavar="NAME", help="ROLLSPAN_RUN_ID; made if neither this nor a launcher says it."
)
@click.option("--role", metavar="NAME", help="ROLLSPAN_ROLE, the part that these processes have.")
@click.option("--system", metavar="NAME", help="ROLLSPAN_SYSTEM, the training framework.")
@click.option("--algorithm", metavar="NAME", help="ROLLSPAN_ALGORITHM.")
@click.option("--endpoint", metavar="URL", help="OTEL_EXPORTER_OTLP_ENDPOINT, such as http://collector:4318.")
@click.option("--secrets", is_flag=True, help="Print variables that hold credentials too.")
def command(
    form: str,
    folder: str | None,
    run_id: str | None,
    role: str | None,
    system: str | None,
    algorithm: str | None,
    endpoint: str | None,
    secrets: bool,
) -> None:
    """Print the environment that puts other processes into this run, from this shell's and the options.

    \b
        eval "$(rollspan env)"
        ray job submit --runtime-env-json "$(rollspan env --format ray)" -- python train.py

    Exit codes: 0; 2 wrong use.
    """
    arguments: dict[str, str | None] = {
        "dir": folder, "run_id": run_id, "role": role, "system": system, "algorithm": algorithm,
        "endpoint": endpoint,
    }  # fmt: skip
    variables = wanted(os.environ, arguments, endpoint)
    if form == "slurm" and run_id is None and not _users_own_run_id():
        del variables["ROLLSPAN_RUN_ID"]  # a file is submitted more than once; SLURM_JOB_ID names each run
    hidden = [] if secrets else [name for name in variables if name.endswith(_SECRET)]
    for name in hidden:
        del variables[name]
    click.echo(FORMATS[form](variables))
    if hidden:
        click.echo(f"Not printed: {', '.join(hidden)} (credentials; --secrets prints them)", err=True)


def _users_own_run_id() -> bool:
    given = os.environ.get("ROLLSPAN_RUN_ID", "").strip()
    return bool(given) and given != os.environ.get(config.HANDED_RUN_ID)

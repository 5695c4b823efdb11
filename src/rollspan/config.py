"""Settings: one frozen dataclass; an argument beats the environment, which beats the default.

A wrong value never raises: it becomes a `Problem`, and the next source is used. Nothing heavy is imported
here, and no OpenTelemetry: this runs at interpreter start in a job that has rollspan turned on.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterable, Mapping, MutableMapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final, NamedTuple

from . import values

DEFAULT_DIR: Final = "rollspan-data"

REPORTED: Final = "ROLLSPAN_REPORTED"
"""Set by rollspan for children: variables whose wrong values an ancestor has reported, or "-"."""
HANDED_RUN_ID: Final = "ROLLSPAN_HANDED_RUN_ID"
"""Set by rollspan for children: equals ROLLSPAN_RUN_ID where rollspan, not the user, chose it."""
INTERNAL: Final = frozenset({REPORTED, HANDED_RUN_ID, "ROLLSPAN_BUILD_NATIVE"})
"""Variables that are no settings; the last is the build's, in whose shell a program may run."""


@dataclass(frozen=True)
class Settings:
    """What a process does. Sizes are in bytes, times in seconds, `dir` and `journal_dir` absolute."""

    enabled: bool = False
    dir: Path = Path(DEFAULT_DIR)
    journal_dir: Path | None = None
    journal_max_bytes: int = 256 << 20
    journal_keep: bool = False
    file_mode: int = 0o600
    file_max_bytes: int = 0
    spans: str = "auto"
    native: bool = True
    capture_content: bool = False
    attribute_max_bytes: int = 16384
    rank: int = 0
    world_size: int | None = None
    role: str | None = None
    system: str | None = None
    algorithm: str | None = None
    run_id: str = ""
    exit_timeout: float = 2.0
    checkpoint_interval: float = 10.0
    profile_steps: tuple[int, ...] = ()
    torch_scopes: tuple[str, ...] = ()
    sdk_disabled: bool = False
    endpoint: str | None = None
    traces_exporters: tuple[str, ...] = ()
    records_exporters: tuple[str, ...] = ()
    metrics_exporters: tuple[str, ...] = ()

    @property
    def active(self) -> bool:
        """Whether anything is traced: turned on, and OpenTelemetry is not switched off as a whole."""
        return self.enabled and not self.sdk_disabled


class Variable(NamedTuple):
    """How one setting is found: the environment variables asked in turn, and how their text is read."""

    parse: values.Parser
    environment: tuple[str, ...]
    meaning: str


VARIABLES: Final[dict[str, Variable]] = {
    "enabled": Variable(values.boolean, ("ROLLSPAN_ENABLED",), "whether rollspan does anything"),
    "dir": Variable(values.folder, ("ROLLSPAN_DIR",), "folder for everything written"),
    "journal_dir": Variable(
        values.folder, ("ROLLSPAN_JOURNAL_DIR",), "folder for the journal; chosen by file system if not given"
    ),
    "journal_max_bytes": Variable(
        values.size(64 << 10), ("ROLLSPAN_JOURNAL_MAX_BYTES",), "most that one process's journal may take"
    ),
    "journal_keep": Variable(
        values.boolean, ("ROLLSPAN_JOURNAL_KEEP",), "keep the journal for `rollspan replay`"
    ),
    "file_mode": Variable(values.file_mode, ("ROLLSPAN_FILE_MODE",), "permissions of what is written"),
    "file_max_bytes": Variable(
        values.size(1024, zero=True), ("ROLLSPAN_FILE_MAX_BYTES",), "size that rotates a file; 0 never does"
    ),
    "spans": Variable(
        values.choice("auto", "light", "sdk"), ("ROLLSPAN_SPANS",), "rollspan's own spans or the SDK's"
    ),
    "native": Variable(values.boolean, ("ROLLSPAN_NATIVE",), "whether the parts in C are used, where built"),
    "capture_content": Variable(
        values.boolean, ("ROLLSPAN_CAPTURE_CONTENT",), "record prompts, completions and tool arguments"
    ),
    "attribute_max_bytes": Variable(
        values.size(16), ("ROLLSPAN_ATTRIBUTE_MAX_BYTES",), "size at which an attribute's text is cut"
    ),
    # The nearest launcher first: srun starts mpirun's daemons, and either starts torchrun.
    "rank": Variable(
        values.whole(0),
        ("ROLLSPAN_RANK", "RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID"),
        "number of this process in the job",
    ),
    "world_size": Variable(
        values.whole(1),
        # SLURM_NTASKS is what was asked for, in a batch script too; this is what srun started.
        ("ROLLSPAN_WORLD_SIZE", "WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"),
        "number of processes in the job",
    ),
    "role": Variable(values.label, ("ROLLSPAN_ROLE",), "part of this process in the job"),
    "system": Variable(values.label, ("ROLLSPAN_SYSTEM",), "training framework"),
    "algorithm": Variable(values.label, ("ROLLSPAN_ALGORITHM",), "training algorithm"),
    "run_id": Variable(
        values.label,
        ("ROLLSPAN_RUN_ID", "TORCHELASTIC_RUN_ID", "SLURM_JOB_ID", HANDED_RUN_ID, "RAY_JOB_ID"),
        "name of the run, the same in all of its processes",
    ),
    "exit_timeout": Variable(
        values.seconds(zero=True), ("ROLLSPAN_EXIT_TIMEOUT",), "longest wait for exporters when leaving"
    ),
    "checkpoint_interval": Variable(
        values.seconds(zero=False), ("ROLLSPAN_CHECKPOINT_INTERVAL",), "time between looks at open sessions"
    ),
    "profile_steps": Variable(
        values.numbers, ("ROLLSPAN_PROFILE_STEPS",), "steps that torch.profiler looks at"
    ),
    "torch_scopes": Variable(
        values.some_of("optimizer", "distributed"),
        ("ROLLSPAN_TORCH_SCOPES",),
        "what of torch itself is timed",
    ),
    "sdk_disabled": Variable(values.sdk_disabled, ("OTEL_SDK_DISABLED",), "OpenTelemetry is switched off"),
    "endpoint": Variable(values.endpoint, (), "OTLP receiver for all signals; an argument only"),
    "traces_exporters": Variable(values.names, ("OTEL_TRACES_EXPORTER",), "where traces go"),
    "records_exporters": Variable(values.names, ("OTEL_LOGS_EXPORTER",), "where records go, beside the file"),
    "metrics_exporters": Variable(values.names, ("OTEL_METRICS_EXPORTER",), "where metrics go"),
}

_ENDPOINTS: Final = {
    "traces_exporters": "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "records_exporters": "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT",
    "metrics_exporters": "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
}
COMMON_ENDPOINT: Final = "OTEL_EXPORTER_OTLP_ENDPOINT"


_INSTEAD: Final = {
    **{
        f"ROLLSPAN_{name}": f"OTEL_EXPORTER_OTLP_{name}"
        for name in ("ENDPOINT", "HEADERS", "PROTOCOL", "COMPRESSION", "CERTIFICATE", "INSECURE")
    },
    **{
        f"ROLLSPAN_{name}": f"OTEL_{name}"
        for name in (
            "SERVICE_NAME",
            "RESOURCE_ATTRIBUTES",
            "TRACES_EXPORTER",
            "LOGS_EXPORTER",
            "METRICS_EXPORTER",
        )
    },
}
"""Names that one may expect, and OpenTelemetry's, which are ours too."""


@dataclass(frozen=True)
class Problem:
    """A value that could not be used: where it stood, what was expected, what is used instead.

    Where it is the name that is wrong, the value is None: it may be a secret.
    """

    variable: str
    value: str | None
    expected: str
    used: str

    @property
    def is_lack(self) -> bool:
        """Whether nothing was given where something should be, which the program may still do by `configure`."""
        return self.value == ""

    def __str__(self) -> str:
        said = self.variable if self.value is None else f"{self.variable}={self.value!r}"
        return f"{said}: expected {self.expected}; {self.used}"


SWITCHED_OFF: Final = Problem(
    "OTEL_SDK_DISABLED",
    "true",
    "false, or nothing, where rollspan is turned on",
    "rollspan is off, like all of OpenTelemetry",
)
"""No wrong value in itself: said by the program that would be traced otherwise, and by no other."""


@dataclass(frozen=True)
class Resolved:
    """Settings, and where each came from: "argument", a variable's name, "default" or "made"."""

    settings: Settings
    sources: Mapping[str, str]
    problems: tuple[Problem, ...] = field(default=())


def resolve(environ: Mapping[str, str] | None = None, /, **arguments: Any) -> Resolved:
    """Settings of this process from `arguments` (None = not given) and `environ` (default: os.environ).

    Raises: TypeError for a keyword that is no setting; never for a value.
    """
    environ = os.environ if environ is None else environ
    _check_names(arguments)
    given = {name: value for name, value in arguments.items() if value is not None}
    found: dict[str, Any] = {}
    sources: dict[str, str] = {}
    problems: list[Problem] = []
    for setting in fields(Settings):
        name = setting.name
        wrong: list[tuple[str, str, str]] = []
        value, source = None, ""
        for place, candidate in _candidates(name, given, environ):
            try:
                value = VARIABLES[name].parse(candidate)
            except ValueError as error:
                wrong.append((place, _text(candidate), str(error)))
                continue
            source = place
            break
        else:
            value, source = _fallback(name, setting.default, found, environ)
        found[name] = value
        sources[name] = source.removesuffix(f" {name}")
        used = f"using {shown(name, value)} ({source})"
        problems += [Problem(place, text, expected, used) for place, text, expected in wrong]
    settings = Settings(**found)
    return Resolved(settings, sources, (*problems, *_apart(settings, sources, environ), *_unknown(environ)))


def hand_on(settings: Settings, environ: MutableMapping[str, str] | None = None) -> None:
    """Put the run's name and the folders into `environ` (default: os.environ), for children to find."""
    environ = os.environ if environ is None else environ
    environ["ROLLSPAN_DIR"] = str(settings.dir)
    if settings.journal_dir is not None:
        environ["ROLLSPAN_JOURNAL_DIR"] = str(settings.journal_dir)
    if not settings.run_id:
        return
    if environ.get("ROLLSPAN_RUN_ID") == settings.run_id != environ.get(HANDED_RUN_ID):
        return  # the user's own word, which nothing in a child may overrule
    others = {text for variable, text in _run_ids(environ) if variable != "ROLLSPAN_RUN_ID"}
    if settings.run_id == _made or settings.run_id in others:
        environ[HANDED_RUN_ID] = settings.run_id
    else:
        environ.pop(HANDED_RUN_ID, None)
    environ["ROLLSPAN_RUN_ID"] = settings.run_id


def report(resolved: Resolved, environ: MutableMapping[str, str] | None = None) -> None:
    """Log each problem once in the whole job: children find in `environ` what was said already."""
    environ = os.environ if environ is None else environ
    said = set(environ.get(REPORTED, "").split(",")) - {"", "-"}
    # Slurm starts the tasks of a job side by side; the first one speaks for all.
    silent = environ.get("SLURM_PROCID", "0") != "0"
    for problem in resolved.problems:
        if problem.variable in said:
            continue
        if not problem.variable.startswith("argument "):
            said.add(problem.variable)
            if silent:
                continue
        from . import health  # noqa: PLC0415 - loads logging, which a job without a wrong value need not pay for

        health.warn_once(f"setting.{problem.variable}", "rollspan: %s", problem)
    environ[REPORTED] = ",".join(sorted(said)) or "-"


def _check_names(arguments: Mapping[str, Any]) -> None:
    for name in arguments:
        if name not in VARIABLES:
            raise TypeError(f"rollspan has no setting {name!r}{_guess(name, VARIABLES)}")


def _candidates(name: str, given: Mapping[str, Any], environ: Mapping[str, str]) -> list[tuple[str, object]]:
    """Places and values of one setting, the strongest first."""
    found: list[tuple[str, object]] = [(f"argument {name}", given[name])] if name in given else []
    if name == "run_id":
        return found + list(_run_ids(environ))
    for variable in VARIABLES[name].environment:
        text = environ.get(variable, "").strip()
        if text:
            found.append((variable, text))
    return found


def _run_ids(environ: Mapping[str, str]) -> list[tuple[str, str]]:
    """Names of the run in `environ`, the strongest first.

    One that an ancestor chose gives way to the launcher's own (torchrun's parent makes one for each node),
    but not to Ray's: the driver has no RAY_JOB_ID, and job ids repeat between clusters.
    """
    found = []
    own = environ.get("ROLLSPAN_RUN_ID", "").strip()
    handed = own if own and own == environ.get(HANDED_RUN_ID) else ""
    for variable in VARIABLES["run_id"].environment:
        text = environ.get(variable, "").strip()
        if variable == "ROLLSPAN_RUN_ID" and handed:
            continue
        if variable == HANDED_RUN_ID:
            text = handed
        if text and text != _NO_RUN.get(variable):
            found.append((variable, text))
    return found


def _fallback(
    name: str, default: Any, found: Mapping[str, Any], environ: Mapping[str, str]
) -> tuple[Any, str]:
    """Value and source of a setting that nobody gave."""
    if name == "dir":
        return values.absolute(default), "default"
    if name == "run_id":
        return _make_run_id(), "made"
    if name in _ENDPOINTS:
        if found["endpoint"]:
            return ("otlp",), "argument endpoint"
        for variable in (_ENDPOINTS[name], COMMON_ENDPOINT):
            if environ.get(variable, "").strip():
                return ("otlp",), variable
    return default, "default"


_NO_RUN: Final = {"TORCHELASTIC_RUN_ID": "none", "RAY_JOB_ID": "ffffffff"}
"""What stands for no name: torchrun without --rdzv-id, and workers that Ray starts before it has a job for them."""

_made = ""
_made_in = 0
"""The process that made it; a forked child inherits both."""


def _make_run_id() -> str:
    """A name that sorts by time; one for the life of this process, forked children included."""
    global _made, _made_in  # noqa: PLW0603 - once for the process is the point
    if not _made:
        # os.urandom and not random: the job's own random stream is not ours to advance.
        _made_in = os.getpid()
        _made = f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{os.urandom(3).hex()}"
    return _made


def _apart(settings: Settings, sources: Mapping[str, str], environ: Mapping[str, str]) -> list[Problem]:
    """That the run's name was made where others of the job cannot know it; rank 0 speaks for all.

    A process without a rank may be the one that starts the others, which will inherit the name.
    """
    if settings.rank or sources["rank"] == "default" or sources["run_id"] not in ("made", HANDED_RUN_ID):
        return []
    total = settings.world_size or 1
    here = 1 if (settings.run_id, os.getpid()) == (_made, _made_in) else _on_this_host(environ)
    if here >= total:
        return []
    expected = f"a name, the same in all {total} processes of the job"
    return [
        Problem("ROLLSPAN_RUN_ID", "", expected, f"{settings.run_id}, made here, is known to {here} of them")
    ]


def _on_this_host(environ: Mapping[str, str]) -> float:
    """How many processes of the job the launcher started on this host; infinite if it does not say."""
    for variable in ("LOCAL_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE"):
        text = environ.get(variable, "").strip()
        if text:
            return int(text) if text.isdecimal() and len(text) < 19 else math.inf
    return math.inf


def _unknown(environ: Mapping[str, str]) -> list[Problem]:
    known = {variable for spec in VARIABLES.values() for variable in spec.environment} | INTERNAL
    return [
        Problem(name, None, f"the name of a setting{_guess(name, known - INTERNAL)}", "ignored")
        for name in sorted(environ)
        if name.startswith("ROLLSPAN_") and name not in known
    ]


def _guess(name: str, known: Iterable[str]) -> str:
    import difflib  # noqa: PLC0415 - 10 ms, for the one who mistyped

    near = difflib.get_close_matches(name, [*known, *_INSTEAD], 1)
    return f" (did you mean {_INSTEAD.get(near[0], near[0])}?)" if near else ""


def _text(value: object) -> str:
    """Any wrong value as text; an argument may be an object whose own `str` fails."""
    try:
        return str(value)[:200]
    except Exception:  # noqa: BLE001
        return f"<{type(value).__name__}>"


def shown(name: str, value: object) -> str:
    """The value of a setting as people write it."""
    if name == "file_mode" and isinstance(value, int):
        return f"{value:04o}"
    if value is None:
        return "not set"
    if name.endswith("_bytes") and isinstance(value, int) and value and value % 1024 == 0:
        power = 2 if value % (1 << 20) == 0 else 1
        return f"{value >> (10 * power)}{'KM'[power - 1]}iB"
    if isinstance(value, tuple | list):
        return ",".join(map(str, value)) or "none"
    return str(value)

"""Settings: where each value comes from, and what becomes of a wrong one."""

from __future__ import annotations

import logging
import os
import re
import stat
import subprocess
import sys
from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollspan import config, health, values
from rollspan.config import Settings, hand_on, report, resolve

SOURCE = Path(config.__file__).parent


@pytest.fixture(autouse=True)
def _forget_what_was_said() -> Any:
    health.reset()
    yield
    health.reset()


def test_nothing_given_is_off_with_the_documented_defaults(tmp_path: Path, monkeypatch: Any) -> None:
    """With an empty environment rollspan is off, and its folder is ./rollspan-data, absolute."""
    monkeypatch.chdir(tmp_path)
    resolved = resolve({})
    assert not resolved.settings.enabled
    assert resolved.settings.dir == tmp_path / "rollspan-data"
    assert resolved.settings.file_mode == stat.S_IRUSR | stat.S_IWUSR
    assert resolved.settings.journal_max_bytes == 256 * 2**20
    assert resolved.settings.traces_exporters == ()
    assert resolved.problems == ()
    assert set(resolved.sources) == {setting.name for setting in fields(Settings)}
    assert set(resolved.sources.values()) == {"default", "made"}


def test_an_argument_beats_the_environment_which_beats_the_default() -> None:
    """The strongest source wins, and each setting says which it was."""
    resolved = resolve({"ROLLSPAN_RANK": "3", "ROLLSPAN_ROLE": "actor"}, rank=5)
    assert (resolved.settings.rank, resolved.sources["rank"]) == (5, "argument")
    assert (resolved.settings.role, resolved.sources["role"]) == ("actor", "ROLLSPAN_ROLE")
    assert (resolved.settings.spans, resolved.sources["spans"]) == ("auto", "default")


def test_none_as_an_argument_means_not_given() -> None:
    """A caller that passes on its own optional parameter overrules nothing."""
    assert resolve({"ROLLSPAN_RANK": "3"}, rank=None).settings.rank == 3


def test_settings_cannot_be_changed() -> None:
    """Settings are frozen."""
    with pytest.raises(FrozenInstanceError):
        resolve({}).settings.rank = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        *[("enabled", word, True) for word in ("1", "true", "YES", "On", " 1 ")],
        *[("enabled", word, False) for word in ("0", "false", "NO", "Off")],
        ("journal_max_bytes", "256MiB", 256 * 2**20),
        ("journal_max_bytes", "1 g", 2**30),
        ("journal_max_bytes", "1.5M", 3 * 2**19),
        ("journal_max_bytes", "10MB", 10**7),
        ("journal_max_bytes", "65536", 65536),
        ("file_max_bytes", "0", 0),
        ("file_mode", "0640", 0o640),
        ("file_mode", "644", 0o644),
        ("file_mode", "0o600", 0o600),
        ("spans", "SDK", "sdk"),
        ("world_size", "8", 8),
        ("exit_timeout", "0", 0.0),
        ("checkpoint_interval", "0.5", 0.5),
        ("run_id", "night 7", "night 7"),
        ("traces_exporters", "otlp, console", ("otlp", "console")),
        ("traces_exporters", "none", ()),
    ],
)
def test_a_good_text_is_read(name: str, text: str, value: object) -> None:
    """Every accepted spelling of a value gives that value, from the environment and as an argument."""
    variable = config.VARIABLES[name].environment[0]
    from_environment = resolve({variable: text})
    assert getattr(from_environment.settings, name) == value
    assert from_environment.sources[name] == variable
    assert from_environment.problems == ()
    assert getattr(resolve({}, **{name: text}).settings, name) == value


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("enabled", "maybe"),
        ("enabled", "2"),
        ("journal_max_bytes", "lots"),
        ("journal_max_bytes", "12 parsecs"),
        ("journal_max_bytes", "-1"),
        ("journal_max_bytes", "1"),
        ("journal_max_bytes", "9" * 40),
        ("file_max_bytes", "3"),
        ("file_mode", "0999"),
        ("file_mode", "0400"),
        ("file_mode", "07777"),
        ("spans", "heavy"),
        ("rank", "-1"),
        ("rank", "1.5"),
        ("rank", "٣x"),
        ("world_size", "0"),
        ("exit_timeout", "nan"),
        ("exit_timeout", "-1"),
        ("checkpoint_interval", "0"),
        ("checkpoint_interval", "inf"),
        ("role", "a\x00b"),
        ("role", "x" * 300),
        ("dir", "a\x00b"),
        ("sdk_disabled", "1"),
        ("traces_exporters", "none,otlp"),
        ("traces_exporters", ","),
    ],
)
def test_a_wrong_text_is_a_problem_and_the_default_is_used(name: str, text: str) -> None:
    """A wrong value names the variable, the value, what was expected and what is used; nothing raises."""
    variable = config.VARIABLES[name].environment[0]
    default = getattr(resolve({}).settings, name)
    resolved = resolve({variable: text})
    assert getattr(resolved.settings, name) == default
    (problem,) = resolved.problems
    assert (problem.variable, problem.value) == (variable, text[:200])
    assert problem.expected
    assert "default" in problem.used
    (problem,) = resolve({}, **{name: text}).problems
    assert problem.variable == f"argument {name}"


class Rude:
    """An object that fails at everything a parser may ask of it."""

    def __str__(self) -> str:
        raise RuntimeError("no")

    __repr__ = __str__


@given(
    name=st.sampled_from(sorted(config.VARIABLES)),
    value=st.one_of(
        st.text(),
        st.integers(),
        st.floats(),
        st.booleans(),
        st.binary(),
        st.lists(st.text()),
        st.just(Rude()),
    ),
)
def test_no_argument_value_raises(name: str, value: object) -> None:
    """Whatever is given as a value, there are settings of the right type."""
    resolved = resolve({}, **{name: value})
    got, usual = getattr(resolved.settings, name), getattr(resolve({}).settings, name)
    assert resolved.problems or usual is None or isinstance(got, type(usual))


def test_an_unknown_argument_is_a_type_error_with_the_nearest_name() -> None:
    """A keyword that is no setting is a programming error and says what was probably meant."""
    with pytest.raises(TypeError, match=r"'jornal_dir'.*\(did you mean journal_dir\?\)"):
        resolve({}, jornal_dir="x")


def test_an_unknown_variable_is_a_problem_with_the_nearest_name() -> None:
    """A mistyped ROLLSPAN_ variable does not pass in silence."""
    (problem,) = resolve({"ROLLSPAN_JOURNAL_DIRR": "x", "OTHER": "y"}).problems
    assert problem.variable == "ROLLSPAN_JOURNAL_DIRR"
    expected = (
        "ROLLSPAN_JOURNAL_DIRR: expected the name of a setting (did you mean ROLLSPAN_JOURNAL_DIR?); ignored"
    )
    assert str(problem) == expected
    assert not resolve(
        {"ROLLSPAN_BUILD_NATIVE": "1"}
    ).problems  # of the build, in whose shell a program may run


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"),
        ("OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"),
        ("HEADERS", "OTEL_EXPORTER_OTLP_HEADERS"),
        ("SERVICE_NAME", "OTEL_SERVICE_NAME"),
        ("LOGS_EXPORTER", "OTEL_LOGS_EXPORTER"),
    ],
)
def test_what_opentelemetry_has_a_variable_for_is_pointed_to(name: str, meant: str) -> None:
    """A name that one may expect of us leads to OpenTelemetry's; its value, which may be a secret, is not said."""
    (problem,) = resolve({f"ROLLSPAN_{name}": "s3cret"}).problems
    assert f"did you mean {meant}?" in str(problem)
    assert "s3cret" not in str(problem)


def test_a_wrong_first_variable_leaves_the_second() -> None:
    """ROLLSPAN_RANK is wrong, so RANK counts, and the problem says so."""
    resolved = resolve({"ROLLSPAN_RANK": "first", "RANK": "2"})
    assert (resolved.settings.rank, resolved.sources["rank"]) == (2, "RANK")
    assert "2 (RANK)" in str(resolved.problems[0])


def test_an_empty_variable_is_unset() -> None:
    """An empty variable is the same as none, as everywhere in OpenTelemetry."""
    resolved = resolve({"ROLLSPAN_RANK": "", "ROLLSPAN_DIR": " ", "OTEL_TRACES_EXPORTER": ""})
    assert resolved.problems == ()
    assert resolved.sources["rank"] == resolved.sources["dir"] == "default"


def test_a_file_where_the_folder_should_be_is_a_problem(tmp_path: Path) -> None:
    """ROLLSPAN_DIR that names a file is reported, not run into later."""
    (tmp_path / "taken").write_text("x")
    (problem,) = resolve({"ROLLSPAN_DIR": str(tmp_path / "taken")}).problems
    assert "a file stands there" in problem.expected


@pytest.mark.parametrize(
    ("environ", "traces", "records", "metrics"),
    [
        ({}, (), (), ()),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, ("otlp",), ("otlp",), ("otlp",)),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318"}, ("otlp",), (), ()),
        ({"OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": "http://c:4318"}, (), ("otlp",), ()),
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://c:4318"}, (), (), ("otlp",)),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_METRICS_EXPORTER": "none"},
            ("otlp",),
            ("otlp",),
            (),
        ),
        ({"OTEL_TRACES_EXPORTER": "console"}, ("console",), (), ()),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, ("otlp",), (), ()),
    ],
)
def test_signals_are_on_where_an_exporter_or_an_endpoint_is_named(
    environ: dict[str, str], traces: tuple[str, ...], records: tuple[str, ...], metrics: tuple[str, ...]
) -> None:
    """Nothing named means the file alone; the endpoint of one signal turns on that signal."""
    settings = resolve(environ).settings
    assert settings.traces_exporters == traces
    assert settings.records_exporters == records
    assert settings.metrics_exporters == metrics


def test_an_endpoint_as_argument_turns_on_all_signals() -> None:
    """`configure(endpoint=...)` is for traces, records and metrics."""
    resolved = resolve({}, endpoint="http://localhost:4318")
    assert resolved.settings.traces_exporters == ("otlp",)
    assert resolved.settings.records_exporters == ("otlp",)
    assert resolved.sources["metrics_exporters"] == "argument endpoint"


SRUN = {"SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "8", "SLURM_NTASKS": "64"}


@pytest.mark.parametrize(
    ("environ", "rank", "world_size"),
    [
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "64"}, 0, None),  # a batch script, whatever tasks it asked for
        (SRUN, 5, 8),
        (SRUN | {"PMI_RANK": "3", "PMI_SIZE": "16"}, 3, 16),  # mpiexec, whose daemons srun starts, one a node
        (SRUN | {"OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_SIZE": "16"}, 3, 16),
        (SRUN | {"OMPI_COMM_WORLD_RANK": "1", "RANK": "9", "WORLD_SIZE": "32"}, 9, 32),
        (SRUN | {"RANK": "9", "ROLLSPAN_RANK": "2"}, 2, 8),
    ],
)
def test_the_launcher_that_is_nearest_gives_the_rank(
    environ: dict[str, str], rank: int, world_size: int | None
) -> None:
    """torchrun's rank before MPI's before Slurm's: each of them starts the launchers of the one before."""
    settings = resolve(environ).settings
    assert (settings.rank, settings.world_size) == (rank, world_size)


@pytest.mark.parametrize(
    ("environ", "run_id"),
    [
        ({"ROLLSPAN_RUN_ID": "a", "TORCHELASTIC_RUN_ID": "b", "SLURM_JOB_ID": "c"}, "a"),
        ({"TORCHELASTIC_RUN_ID": "b", "SLURM_JOB_ID": "c", "RAY_JOB_ID": "d"}, "b"),
        ({"TORCHELASTIC_RUN_ID": "none", "SLURM_JOB_ID": "c"}, "c"),
        ({"RAY_JOB_ID": "d"}, "d"),
        ({"ROLLSPAN_RUN_ID": "m", config.HANDED_RUN_ID: "m", "TORCHELASTIC_RUN_ID": "b"}, "b"),
        ({"ROLLSPAN_RUN_ID": "m", config.HANDED_RUN_ID: "m", "RAY_JOB_ID": "d"}, "m"),
        ({"ROLLSPAN_RUN_ID": "new", config.HANDED_RUN_ID: "m", "SLURM_JOB_ID": "c"}, "new"),
    ],
)
def test_the_run_is_named_by_the_first_who_knows(environ: dict[str, str], run_id: str) -> None:
    """The user's word, then the launcher's, then what an ancestor made, then Ray's."""
    assert resolve(environ).settings.run_id == run_id


HOSTS = {"WORLD_SIZE": "16", "LOCAL_WORLD_SIZE": "8", "RANK": "0", "TORCHELASTIC_RUN_ID": "none"}
INHERITED = {"ROLLSPAN_RUN_ID": "m", config.HANDED_RUN_ID: "m"}
MPI = {"OMPI_COMM_WORLD_SIZE": "16", "OMPI_COMM_WORLD_LOCAL_SIZE": "4", "OMPI_COMM_WORLD_RANK": "0"}


@pytest.mark.parametrize(
    ("environ", "known_to"),
    [
        (HOSTS | INHERITED, 8),  # made by torchrun's launcher, of which there is one a host
        (MPI | INHERITED, 4),
        (HOSTS, 1),  # made by the rank itself: no ancestor of it is a Python with rollspan
        (MPI, 1),
        ({"PMI_SIZE": "16", "PMI_RANK": "0"}, 1),
        ({"ROLLSPAN_WORLD_SIZE": "16", "ROLLSPAN_RANK": "0"}, 1),
    ],
)
def test_a_made_name_that_others_of_the_job_cannot_know_is_a_problem(
    environ: dict[str, str], known_to: int
) -> None:
    """A name that is made for a part of the job's processes makes several runs of it, and that is said."""
    resolved = resolve(environ)
    (problem,) = resolved.problems
    assert problem.variable == "ROLLSPAN_RUN_ID"
    assert "all 16 processes" in problem.expected
    assert problem.used == f"{resolved.settings.run_id}, made here, is known to {known_to} of them"


def test_a_name_that_is_handed_on_is_still_known_as_made_here(monkeypatch: Any) -> None:
    """A rank knows after start-up that it made the name itself, and its forked child that it inherited it."""
    environ = dict(MPI)
    hand_on(resolve(environ).settings, environ)
    assert "is known to 1 of them" in str(resolve(environ).problems[0])
    monkeypatch.setattr(os, "getpid", lambda: -1)
    assert "is known to 4 of them" in str(resolve(environ).problems[0])


@pytest.mark.parametrize(
    "more",
    [
        {"ROLLSPAN_RUN_ID": "mine"},
        {"TORCHELASTIC_RUN_ID": "job"},
        {"SLURM_JOB_ID": "7"},
        {"RANK": "8"},  # the first one speaks for all
        {"WORLD_SIZE": "8"},
        {"WORLD_SIZE": "many"},
        {"LOCAL_WORLD_SIZE": ""},
        {"LOCAL_WORLD_SIZE": "9" * 5000},  # more digits than Python reads
    ],
)
def test_a_name_that_all_know_is_none(more: dict[str, str]) -> None:
    """Nothing is said of the name where all have it, where all are here, and where that is not known."""
    environ = HOSTS | INHERITED | more
    assert "ROLLSPAN_RUN_ID" not in {problem.variable for problem in resolve(environ).problems}
    assert resolve(HOSTS, run_id="mine").problems == ()
    assert resolve({"WORLD_SIZE": "8"}).problems == ()  # it will start the others


@pytest.mark.parametrize("environ", [{"TORCHELASTIC_RUN_ID": "none"}, {"RAY_JOB_ID": "ffffffff"}], ids=str)
def test_what_stands_for_no_name_is_none(environ: dict[str, str]) -> None:
    """What torchrun sets without a name, and Ray in workers that have no job yet, does not name the run."""
    assert resolve(environ).sources["run_id"] == "made"


def test_a_made_run_id_is_made_once_and_sorts_by_time() -> None:
    """All looks in one process give the same made id, of the form date-time-random."""
    first = resolve({}).settings.run_id
    assert re.fullmatch(r"\d{8}-\d{6}-[0-9a-f]{6}", first)
    assert resolve({}).settings.run_id == first


def test_children_resolve_what_was_handed_on(tmp_path: Path, monkeypatch: Any) -> None:
    """What is handed on names the same run and folders from any other folder."""
    monkeypatch.chdir(tmp_path)
    environ = {"ROLLSPAN_DIR": "data", "ROLLSPAN_JOURNAL_DIR": "fast"}
    parent = resolve(environ).settings
    hand_on(parent, environ)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    child = resolve(environ)
    assert child.settings.dir == parent.dir == tmp_path / "data"
    assert child.settings.journal_dir == parent.journal_dir == tmp_path / "fast"
    assert child.settings.run_id == parent.run_id
    assert child.problems == ()


def test_a_handed_on_id_gives_way_to_the_launchers_but_the_users_does_not() -> None:
    """torchrun's parent may have made an id of its own on each node; one that the user gave stays."""
    made: dict[str, str] = {}
    hand_on(resolve(made).settings, made)
    assert resolve(made | {"TORCHELASTIC_RUN_ID": "job"}).settings.run_id == "job"
    users = {"ROLLSPAN_RUN_ID": "mine", "SLURM_JOB_ID": "mine"}
    hand_on(resolve(users).settings, users)
    assert resolve(users | {"TORCHELASTIC_RUN_ID": "job"}).settings.run_id == "mine"
    argument: dict[str, str] = {}
    hand_on(resolve(argument, run_id="arg").settings, argument)
    assert resolve(argument | {"TORCHELASTIC_RUN_ID": "job"}).settings.run_id == "arg"


def test_a_problem_is_reported_once_in_the_job(caplog: Any) -> None:
    """The first process logs it with what was expected; one that inherits its environment stays silent."""
    environ = {"ROLLSPAN_RANK": "x"}
    with caplog.at_level(logging.WARNING, logger="rollspan"):
        report(resolve(environ), environ)
        health.reset()  # as in a child
        report(resolve(environ), environ)
    (record,) = caplog.records
    assert "ROLLSPAN_RANK='x'" in record.getMessage()
    assert "a whole number" in record.getMessage()


def test_of_slurm_tasks_the_first_reports(caplog: Any) -> None:
    """Tasks that Slurm starts side by side have no common ancestor; only task 0 speaks."""
    for task in ("1", "0", "2"):
        environ = {"ROLLSPAN_RANK": "x", "SLURM_PROCID": task}
        health.reset()
        report(resolve(environ), environ)
    assert len(caplog.records) == 1


def test_a_wrong_argument_is_reported_by_each_process(caplog: Any) -> None:
    """What a child's own code gives wrongly is not silenced by its parent's report."""
    environ: dict[str, str] = {}
    for _ in range(2):
        health.reset()
        report(resolve(environ, rank="x"), environ)
    assert len(caplog.records) == 2


def test_every_variable_that_the_source_names_is_known() -> None:
    """No module reads a ROLLSPAN_ variable that would be reported as a typing mistake."""
    named = {
        variable
        for path in SOURCE.rglob("*.py")
        for variable in re.findall(r"\bROLLSPAN_[A-Z_]*[A-Z]\b", path.read_text())
    }
    known = {variable for spec in config.VARIABLES.values() for variable in spec.environment}
    assert named - {"ROLLSPAN_"} <= known | config.INTERNAL
    assert "ROLLSPAN_ENABLED" in named


def test_every_setting_has_a_way_to_be_given() -> None:
    """The table of variables and the dataclass list the same settings."""
    assert list(config.VARIABLES) == [setting.name for setting in fields(Settings)]


def test_active_needs_the_sdk_not_to_be_disabled() -> None:
    """OTEL_SDK_DISABLED=true switches off what ROLLSPAN_ENABLED turned on."""
    environ = {"ROLLSPAN_ENABLED": "1"}
    assert resolve(environ).settings.active
    assert not resolve(environ | {"OTEL_SDK_DISABLED": "TRUE"}).settings.active


def test_config_loads_neither_opentelemetry_nor_logging() -> None:
    """It runs at interpreter start, so it stays with what is cheap."""
    code = (
        "import sys; from rollspan import config; config.report(config.resolve(), {});"
        "print([m for m in ('opentelemetry', 'logging', 'orjson', 'click', 'rich') if m in sys.modules])"
    )
    environ = {name: text for name, text in os.environ.items() if not name.startswith("ROLLSPAN_")}
    command = [sys.executable, "-c", code]
    answer = subprocess.run(command, capture_output=True, text=True, env=environ, check=True)
    assert answer.stdout.strip() == "[]", answer.stderr


def test_a_relative_folder_survives_a_current_folder_that_is_gone(tmp_path: Path, monkeypatch: Any) -> None:
    """A job whose working folder was removed still gets settings."""
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert resolve({"ROLLSPAN_DIR": "data"}).settings.dir == Path("data")


def test_numbers_of_other_libraries_are_numbers() -> None:
    """A rank that has `__index__`, as numpy's integers do, is taken as an integer."""

    class Number:
        def __index__(self) -> int:
            return 4

    assert resolve({}, rank=Number()).settings.rank == 4
    assert values.size(1)(Number()) == 4


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("journal_max_bytes", 256 << 20, "256MiB"),
        ("attribute_max_bytes", 16384, "16KiB"),
        ("attribute_max_bytes", 1000, "1000"),
        ("file_max_bytes", 0, "0"),
        ("file_mode", 0o600, "0600"),
        ("traces_exporters", ("otlp", "console"), "otlp,console"),
        ("traces_exporters", (), "none"),
        ("role", None, "not set"),
    ],
)
def test_a_value_is_shown_as_people_write_it(name: str, value: object, text: str) -> None:
    """Messages and `rollspan doctor` show a value in a form that the setting reads."""
    assert config.shown(name, value) == text
    if value is not None:
        assert config.VARIABLES[name].parse(text) == value

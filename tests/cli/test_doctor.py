"""`rollspan doctor`: settings, endpoints, file systems, journals, and what is wrong with them."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import subprocess
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rollspan import config
from rollspan.testing import OtlpReceiver
from rollspan.testing_receiver import Answer

ROLLSPAN = str(Path(sysconfig.get_path("scripts"), "rollspan"))


def doctor(*arguments: str, folder: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run `rollspan doctor` in `folder`."""
    drop = ("OTEL_", "ROLLSPAN_", "SLURM_", "RAY_", "TORCHELASTIC_")
    inherited = {name: text for name, text in os.environ.items() if not name.startswith(drop)}
    return subprocess.run(
        [ROLLSPAN, "doctor", *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        env=inherited | environ,
        timeout=60,
        check=False,
    )


def report(*arguments: str, folder: Path, **environ: str) -> dict[str, Any]:
    """What it says in JSON; its exit code goes with the problems."""
    done = doctor("--json", *arguments, folder=folder, **environ)
    found: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == (1 if found["problems"] else 0)
    return found


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Any]:
    """A function that lays down a journal's header below tmp_path/data, of a live process if asked."""
    locks: list[int] = []

    def lay(name: str, *, live: bool = False, **header: Any) -> None:
        folder = tmp_path / "data" / "journal" / name
        folder.mkdir(parents=True)
        whole = {"run_id": "r1", "rank": 0, "pid": 1, "host": socket.gethostname(), "started": 1.0} | header
        (folder / "header.json").write_text(json.dumps(whole))
        locks.append(os.open(folder / "owner.lock", os.O_RDWR | os.O_CREAT))
        if live:
            fcntl.flock(locks[-1], fcntl.LOCK_EX | fcntl.LOCK_NB)

    yield lay
    for lock in locks:
        os.close(lock)


def test_a_plain_environment_has_no_problem(tmp_path: Path) -> None:
    """With nothing set it exits with 0, says that rollspan is off, and writes nothing."""
    done = doctor(folder=tmp_path)
    assert done.returncode == 0, done.stdout
    assert "No problem found" in done.stdout
    assert "ROLLSPAN_ENABLED=1 turns it on" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_what_overrules_the_switch_is_noted(tmp_path: Path) -> None:
    """ROLLSPAN_ENABLED=1 is of no use where OpenTelemetry is switched off."""
    notes = report(folder=tmp_path, OTEL_SDK_DISABLED="true", ROLLSPAN_ENABLED="1")["notes"]
    assert any("OTEL_SDK_DISABLED=true switches rollspan off" in n and "although" in n for n in notes)


def test_every_setting_is_listed_with_its_source(tmp_path: Path) -> None:
    """Each setting has a value, where it came from, and the variables that would change it."""
    found = report(folder=tmp_path, ROLLSPAN_ENABLED="1", RANK="2", ROLLSPAN_FILE_MODE="0640")
    settings = found["settings"]
    assert list(settings) == list(config.VARIABLES)
    assert (settings["rank"]["value"], settings["rank"]["source"]) == ("2", "RANK")
    assert (settings["file_mode"]["value"], settings["file_mode"]["source"]) == ("0640", "ROLLSPAN_FILE_MODE")
    assert settings["dir"]["source"] == "default"
    assert settings["run_id"]["source"] == "made"
    text = doctor(folder=tmp_path, ROLLSPAN_FILE_MODE="0640").stdout
    for variable in config.VARIABLES.values():
        assert not variable.environment or variable.environment[0] in text


def test_a_wrong_value_and_a_mistyped_name_are_problems(tmp_path: Path) -> None:
    """Exit code 1, naming the variable, the value, what was expected and what is used."""
    done = doctor(folder=tmp_path, ROLLSPAN_RANK="first", ROLLSPAN_DIRR="x")
    assert done.returncode == 1
    assert "ROLLSPAN_RANK='first': expected a whole number, 0 or more; using 0 (default)" in done.stdout
    assert "did you mean ROLLSPAN_DIR?" in done.stdout


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_an_endpoint_that_takes_data_is_no_problem(
    tmp_path: Path, receiver: OtlpReceiver, protocol: str
) -> None:
    """Each signal's empty request is taken, and came with the headers that a run's would have."""
    found = report(
        folder=tmp_path,
        OTEL_EXPORTER_OTLP_ENDPOINT=receiver.grpc_endpoint if protocol == "grpc" else receiver.endpoint,
        OTEL_EXPORTER_OTLP_PROTOCOL=protocol,
        OTEL_EXPORTER_OTLP_HEADERS="x-key=k1",
    )
    assert [each["signal"] for each in found["endpoints"]] == ["traces", "records", "metrics"]
    assert all(each["accepts"] for each in found["endpoints"])
    assert found["problems"] == []
    assert {request.signal for request in receiver.requests} == {"traces", "logs", "metrics"}
    assert all(request.headers["x-key"] == "k1" and request.body == b"" for request in receiver.requests)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (
            Answer(status=401, message="no key"),
            ("HTTP 401 Unauthorized: no key", "OTEL_EXPORTER_OTLP_HEADERS"),
        ),
        (Answer(status=403), ("HTTP 403", "OTEL_EXPORTER_OTLP_TRACES_HEADERS")),
        (Answer(status=404), ("HTTP 404", "check the address", "OTEL_TRACES_EXPORTER=none")),
        (Answer(status=400), ("HTTP 400", "lost")),
        (Answer(status=503), ("HTTP 503", "stays in its journal")),
    ],
)
def test_an_endpoint_that_refuses_is_a_problem(
    tmp_path: Path, receiver: OtlpReceiver, answer: Answer, said: tuple[str, ...]
) -> None:
    """What it answers is said, with what to do; the other signals are well."""
    receiver.answer(answer, signal="traces")
    (problem,) = report(folder=tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=f"{receiver.endpoint}/")["problems"]
    assert problem.startswith("traces:")
    assert all(part in problem for part in said), problem


def test_a_backend_for_traces_alone_is_noted(tmp_path: Path, receiver: OtlpReceiver) -> None:
    """Jaeger takes neither logs nor metrics, and is endpoint enough."""
    receiver.answer(Answer(status=404), signal="logs")
    receiver.answer(Answer(status=404), signal="metrics")
    found = report(folder=tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint)
    assert found["problems"] == []
    assert any("OTEL_LOGS_EXPORTER=none" in note for note in found["notes"])
    assert any("OTEL_METRICS_EXPORTER=none" in note for note in found["notes"])


def test_an_endpoint_that_does_not_answer_is_a_problem(tmp_path: Path) -> None:
    """Nobody listens on the endpoint of one signal: that signal, and no other, is named."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{closed.getsockname()[1]}"
        found = report(folder=tmp_path, OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=endpoint)
    (problem,) = found["problems"]
    assert problem.startswith(f"traces: {endpoint} does not answer")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_an_address_without_a_scheme_is_a_problem_over_http(tmp_path: Path, host: str) -> None:
    """Something listens there, and nothing can be sent all the same; the answer has the address to write."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"{host}:{server.getsockname()[1]}"
        found = report(folder=tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=address)
    (problem,) = found["problems"]
    assert problem.startswith(f"OTEL_EXPORTER_OTLP_ENDPOINT={address}: expected http:// or https://")
    assert f"such as http://{address};" in problem


@pytest.mark.parametrize(
    ("scheme", "more", "noted", "taken"),
    [
        ("", {}, True, False),
        ("", {"OTEL_EXPORTER_OTLP_INSECURE": "true"}, False, True),
        ("http://", {}, False, True),
        ("https://", {}, False, False),
    ],
)
def test_an_address_without_a_scheme_means_tls_over_grpc(
    tmp_path: Path, receiver: OtlpReceiver, scheme: str, more: dict[str, str], noted: bool, taken: bool
) -> None:
    """The official exporter takes host:port and speaks TLS to it, which is noted where nobody asked for it."""
    found = report(
        folder=tmp_path,
        OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=scheme + receiver.grpc_endpoint.removeprefix("http://"),
        OTEL_EXPORTER_OTLP_TRACES_PROTOCOL="grpc",
        **more,
    )
    assert any("speaks TLS" in note for note in found["notes"]) is noted
    assert bool(receiver.requests) is taken
    assert [problem.partition(":")[0] for problem in found["problems"]] == ([] if taken else ["traces"])


@pytest.mark.parametrize("signal", ["traces", "logs", "metrics"])
def test_a_signals_path_belongs_into_the_variable_for_one_signal(
    tmp_path: Path, receiver: OtlpReceiver, signal: str
) -> None:
    """In the variable for all signals /v1/... is a problem, in that of the one signal it is right."""
    address = f"{receiver.endpoint}/v1/{signal}"
    (problem,) = report(folder=tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=address)["problems"]
    own = f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT"
    assert f"leave off /v1/{signal}" in problem
    assert own in problem
    assert receiver.requests == []
    assert report(folder=tmp_path, **{own: address})["problems"] == []


def test_no_endpoint_means_no_connection(tmp_path: Path) -> None:
    """Without an endpoint nothing is tried, and a note says that there is the file alone."""
    found = report(folder=tmp_path)
    assert found["endpoints"] == []
    assert any("the file of records alone" in note for note in found["notes"])


@pytest.mark.parametrize("arguments", [[], ["--json"]])
def test_credentials_are_not_shown(tmp_path: Path, receiver: OtlpReceiver, arguments: list[str]) -> None:
    """Neither headers nor the password of an address appear in what people paste into issues."""
    receiver.answer(Answer(half=True))
    http, grpc = (address.removeprefix("http://") for address in (receiver.endpoint, receiver.grpc_endpoint))
    for scheme, place, protocol in (
        ("http://", "127.0.0.1:1", ""),
        ("", "127.0.0.1:1", ""),
        ("http://", http, ""),
        ("", grpc, "grpc"),
    ):
        done = doctor(
            *arguments,
            folder=tmp_path,
            OTEL_EXPORTER_OTLP_ENDPOINT=f"{scheme}me:s3cret@{place}",
            OTEL_EXPORTER_OTLP_PROTOCOL=protocol,
            OTEL_EXPORTER_OTLP_HEADERS="authorization=s3cret",
        )
        assert "s3cret" not in done.stdout + done.stderr
        assert place in done.stdout


def test_an_exporter_that_is_not_installed_is_a_problem(tmp_path: Path) -> None:
    """OTEL_TRACES_EXPORTER names something unknown; the answer lists what there is."""
    (problem,) = report(folder=tmp_path, OTEL_TRACES_EXPORTER="zipkinn")["problems"]
    assert "'zipkinn'" in problem
    assert "console" in problem


@pytest.mark.parametrize(("sampler", "told"), [("traceidratio", True), ("always_on", False)])
def test_a_sampler_that_drops_is_noted(tmp_path: Path, sampler: str, told: bool) -> None:
    """What a sampler of the environment means for the records is said where it drops anything."""
    found = report(folder=tmp_path, OTEL_TRACES_SAMPLER=sampler)
    assert any("traces are sampled" in note for note in found["notes"]) is told


def test_the_journals_place_is_told(tmp_path: Path) -> None:
    """One of the folders that the journal may lie in is chosen, with its file system."""
    found = report(folder=tmp_path)["file_systems"]
    chosen = [each for each in found["journal"] if each["chosen"]]
    assert len(chosen) == 1
    assert chosen[0]["type"]
    assert found["data"]["folder"] == str(tmp_path / "rollspan-data")


def test_a_folder_that_cannot_be_made_is_a_problem(tmp_path: Path) -> None:
    """ROLLSPAN_DIR below a file is found before the job runs."""
    (tmp_path / "file").write_text("")
    found = report(folder=tmp_path, ROLLSPAN_DIR=str(tmp_path / "file" / "data"))
    assert any("is no folder" in problem for problem in found["problems"])


@pytest.mark.skipif(
    not Path("/sys/kernel").is_dir(), reason="needs a file system that takes no files from root"
)
def test_a_folder_that_takes_no_files_is_a_problem_for_root_too(tmp_path: Path) -> None:
    """What the permissions allow and the file system refuses is found by trying."""
    (problem,) = report(folder=tmp_path, ROLLSPAN_DIR="/sys/rollspan-data")["problems"]
    assert "/sys cannot be written to" in problem
    assert "set ROLLSPAN_DIR" in problem


def test_the_trial_leaves_nothing_behind(tmp_path: Path) -> None:
    """A data directory that is there is as it was."""
    (tmp_path / "rollspan-data").mkdir()
    assert report(folder=tmp_path)["problems"] == []
    assert list((tmp_path / "rollspan-data").iterdir()) == []


def test_journals_left_behind_are_a_problem_and_live_ones_are_not(tmp_path: Path, journal: Any) -> None:
    """What dead processes left is counted, with the command that delivers it."""
    journal("one", live=True)
    assert report(str(tmp_path / "data"), folder=tmp_path)["problems"] == []
    journal("two")
    found = report(str(tmp_path / "data"), folder=tmp_path)
    assert (found["journals"]["running"], found["journals"]["left"]) == (1, 1)
    (problem,) = found["problems"]
    assert f"rollspan recover {tmp_path / 'data'}" in problem


def test_the_folder_above_is_told_from_a_runs(tmp_path: Path, journal: Any) -> None:
    """The runs below are named: a problem where that folder was asked for, else a note."""
    journal("one")
    said = f"{tmp_path} is no run's folder. Below it are: {tmp_path / 'data'}"
    assert report(str(tmp_path), folder=tmp_path)["problems"] == [said]
    found = report(folder=tmp_path, ROLLSPAN_DIR=str(tmp_path))
    assert found["problems"] == []
    assert said in found["notes"]


def test_processes_of_a_run_that_disagree_are_named(tmp_path: Path, journal: Any) -> None:
    """A setting that differs within a run is listed with each value and who has it."""
    journal("one", live=True, rank=0, pid=11, settings={"spans": "auto", "file_mode": 0o600})
    journal("two", live=True, rank=1, pid=12, settings={"spans": "light", "file_mode": 0o600})
    found = report(str(tmp_path / "data"), folder=tmp_path)
    (difference,) = found["journals"]["disagreements"]
    assert difference["setting"] == "spans"
    assert set(difference["values"]) == {"auto", "light"}
    assert "rank 1, pid 12" in difference["text"]
    assert difference["text"] in found["problems"]


def test_live_processes_of_different_runs_in_one_folder_are_named(tmp_path: Path, journal: Any) -> None:
    """Processes that were meant to be one run, and are not, stand out by their run ids."""
    journal("one", live=True, run_id="r1")
    journal("two", live=True, run_id="r2")
    (difference,) = report(str(tmp_path / "data"), folder=tmp_path)["journals"]["disagreements"]
    assert difference["setting"] == "run_id"
    assert set(difference["values"]) == {"r1", "r2"}


def test_a_damaged_header_does_not_stop_it(tmp_path: Path, journal: Any) -> None:
    """A header cut short by a kill, or of another form, is lived with."""
    journal("one", settings=["not", "a", "mapping"], endpoints=7, run_id=None)
    (tmp_path / "data" / "journal" / "two").mkdir()
    (tmp_path / "data" / "journal" / "two" / "header.json").write_text('{"run_id": "r')
    assert report(str(tmp_path / "data"), folder=tmp_path)["journals"]["disagreements"] == []


def test_a_directory_that_is_not_there_is_wrong_use(tmp_path: Path) -> None:
    """Exit code 2, with what to name instead."""
    done = doctor("nowhere", folder=tmp_path)
    assert done.returncode == 2
    assert "No such directory: nowhere" in done.stderr

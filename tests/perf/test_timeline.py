"""`rollspan timeline`: what is in the file, what is said, how it exits."""

from __future__ import annotations

import gzip
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from rollspan import view
from rollspan.cli.timeline import command
from tests.perf.chrome_trace import faults
from tests.perf.perf_files import BEGIN, a_process, a_scope, a_step, an_instant, write_perf
from tests.perf.perfetto import complaints, query
from tests.view_records import a_record

PROGRAM = """
import asyncio
import rollspan
from rollspan import perf

async def tool(seconds):
    with rollspan.phase("toolcall"):
        await asyncio.sleep(seconds)

async def run(session, refused):
    async with session.execution():
        with rollspan.phase("generate", input_tokens=3, output_tokens=5, weight_version=1):
            await asyncio.sleep(0.01)
        await asyncio.gather(tool(0.01), tool(0.02))
        with rollspan.phase("reward", score=0.5):
            pass
    session.mark_rejected("should_accept_false") if refused else session.mark_accepted()

async def train(step):
    sessions = [rollspan.start_session(task_id=n // 2, group_id=str(n // 2)) for n in range(4)]
    for session in sessions:
        session.mark_enqueued()
    await asyncio.gather(*[run(session, n == 3) for n, session in enumerate(sessions)])
    for session in sessions[:3]:
        session.mark_consumed()

for number in (7, 8):
    with perf.step(number), perf.trace_scope("rollout", category="compute"):
        asyncio.run(train(number))
"""


def timeline(*arguments: object) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def loaded(path: Path) -> dict[str, Any]:
    """The trace in a file, of which the format's checker has nothing to say."""
    text = path.read_bytes()
    trace: dict[str, Any] = json.loads(gzip.decompress(text) if path.suffix == ".gz" else text)
    assert faults(trace) == []
    return trace


def made(folder: Path, *options: object) -> list[dict[str, Any]]:
    """The events of a folder's timeline, in which nothing was damaged."""
    result = timeline(folder, "-o", folder / "t.json", *options)
    assert (result.exit_code, result.stderr) == (0, "")
    events: list[dict[str, Any]] = loaded(folder / "t.json")["traceEvents"]
    return events


def where(events: list[dict[str, Any]], name: str) -> list[str]:
    """The tracks of all events of a name, in order: `process / thread`."""
    names = {(e["name"], e["tid"]): e["args"]["name"] for e in events if e["name"].endswith("_name")}
    return [
        f"{names['process_name', e['pid']]} / {names['thread_name', e['tid']]}"
        for e in events
        if e["name"] == name
    ]


def write_records(path: Path, *records: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


@pytest.fixture
def real(tmp_path: Path, run_program: Callable[..., Any]) -> Path:
    """What a real run of two steps with four rollouts each recorded, and a scope in each step."""
    run_program(PROGRAM, env={"ROLLSPAN_ROLE": "trainer"})
    return tmp_path / "data"


def test_a_real_run_is_on_the_timeline(real: Path) -> None:
    """Every rollout is there with its phases and waits, and what is said counts them."""
    result = timeline(real)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == (
        f"1 rank, 2 steps, 8 sessions, 2 scopes, 0 profiles: {real}/timeline.json.gz, for https://ui.perfetto.dev\n"
    )
    events = loaded(real / "timeline.json.gz")["traceEvents"]
    begun = [event["name"] for event in events if event["ph"] == "b"]
    for name in ("queue_wait", "execution", "generate", "reward"):
        assert begun.count(name) == 8
    assert begun.count("toolcall") == 16
    assert len([name for name in begun if name.startswith("session ") and name.endswith(" · accepted")]) == 6
    assert len([name for name in begun if name.endswith(" · rejected")]) == 2
    assert {event["bind_id"] for event in events if event.get("flow_out")} == {
        event["bind_id"] for event in events if event.get("flow_in")
    }
    assert len([event for event in events if event.get("flow_in")]) == 6


def test_perfetto_reads_a_real_run(real: Path) -> None:
    """Perfetto's importer has no complaint, nests as we do, and has a flow from each session to its step."""
    assert timeline(real).exit_code == 0
    trace = real / "timeline.json.gz"
    assert complaints(trace) == []
    flows, groups, tracks, sessions, scopes = query(
        trace,
        "select f.name as session, t.name as into_, s.name as step from flow"
        " join slice f on f.id = flow.slice_out join slice t on t.id = flow.slice_in"
        " join slice p on p.id = t.parent_id left join slice s on s.id = coalesce(p.parent_id, p.id)",
        "select distinct t.name as name, s.name as outermost, p.name as process from process_track t"
        " join slice s on s.track_id = t.id join process p using (upid) where s.depth = 0",
        "select p.name as process, t.name as thread from thread t join process p using (upid) where t.name is not null",
        "select count(*) as n, max(s.depth) as depth from slice s where s.name like 'session %'",
        "select p.name as step, count(*) as n from slice s join slice p on p.id = s.parent_id where s.name = 'rollout'"
        " group by p.name order by p.name",
    )
    assert sorted(row["step"] for row in flows) == ["step 7"] * 3 + ["step 8"] * 3
    assert all(row["into_"].split()[1] == row["session"].split()[1] for row in flows)
    assert sorted(row["name"] for row in groups) == ["group 0", "group 1"]
    assert all(row["name"] == row["outermost"] for row in groups)
    assert {row["process"] for row in groups} == {"rollouts, rank 0 trainer"}
    (track,) = tracks
    assert track["process"].startswith("rank 0 trainer (")
    assert track["thread"] == "MainThread"
    assert sessions == [{"n": 8, "depth": 1}]
    assert scopes == [{"step": "step 7", "n": 1}, {"step": "step 8", "n": 1}]


def test_records_alone_give_a_timeline(real: Path) -> None:
    """Without files of scopes the rollouts are shown, and no flow begins that has no end."""
    (real / "perf-r0.json").unlink()
    events = made(real)
    assert len([e for e in events if e["ph"] == "b" and e["name"].startswith("session")]) == 8
    assert not any("bind_id" in event for event in events)


def test_scopes_alone_give_a_timeline(tmp_path: Path) -> None:
    """Packed and rotated files of all ranks, in folders too; processes of one number are told apart."""
    write_perf(tmp_path / "perf-r0.json", [a_scope("c", 3, 1, 4)])
    write_perf(tmp_path / "perf-r0.1.json", a_process(), [a_scope("b", 2, 1, 3)])
    write_perf(tmp_path / "b/perf-r1.json.gz", a_process(rank=1, host="b"), [a_scope("a", 1, 1, 2)])
    write_perf(
        tmp_path / "perf-r0.a.11.json",
        a_process(11, role="rollout", threads={11: "MainThread", 12: "Loop"}),
        [a_scope("d", 1, 1, 5, pid=11, tid=12), an_instant("i", 1.5, 6, 5, pid=11, tid=12)],
    )
    events = made(tmp_path)
    assert where(events, "a") == ["rank 1 trainer (b, 10) / MainThread"]
    assert where(events, "b") == where(events, "c") == ["rank 0 trainer (a, 10) / MainThread"]
    assert where(events, "d") == where(events, "i") == ["rank 0 rollout (a, 11) / Loop"]
    assert [e["args"]["name"][:14] for e in events if e["name"] == "process_name"] == [
        "rank 0 rollout",
        "rank 0 trainer",
        "rank 1 trainer",
    ]
    assert [e["ts"] for e in events if e["name"] == "c"] == [2e6]


def test_what_recovery_wrote_again_is_there_once(tmp_path: Path) -> None:
    """An event that is in two files is one event."""
    lines = a_process(), [a_step(1, 0, 1, 1), an_instant("i", 0.5, 2, 1)]
    write_perf(tmp_path / "perf-r0.json", *lines)
    write_perf(tmp_path / "perf-r0.b.5.json", *lines)
    assert timeline(tmp_path, "-o", tmp_path / "t").stdout.startswith("1 rank, 1 step, 0 sessions, 1 scope,")
    assert len(where(made(tmp_path), "step 1")) == 1


def test_tasks_of_one_thread_get_lanes(tmp_path: Path) -> None:
    """What overlaps on a thread without nesting goes to further lanes, which bear its name and a number."""
    write_perf(
        tmp_path / "perf-r0.json",
        a_process(),
        [a_step(1, 0, 9, 1), a_scope("x", 1, 3, 2, trace=2), a_scope("y", 2, 4, 3, trace=3)],
    )
    events = made(tmp_path)
    assert where(events, "step 1") == ["rank 0 trainer (a, 10) / MainThread"]
    assert where(events, "x") == ["rank 0 trainer (a, 10) / MainThread (2)"]
    assert where(events, "y") == ["rank 0 trainer (a, 10) / MainThread (3)"]


def test_overlapping_phases_get_another_id(tmp_path: Path) -> None:
    """Phases that overlap stay below their group, under a second id; those of one session nest."""
    spans = [{"start_ts": BEGIN + s, "end_ts": BEGIN + e} for s, e in ((0.25, 0.5), (0.3, 0.6))]
    phases = {"execution": [{"start_ts": BEGIN + 0.2, "end_ts": BEGIN + 0.7}], "toolcall": spans}
    write_records(tmp_path / "sessions-r0.jsonl", a_record(phases=phases, group_id="17", role="actor"))
    events = made(tmp_path)
    by_id: dict[str, list[str]] = {}
    for event in events:
        if event["ph"] == "b":
            by_id.setdefault(event["id2"]["local"], []).append(event["name"])
    first, second = by_id.values()
    waits = ["queue_wait", "runner_wait"]
    assert first == ["group 17", "session abababab · accepted", *waits, "execution", "toolcall", "post_wait"]
    assert second == ["group 17", "toolcall"]
    (session,) = (e for e in events if e["ph"] == "b" and e["name"].startswith("session"))
    assert session["args"].items() >= {"status": "accepted", "trace_id": "ab" * 16, "task_id": 7}.items()
    assert [e["args"]["name"] for e in events if e["name"] == "process_name"] == ["rollouts, rank 0 actor"]


def test_a_flow_goes_to_the_right_step_of_that_number(tmp_path: Path) -> None:
    """Of steps of one number, as after a restart, the rank's own whose time holds the return; else the nearest."""
    begins = {"r0": 0, "again": 10, "r1": 10}
    write_perf(
        tmp_path / "perf-r0.json",
        a_process(),
        [a_step(3, begins["r0"], 2, 1), a_step(3, begins["again"], 2, 2, trace=2)],
    )
    write_perf(tmp_path / "perf-r1.json", a_process(rank=1), [a_step(3, begins["r1"], 2, 3, trace=3)])
    link = {"links": {"consume_step": 3}}
    returned = {"aa": 1.0, "bb": 11.5, "cc": 9.0, "dd": 13.0}
    write_records(
        tmp_path / "sessions-r0.jsonl",
        *(a_record(session_id=i, wait_return_ts=BEGIN + at, **link) for i, at in returned.items()),
        a_record(session_id="ee", wait_return_ts=BEGIN + 1, links={"consume_step": 99}),
        a_record(session_id="ff", wait_return_ts=None, **link),
    )
    events = made(tmp_path)
    ends = {e["name"]: e["ts"] / 1e6 for e in events if e.get("flow_in")}
    assert ends == {"consume aa": 1.0, "consume bb": 11.5, "consume cc": 10.0, "consume dd": 12.0}
    assert {track for name in ends for track in where(events, name)} == {
        "rank 0 trainer (a, 10) / MainThread"
    }


def test_hundreds_consumed_at_once_are_no_tower(tmp_path: Path) -> None:
    """Sessions that a step got at one moment lie beside one another, for Perfetto too."""
    write_perf(tmp_path / "perf-r0.json", a_process(), [a_step(3, 0, 2, 1)])
    records = [a_record(session_id=f"{n:032x}", links={"consume_step": 3}) for n in range(300)]
    write_records(tmp_path / "sessions-r0.jsonl", *records)
    made(tmp_path)
    ((depth,),) = query(tmp_path / "t.json", "select max(depth) as d from slice where name like 'consume%'")
    assert depth == {"d": 1}
    assert complaints(tmp_path / "t.json") == []


def test_clocks_are_set_by_anchors(tmp_path: Path) -> None:
    """A host whose clock is off is set after that of rank 0, its scopes and its sessions; and that is said."""
    anchor = {"cat": "sync", "key": "start"}
    write_perf(tmp_path / "perf-r0.json", a_process(), [a_scope("clock.anchor", 0, 1, 1, **anchor)])
    write_perf(
        tmp_path / "perf-r1.json",
        a_process(rank=1, host="b"),
        [an_instant("clock.anchor", 6.5, 2, **anchor), a_scope("x", 7.5, 1, 3)],
    )
    write_records(tmp_path / "sessions-r1.jsonl", a_record(rank=1, submit_ts=BEGIN + 8.5))
    result = timeline(tmp_path, "-o", tmp_path / "t.json")
    assert result.stdout.startswith("The clock of b is 5.50 s ahead of that of a; set right here.\n2 ranks, ")
    events = loaded(tmp_path / "t.json")["traceEvents"]
    assert [e["ts"] for e in events if e["name"] == "x"] == [2e6]
    assert next(e["ts"] for e in events if e["ph"] == "b") == 3e6


def test_steps_choose_a_part(tmp_path: Path) -> None:
    """`--steps` keeps what overlaps these steps; a number that is not there exits 1 and says which are."""
    steps = [a_step(n, 10 * n, 9, n + 1, trace=n + 1) for n in range(5)]
    write_perf(tmp_path / "perf-r0.json", a_process(), *([step] for step in steps))
    records = [a_record(session_id=str(n), submit_ts=BEGIN + 10 * n) for n in range(5)]
    write_records(tmp_path / "sessions-r0.jsonl", *records)
    assert timeline(tmp_path, "--steps", "1-2", "-o", tmp_path / "t").stdout.startswith(
        "1 rank, 2 steps, 2 sessions"
    )
    assert {e["name"] for e in made(tmp_path, "--steps", "3") if e["ph"] == "X"} == {"step 3"}
    result = timeline(tmp_path, "--steps", "7-9")
    assert result.exit_code == 1
    assert result.stderr == "rollspan timeline: no step from 7 to 9; there are 0 to 4.\n"
    assert timeline(tmp_path, "--steps", "a").exit_code == 2
    turned = timeline(tmp_path, "--steps", "5-3")
    assert turned.exit_code == 2
    assert "--steps 5-3: expected the lower number first, as in 3-5." in turned.stderr


def test_the_latest_run_is_shown(tmp_path: Path) -> None:
    """Of several runs the latest one is taken, and that is said; `--run` and `--all-runs` take others."""
    write_perf(tmp_path / "perf-r0.json", a_process(run="new"), [a_step(1, 100, 1, 1)])
    write_perf(
        tmp_path / "old/perf-r0.json", a_process(run="old"), [a_step(1, 0, 1, 2), a_scope("x", 0, 1, 3, 2)]
    )
    write_records(
        tmp_path / "sessions-r0.jsonl", a_record(run_id="old"), a_record(session_id="b", run_id="older")
    )
    result = timeline(tmp_path)
    assert result.exit_code == 0
    assert result.stderr == (
        "rollspan timeline: 3 runs are in here, this is the latest; --run ID or --all-runs shows others: "
        "old, older, new\n"
    )
    assert result.stdout.startswith("1 rank, 1 step, 0 sessions, 0 scopes,")
    events = made(tmp_path, "--run", "old")
    assert [e["ts"] for e in events if e["name"] in ("x", "group 0")] == [0.0]
    assert timeline(tmp_path, "--all-runs").stdout.startswith("1 rank, 1 step, 2 sessions, 1 scope,")
    assert timeline(tmp_path, "--run", "z").stderr.startswith(
        "rollspan timeline: no run here begins with 'z'; "
    )


def test_damage_is_named_and_the_rest_is_written(tmp_path: Path) -> None:
    """Torn lines, lines that are no JSON and values that are no events are told with their place, and exit 1."""
    perf = write_perf(tmp_path / "perf-r0.json", a_process(), [a_scope("good", 0, 1, 1)])
    perf.write_bytes(perf.read_bytes() + b'{"name":"x"},\n{]},\n{"name":"torn","ph":"X"')
    (tmp_path / "profile-r0.json").write_text("[]")
    (tmp_path / "profile-r0.2.json").write_text("{")
    (tmp_path / "sessions-r0.jsonl").write_text('{"status": "accepted"}\n{\n')
    (tmp_path / "perf-r1.json.gz").write_bytes(gzip.compress(perf.read_bytes())[:-20])
    result = timeline(tmp_path, "-o", tmp_path / "t.json")
    assert result.exit_code == 1
    for said in (
        "perf-r0.json:4: left out: not an event",
        "perf-r0.json:5: left out: not JSON",
        "perf-r0.json:6: left out: torn",
        "profile-r0.json: left out: no profile",
        "profile-r0.2.json: left out: not JSON",
        "sessions-r0.jsonl:2: left out",
        "perf-r1.json.gz: cannot be read to its end",
        "left out: 1 records without a time",
    ):
        assert said in result.stderr
    assert "good" in {event["name"] for event in loaded(tmp_path / "t.json")["traceEvents"]}


def test_a_file_that_someone_closed_is_read(tmp_path: Path) -> None:
    """The array may be whole, as another tool would leave it."""
    perf = write_perf(tmp_path / "perf-r0.json", a_process(), [a_scope("good", 0, 1, 1)])
    perf.write_bytes(perf.read_bytes()[:-2] + b"]\n")
    assert where(made(tmp_path), "good") == ["rank 0 trainer (a, 10) / MainThread"]


def test_standard_output_gets_the_trace_alone(tmp_path: Path) -> None:
    """`-o -` writes plain JSON to standard output, and what is said to standard error."""
    write_perf(tmp_path / "perf-r0.json", a_process(), [a_scope("x", 0, 1, 1)])
    result = timeline(tmp_path, "-o", "-")
    assert faults(json.loads(result.stdout)) == []
    assert result.stderr == "1 rank, 0 steps, 0 sessions, 1 scope, 0 profiles\n"


def test_what_is_no_file_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    """A link stays a link, a device a device, and what is read is not written over."""
    write_perf(tmp_path / "perf-r0.json", a_process(), [a_step(1, 0, 1, 1)])
    (tmp_path / "there.json").write_text("old")
    (tmp_path / "link.json").symlink_to(tmp_path / "there.json")
    assert timeline(tmp_path, "-o", tmp_path / "link.json").exit_code == 0
    assert (tmp_path / "link.json").is_symlink()
    assert json.loads((tmp_path / "there.json").read_text())["traceEvents"]
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    assert timeline(tmp_path, "-o", tmp_path / "pipe").exit_code == 0
    assert os.read(reader, 10) == b'{"displayT'
    os.close(reader)
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    before = (tmp_path / "perf-r0.json").read_bytes()
    refused = timeline(tmp_path, "-o", tmp_path / "perf-r0.json")
    assert refused.exit_code == 2
    assert "a file that is read" in refused.stderr
    assert (tmp_path / "perf-r0.json").read_bytes() == before


def test_the_file_is_its_owners_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As what it is made of is, whatever the umask, unless ROLLSPAN_FILE_MODE says otherwise."""
    write_perf(tmp_path / "perf-r0.json", a_process(), [a_scope("x", 0, 1, 1)])
    assert timeline(tmp_path).exit_code == 0
    assert stat.S_IMODE((tmp_path / "timeline.json.gz").stat().st_mode) == 0o600
    monkeypatch.setenv("ROLLSPAN_FILE_MODE", "0640")
    assert timeline(tmp_path, "-o", tmp_path / "t.json").exit_code == 0
    assert stat.S_IMODE((tmp_path / "t.json").stat().st_mode) == 0o640


def test_an_empty_folder_is_told(tmp_path: Path) -> None:
    """Nothing to show exits 1 and names what was expected; a folder that is not there is wrong use."""
    result = timeline(tmp_path)
    assert result.exit_code == 1
    assert "expected files named perf-r*.json, profile-r*.json or sessions-r*.jsonl" in result.stderr
    assert list(tmp_path.iterdir()) == []
    assert timeline(tmp_path / "none").exit_code == 2


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    """The error names the file and the option; nothing half is left."""
    write_perf(tmp_path / "perf-r0.json", a_process(), [a_scope("x", 0, 1, 1)])
    result = timeline(tmp_path, "-o", tmp_path / "no" / "t.json")
    assert result.exit_code == 1
    assert f"cannot write {tmp_path}/no/t.json: No such file or directory; -o FILE" in result.stderr


def test_it_is_the_same_every_time(real: Path) -> None:
    """Two timelines of one folder are equal to the byte, and are not read as its input."""
    files = [real / "one.json", real / "two.json"]
    for file in files:
        assert timeline(real, "-o", file).exit_code == 0
    assert files[0].read_bytes() == files[1].read_bytes()
    assert len(view.load(real)) == 8

"""Whatever was recorded, the timeline is well-formed."""

from __future__ import annotations

import io
import json
import random
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollspan.perf.survey import Survey
from rollspan.perf.timeline import Contents, write_timeline
from tests.perf.chrome_trace import faults
from tests.perf.perf_files import BEGIN, a_process, a_scope, a_step, an_instant, write_perf
from tests.perf.perfetto import complaints, query


def a_run(folder: Path, chance: random.Random) -> None:
    """Files of some processes and sessions: scopes overlap, parents are elsewhere, sessions contradict themselves."""
    for pid in range(chance.randrange(3)):
        rank = chance.randrange(2)
        lines = [a_process(pid, rank, chance.choice(["trainer", ""]), chance.choice("ab"))]
        for trace in range(1, chance.randrange(2, 5)):
            lines.append(
                [an_event(chance, trace, number, pid) for number in range(1, chance.randrange(2, 9))]
            )
        write_perf(folder / f"perf-r{rank}.h.{pid}.json", *lines)
    records = [a_session(chance, number) for number in range(chance.randrange(6))]
    (folder / "sessions-r0.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


def a_time(chance: random.Random) -> float:
    return chance.choice([chance.random() * 3, chance.randrange(4), round(chance.random() * 4, 1)])


def an_event(chance: random.Random, trace: int, number: int, pid: int) -> dict[str, Any]:
    place = {"trace": trace, "pid": pid, "tid": chance.choice([pid, pid, 99])}
    span, parent = 100 * trace + number, chance.choice([0, 100 * trace + chance.randrange(1, 9), 7777])
    at, length = a_time(chance), chance.choice([0.0, a_time(chance), 1e-7])
    if chance.random() < 0.2:
        return a_step(chance.randrange(3), at, length, span, **place)
    if chance.random() < 0.2:
        return an_instant(chance.choice(["i", "clock.anchor"]), at, span, parent, key="k", **place)
    return a_scope("x", at, length, span, parent, **place)


def a_session(chance: random.Random, number: int) -> dict[str, Any]:
    record: dict[str, Any] = {
        "status": "accepted",
        "rank": chance.randrange(2),
        "session_id": f"{number}{chance.random()}",
    }
    for field in ("submit_ts", "enqueue_ts", "wait_return_ts"):
        if field == "submit_ts" or chance.random() < 0.8:
            record[field] = BEGIN + a_time(chance)
    for field in ("total_s", "queue_wait_s", "runner_wait_s", "post_wait_s"):
        if chance.random() < 0.8:
            record[field] = a_time(chance)
    spans: dict[str, list[dict[str, float]]] = {}
    for _ in range(chance.randrange(5)):
        begun = BEGIN + a_time(chance)
        span = {"start_ts": begun, "end_ts": begun + a_time(chance)}
        spans.setdefault(chance.choice(["execution", "generate"]), []).append(span)
    links = {"consume_step": chance.randrange(3)}
    return {**record, "phases": spans, "links": links, "group_id": chance.randrange(2)}


def written(folder: Path) -> tuple[bytes, Contents] | None:
    survey = Survey(folder, problems := [])
    assert problems == []
    if survey.is_empty:
        return None
    contents = write_timeline(survey, file := io.BytesIO())
    return file.getvalue(), contents


@settings(max_examples=200, deadline=None)
@given(st.randoms(use_true_random=False))
def test_a_timeline_is_well_formed(chance: random.Random) -> None:
    """Slices nest, begins have ends, flows have both, everything has a name, and nothing is before the beginning."""
    with tempfile.TemporaryDirectory() as folder:
        a_run(Path(folder), chance)
        made = written(Path(folder))
    assert made is None or faults(json.loads(made[0])) == []


@pytest.mark.parametrize("seed", range(3))
def test_perfetto_has_no_complaint(seed: int, tmp_path: Path) -> None:
    """What we hold to be well-formed Perfetto reads as we do: every slice, none left open, no flow lost."""
    chance = random.Random(seed)
    for number in range(40):
        (tmp_path / str(number)).mkdir()
        a_run(tmp_path / str(number), chance)
    made = written(tmp_path)
    assert made is not None
    trace = tmp_path / "t.json"
    trace.write_bytes(made[0])
    events = json.loads(made[0])["traceEvents"]
    assert complaints(trace) == []
    (slices,), (flows,) = query(
        trace, "select count(*) as n, min(dur) as shortest from slice", "select count(*) as n from flow"
    )
    assert slices == {"n": len([e for e in events if e["ph"] in "Xib"]), "shortest": 0}
    assert flows == {"n": len([e for e in events if e.get("flow_in")])}

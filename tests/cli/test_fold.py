"""`rollspan fold` and the Collector's files: spans in, records out."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from rollspan import semconv
from rollspan.cli.fold import command
from rollspan.cli.show import command as show
from rollspan.fold import fold as fold_spans
from rollspan.otlp_json import write_spans
from rollspan.spandata import KIND_INTERNAL, SpanData

BEGIN = 1_760_000_000_000_000_000
SECOND = 1_000_000_000


def a_span(trace: int, index: int, phase: str, start: float, end: float, **attributes: Any) -> SpanData:
    return SpanData(
        trace_id=trace,
        span_id=trace * 100 + index,
        parent_id=0 if index == 1 else trace * 100 + 1,
        name=semconv.ROOT_NAME if phase == semconv.SESSION else phase,
        kind=KIND_INTERNAL,
        start_ns=BEGIN + int(start * SECOND),
        end_ns=BEGIN + int(end * SECOND),
        attributes={semconv.SESSION_ID: f"s{trace}", semconv.PHASE: phase, **attributes},
    )


def a_rollout(trace: int) -> list[SpanData]:
    verdict: dict[str, Any] = {semconv.STATUS: semconv.ACCEPTED, semconv.CONSUMED: True, semconv.RANK: 0}
    return [
        a_span(trace, 1, semconv.SESSION, trace, trace + 2, **verdict, **{semconv.REQUEST_ID: trace}),
        a_span(trace, 2, semconv.EXECUTION, trace, trace + 2),
        a_span(trace, 3, semconv.GENERATE, trace + 0.5, trace + 1.5),
    ]


def a_line(*spans: SpanData) -> bytes:
    return write_spans(spans, {"service.name": "test"})


def fold(*files: str | Path, **options: Any) -> Result:
    return CliRunner().invoke(command, list(map(str, files)), **options)


def test_the_records_are_those_of_the_spans(tmp_path: Path) -> None:
    """Spans of a rollout, spread over lines and files and sent twice, fold to its one record."""
    first, second = tmp_path / "a.json", tmp_path / "b.json.gz"
    one, two = a_rollout(1), a_rollout(2)
    first.write_bytes(a_line(two[0], one[2]) + a_line(one[0]))
    second.write_bytes(gzip.compress(a_line(one[1], *two[1:]) + a_line(one[0])))
    result = fold(first, second)
    assert (result.exit_code, result.stderr) == (0, "")
    assert [json.loads(line) for line in result.stdout.splitlines()] == fold_spans(one + two)


def test_damaged_lines_are_named_and_the_rest_folded(tmp_path: Path) -> None:
    """A torn line exits 1 and is told with its number; the records of the others are printed."""
    path = tmp_path / "traces.json"
    path.write_bytes(a_line(*a_rollout(1)) + b'{"resourceSpans": [\n' + a_line(*a_rollout(2)))
    result = fold(path)
    assert result.exit_code == 1
    assert len(result.stdout.splitlines()) == 2
    assert f"{path}:2: left out" in result.stderr


def test_a_gzip_file_that_is_still_written_gives_what_it_has(tmp_path: Path) -> None:
    """The end of a packed file may be missing; what is before it is folded."""
    path = tmp_path / "traces.json.gz"
    packed = gzip.compress(b"".join(a_line(*a_rollout(trace)) for trace in range(1, 400)))
    path.write_bytes(packed[:-2000])
    result = fold(path)
    assert result.exit_code == 1
    assert result.stdout.splitlines()
    assert "cannot be read to its end" in result.stderr


def test_standard_input_is_read() -> None:
    """`-` folds what a pipe brings."""
    result = fold("-", input=a_line(*a_rollout(3)))
    assert result.exit_code == 0
    assert json.loads(result.stdout)["session_id"] == "s3"


def test_nothing_to_fold_exits_1(tmp_path: Path) -> None:
    """A file without a rollout's spans says what was expected."""
    path = tmp_path / "empty.json"
    path.write_bytes(b"")
    result = fold(path)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "no rollout found" in result.stderr


def test_a_file_of_records_is_told_as_such(tmp_path: Path) -> None:
    """Somebody who folds what needs no folding is told so once, whatever the number of records."""
    traces, records = tmp_path / "traces.json", tmp_path / "sessions-r0.jsonl"
    traces.write_bytes(a_line(*a_rollout(1)))
    records.write_text('{"request_id":0,"status":"accepted"}\n' * 200)
    result = fold(records, traces)
    assert result.exit_code == 1
    assert json.loads(result.stdout)["session_id"] == "s1"
    (said,) = result.stderr.splitlines()
    assert f"{records} holds records already" in said
    assert f"`rollspan show {records}`" in said


@pytest.mark.parametrize("arguments", [[], ["no-such-file"]])
def test_wrong_use_exits_2(arguments: list[str]) -> None:
    """No file, or one that is not there, is wrong use."""
    assert fold(*arguments).exit_code == 2


def test_a_reader_that_leaves_early_is_no_error(tmp_path: Path) -> None:
    """Into `head`, it ends without a word on stderr."""
    path = tmp_path / "traces.json"
    path.write_bytes(b"".join(a_line(*a_rollout(trace)) for trace in range(1, 600)))
    code = "import sys; from rollspan.cli.fold import command; command([sys.argv[1]])"
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert child.stdout is not None
    assert child.stderr is not None
    assert json.loads(child.stdout.readline())["session_id"] == "s1"
    child.stdout.close()
    assert child.stderr.read() == b""
    assert child.wait() == 0
    child.stderr.close()


def test_show_reads_spans_of_a_collector_as_well(tmp_path: Path) -> None:
    """A file of spans needs no detour: `show` folds it."""
    path = tmp_path / "traces.json"
    path.write_bytes(a_line(*a_rollout(1), *a_rollout(2)))
    result = CliRunner().invoke(show, [str(path), "--json"])
    assert result.exit_code == 0
    assert json.loads(result.stdout)["sessions"] == 2


def test_show_reads_record_events_of_a_collector(tmp_path: Path) -> None:
    """A file of the Collector's logs holds the records as events."""
    attributes = [
        {"key": "status", "value": {"stringValue": "accepted"}},
        {"key": "trace_id", "value": {"stringValue": "ab" * 16}},
        {"key": "session_id", "value": {"stringValue": "ab" * 16}},
        {"key": "total_s", "value": {"doubleValue": 1.5}},
    ]
    event = {"timeUnixNano": str(BEGIN), "eventName": semconv.RECORD_EVENT_NAME, "attributes": attributes}
    request = {"resourceLogs": [{"resource": {}, "scopeLogs": [{"scope": {}, "logRecords": [event]}]}]}
    path = tmp_path / "logs.json"
    path.write_text(json.dumps(request) + "\nbroken\n")
    result = CliRunner().invoke(show, [str(path), "--json"])
    assert result.exit_code == 1
    assert json.loads(result.stdout)["durations"]["total"]["max_s"] == 1.5
    assert f"{path}:2: left out" in result.stderr

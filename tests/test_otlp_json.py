"""OTLP/JSON lines as the Collector's file exporter writes them."""

from __future__ import annotations

import math
from typing import Any

import orjson
import pytest

from rollspan.fold import fold_trace
from rollspan.otlp_json import read_records, read_spans, write_records, write_spans
from rollspan.spandata import KIND_CLIENT, STATUS_ERROR, Link, SpanData

from .fold_trees import make_root, make_span

# As a Collector writes it: no parent for the root, unset status {}, 5.0 as 5, an empty list as {}.
COLLECTOR_LINE = (
    '{"resourceSpans":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"x"}}]},'
    '"scopeSpans":[{"scope":{"name":"rollspan"},"spans":['
    '{"traceId":"0123456789abcdef0123456789abcdef","spanId":"00000000000000ab","parentSpanId":"",'
    '"flags":256,"name":"rollout","kind":1,"startTimeUnixNano":"1763937000123456789",'
    '"endTimeUnixNano":"1763937001123456789","attributes":['
    '{"key":"rollout.phase","value":{"stringValue":"session"}},'
    '{"key":"int","value":{"intValue":"9007199254740993"}},'
    '{"key":"double","value":{"doubleValue":5}},'
    '{"key":"bool","value":{"boolValue":false}},'
    '{"key":"list","value":{"arrayValue":{"values":[{"intValue":"1"},{"stringValue":"b"}]}}},'
    '{"key":"empty","value":{"arrayValue":{}}},'
    '{"key":"map","value":{"kvlistValue":{"values":[{"key":"k","value":{"doubleValue":0.5}}]}}},'
    '{"key":"bytes","value":{"bytesValue":"AP8="}},'
    '{"key":"nothing","value":{}}],"status":{}},'
    '{"traceId":"0123456789abcdef0123456789abcdef","spanId":"00000000000000ac",'
    '"parentSpanId":"00000000000000ab","name":"generate","kind":3,"startTimeUnixNano":1763937000123456789,'
    '"endTimeUnixNano":"1763937000123456790","links":[{"traceId":"00000000000000000000000000000005",'
    '"spanId":"0000000000000006","attributes":[{"key":"rollout.link","value":{"stringValue":"dispatch"}}]}],'
    '"status":{"message":"no","code":2}}]}]}]}'
)
TRACE = 0x0123456789ABCDEF0123456789ABCDEF


class Complaints(list[tuple[int, str]]):
    """Collects what a reader reports."""

    def __call__(self, number: int, reason: str) -> None:
        self.append((number, reason))


def test_a_line_of_the_collector_is_read_exactly() -> None:
    """Ids, nanoseconds, big integers, types by their key, links and status are as they were sent."""
    root, generate = read_spans([COLLECTOR_LINE + "\n", "\n"])
    assert root == SpanData(
        TRACE,
        0xAB,
        0,
        "rollout",
        1,
        1763937000123456789,
        1763937001123456789,
        {
            "rollout.phase": "session",
            "int": 9007199254740993,
            "double": 5.0,
            "bool": False,
            "list": [1, "b"],
            "empty": [],
            "map": {"k": 0.5},
            "bytes": b"\x00\xff",
        },
        links=(),
    )
    assert type(root.attributes["double"]) is float
    assert generate == SpanData(
        TRACE,
        0xAC,
        0xAB,
        "generate",
        KIND_CLIENT,
        1763937000123456789,
        1763937000123456790,
        {},
        STATUS_ERROR,
        "no",
        (Link(5, 6, {"rollout.link": "dispatch"}),),
    )


def test_written_spans_are_read_back_as_they_were() -> None:
    """write_spans and read_spans are inverse, numbers that are not finite included."""
    span = make_span(
        2,
        "generate",
        0,
        1,
        attributes={
            "f": 5.0,
            "inf": -math.inf,
            "s": "ü\n",
            "l": [1.0, 2.5],
            "e": [],
            "b": True,
            "i": -(2**63),
        },
        links=(Link(1, 2, {"x": 1}),),
        status=STATUS_ERROR,
        status_message="it broke",
    )
    line = write_spans([make_root(), span], {"service.name": "x", "rank": 1})
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert list(read_spans([line])) == [make_root(), span]
    (nan,) = read_spans([write_spans([make_span(2, "x", 0, 1, attributes={"nan": math.nan})], {})])
    assert math.isnan(nan.attributes["nan"])


def test_a_trace_spread_over_lines_folds_to_its_record() -> None:
    """The Collector spreads a trace over requests and may repeat some; the record is the same."""
    spans = [make_root(), make_span(2, "queue_wait", 0, 100), make_span(3, "x", 100, 200)]
    lines = [write_spans([span], {}) for span in spans]
    assert fold_trace(read_spans([lines[2], lines[0], lines[1], lines[0]])) == fold_trace(spans)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"\xff\xfe\n", "not JSON"),
        ("{nonsense", "not JSON"),
        ("[1]", "got a JSON list"),
        ('{"request_id":0,"rank":1}', "request_id, rank"),
        ('{"resourceSpans":{"a":1}}', "expected a list"),
        ('{"resourceSpans":[{"scopeSpans":[7]}]}', "not an OTLP request"),
        ('{"resourceSpans":[{"scopeSpans":[{"spans":[{"spanId":"00000000000000ab"}]}]}]}', "traceId"),
        (COLLECTOR_LINE.replace("00000000000000ac", "zz"), "expected 16 hex digits"),
        (COLLECTOR_LINE.replace("00000000000000ac", "0000000000000000"), "zeros"),
        (COLLECTOR_LINE.replace('"1763937000123456790"', '"soon"'), "soon"),
        (COLLECTOR_LINE.replace('"1763937000123456790"', '"-5"'), "-5"),
        (COLLECTOR_LINE.replace('"code":2', '"code":"ERROR"'), "ERROR"),
        (COLLECTOR_LINE.replace('"name":"generate"', '"name":5'), "not a string"),
    ],
)
def test_a_damaged_line_is_reported_and_skipped(line: str | bytes, reason: str) -> None:
    """The others are read; the report names the line and what is wrong with it."""
    complaints = Complaints()
    good = write_spans([make_root()], {})
    spans = list(read_spans([good, line, good], complaints))
    assert [span for span in spans if span.span_id == 1] == [make_root()] * 2
    assert [number for number, _ in complaints] == [2]
    assert reason in complaints[0][1]
    assert len(list(read_spans([good, line, good]))) == len(spans)


def test_a_damaged_span_does_not_cost_the_others_of_its_line() -> None:
    """Of two spans on a line with one wrong value, the good one is read."""
    line = COLLECTOR_LINE.replace('"intValue":"9007199254740993"', '"intValue":"many"')
    complaints = Complaints()
    assert [span.name for span in read_spans([line], complaints)] == ["generate"]
    assert len(complaints) == 1


def test_a_whole_line_glued_to_a_torn_one_is_read() -> None:
    """A Collector that was killed continues on its torn line: only the torn part is lost."""
    good = write_spans([make_root()], {})
    torn = write_spans([make_span(9, "x", 0, 1)], {})[:150]
    complaints = Complaints()
    assert list(read_spans([torn + good], complaints)) == [make_root()]
    assert [number for number, _ in complaints] == [1]


def test_other_signals_are_passed_over() -> None:
    """Logs and metrics in the same file are no damage, neither is an empty request."""
    complaints = Complaints()
    lines = [write_records([], {}), b'{"resourceMetrics":[]}', b"{}", write_spans([make_root()], {})]
    assert len(list(read_spans(lines, complaints))) == 1
    assert list(read_records(lines, complaints)) == []
    assert complaints == []


def session_record(trace_id: int) -> dict[str, Any]:
    spans = [make_root(1000), make_span(2, "x", 0, 1000)]
    record = fold_trace([span._replace(trace_id=trace_id) for span in spans])
    assert record is not None
    return record


def test_records_come_back_from_the_logs_file_once() -> None:
    """Record events become records, other events do not, and a repeated delivery counts once."""
    first, second = session_record(1), session_record(2)
    other = write_records([session_record(3)], {}).replace(b"rollout.session", b"somebody.else")
    lines = [write_records([first, second], {}), other, write_records([second], {"a": 1})]
    assert list(read_records(lines)) == [first, second]


def test_whole_doubles_that_lost_their_point_are_doubles_again() -> None:
    """The Collector writes 1.0 as 1; the type's key says what it was."""
    line = write_records([session_record(1)], {}).replace(b'"doubleValue":1.0}', b'"doubleValue":1}')
    assert b'"doubleValue":1}' in line
    (record,) = read_records([line])
    assert record == session_record(1)
    assert type(record["total_s"]) is float


def test_an_event_that_is_no_record_is_reported() -> None:
    """An event of our name without a trace id is damage, not a crash."""
    line = orjson.loads(write_records([session_record(1)], {}))
    event = line["resourceLogs"][0]["scopeLogs"][0]["logRecords"][0]
    event["attributes"] = [item for item in event["attributes"] if item["key"] != "trace_id"]
    complaints = Complaints()
    assert list(read_records([orjson.dumps(line)], complaints)) == []
    assert complaints == [(1, "not a record's event: 'trace_id' is missing")]

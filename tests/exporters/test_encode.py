"""Encoded batches, read back by protobuf's own classes and compared with what went in."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue

import rollspan
from rollspan.exporters.encode import encode_records, encode_spans
from rollspan.finished import FinishedTrace
from rollspan.record import event_attributes, from_event_attributes
from rollspan.spandata import Link, SpanData

from .samples import RESOURCE, changed, session

INT64 = st.integers(-(1 << 63), (1 << 63) - 1)
TEXT = st.text(max_size=40)
DOUBLE = st.floats(allow_nan=False)
SCALAR = st.one_of(TEXT, st.booleans(), INT64, DOUBLE)
LISTS = st.one_of(*(st.lists(kind, max_size=4) for kind in (TEXT, st.booleans(), INT64, DOUBLE)))
ATTRIBUTES = st.dictionaries(TEXT, st.one_of(SCALAR, LISTS), max_size=6)
NESTED = st.recursive(
    SCALAR, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3)
)
MOMENT = st.integers(0, (1 << 64) - 1)
TRACE_ID, SPAN_ID = st.integers(1, (1 << 128) - 1), st.integers(1, (1 << 64) - 1)
LINKS = st.lists(st.builds(Link, TRACE_ID, SPAN_ID, ATTRIBUTES), max_size=3)
SPANS = st.builds(
    SpanData,
    TRACE_ID,
    SPAN_ID,
    st.integers(0, (1 << 64) - 1),
    TEXT,
    st.integers(1, 5),
    MOMENT,
    MOMENT,
    ATTRIBUTES,
    st.integers(0, 2),
    TEXT,
    LINKS,
)


def plain(value: AnyValue) -> Any:
    """The Python value that an AnyValue stands for."""
    kind = value.WhichOneof("value")
    if kind is None:
        return None
    if kind == "array_value":
        return [plain(item) for item in value.array_value.values]
    if kind == "kvlist_value":
        return mapping(value.kvlist_value.values)
    return getattr(value, kind)


def mapping(pairs: Any) -> dict[str, Any]:
    """The dict that a list of KeyValues stands for; no key stands in it twice."""
    assert len({pair.key for pair in pairs}) == len(pairs)
    return {pair.key: plain(pair.value) for pair in pairs}


def typed(value: Any) -> Any:
    """A value that also differs where only the types do: 1, 1.0 and True are equal in Python."""
    if isinstance(value, dict):
        return {key: typed(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [typed(item) for item in value]
    return type(value), value


def spans_of(body: bytes) -> list[Any]:
    request = ExportTraceServiceRequest.FromString(body)
    assert len(request.resource_spans) == len(request.resource_spans[0].scope_spans) == 1
    return list(request.resource_spans[0].scope_spans[0].spans)


def event_of(body: bytes) -> Any:
    request = ExportLogsServiceRequest.FromString(body)
    (event,) = request.resource_logs[0].scope_logs[0].log_records
    return event


@given(st.lists(SPANS, min_size=1, max_size=4))
def test_spans_come_back_as_they_went_in(spans: list[SpanData]) -> None:
    """Every field of every span, link and attribute survives, with its type, and twice gives equal bytes."""
    body = encode_spans([FinishedTrace(spans, None)], RESOURCE)
    read = spans_of(body)
    assert len(read) == len(spans)
    for got, span in zip(read, spans, strict=True):
        assert int.from_bytes(got.trace_id, "big") == span.trace_id
        assert len(got.trace_id) == 16
        assert int.from_bytes(got.span_id, "big") == span.span_id
        assert len(got.span_id) == 8
        assert int.from_bytes(got.parent_span_id, "big") == span.parent_id
        assert len(got.parent_span_id) == (8 if span.parent_id else 0)
        assert (got.name, got.kind) == (span.name, span.kind)
        assert (got.start_time_unix_nano, got.end_time_unix_nano) == (span.start_ns, span.end_ns)
        assert typed(mapping(got.attributes)) == typed(span.attributes)
        assert (got.status.code, got.status.message) == (span.status, span.status_message)
        assert [
            (
                int.from_bytes(k.trace_id, "big"),
                int.from_bytes(k.span_id, "big"),
                typed(mapping(k.attributes)),
            )
            for k in got.links
        ] == [(k.trace_id, k.span_id, typed(k.attributes)) for k in span.links]
    assert encode_spans([FinishedTrace(spans, None)], RESOURCE) == body


@given(st.lists(SPANS, min_size=1, max_size=3))
def test_protobuf_would_write_the_same_bytes(spans: list[SpanData]) -> None:
    """Parsing and serialising again by protobuf changes no byte, so nothing is out of order or redundant.

    A start or end of zero is left out of the comparison: protobuf leaves such a field away.
    """
    moved = [span._replace(start_ns=span.start_ns or 1, end_ns=span.end_ns or 1) for span in spans]
    named = [span._replace(name=span.name or "x") for span in moved]
    no_empty_keys = [
        span._replace(
            attributes={k or "x": v for k, v in span.attributes.items()},
            links=[k._replace(attributes={n or "x": v for n, v in k.attributes.items()}) for k in span.links],
        )
        for span in named
    ]
    body = encode_spans([FinishedTrace(no_empty_keys, None)], RESOURCE)
    assert ExportTraceServiceRequest.FromString(body).SerializeToString(deterministic=True) == body


FIELD = TEXT.filter(lambda name: name not in ("rollout_stats", "counters", "links"))


@given(st.dictionaries(FIELD, NESTED, max_size=5))
@example({"phases": {"generate": [{"start_ts": 1.5, "end_ts": 2.5}], "empty": []}})
def test_structured_values_of_a_record_come_back(record: dict[str, Any]) -> None:
    """Nested mappings and lists of a record's event are OTLP's own structures, whatever is in them."""
    trace = FinishedTrace(session().spans, record)
    event = event_of(encode_records([trace], RESOURCE))
    assert typed(mapping(event.attributes)) == typed(event_attributes(record))


def test_a_record_event_has_the_form_of_the_specification() -> None:
    """Name, time of the root's end, INFO, the root's ids, no body; and the record can be read back."""
    trace = session(5)
    root = trace.spans[0]
    body = encode_records([trace], RESOURCE)
    event = event_of(body)
    assert event.event_name == "rollout.session"
    assert event.time_unix_nano == event.observed_time_unix_nano == root.end_ns
    assert (event.severity_number, event.severity_text) == (9, "")
    assert int.from_bytes(event.trace_id, "big") == root.trace_id
    assert int.from_bytes(event.span_id, "big") == root.span_id
    assert event.flags == 1
    assert not event.HasField("body")
    assert from_event_attributes(mapping(event.attributes)) == trace.record
    assert encode_records([trace], RESOURCE) == body
    assert ExportLogsServiceRequest.FromString(body).SerializeToString(deterministic=True) == body


def test_resource_and_scope_stand_once_in_front() -> None:
    """A batch has one resource and one scope, which bears our name and version."""
    request = ExportTraceServiceRequest.FromString(encode_spans([session(1), session(2)], RESOURCE))
    (group,) = request.resource_spans
    (scoped,) = group.scope_spans
    assert mapping(group.resource.attributes) == RESOURCE
    assert (scoped.scope.name, scoped.scope.version) == ("rollspan", rollspan.__version__)
    assert len(scoped.spans) == 8


def test_traces_that_leave_another_way_send_their_records_alone() -> None:
    """`export_spans=False` keeps the spans out and the record in, marked as not sampled."""
    trace = changed(session(), export_spans=False)
    assert encode_spans([trace], RESOURCE) == b""
    assert event_of(encode_records([trace], RESOURCE)).flags == 0


def test_nothing_to_say_is_no_request() -> None:
    """A step has no record, and a batch of steps makes no request for records."""
    assert encode_records([changed(session(), record=None)], RESOURCE) == b""
    assert encode_spans([], RESOURCE) == encode_records([], RESOURCE) == b""


def test_the_same_value_of_another_type_is_not_mixed_up() -> None:
    """1, 1.0 and True under one key keep their types, in any order and when the cache already knows one."""
    for values in ((1, 1.0, True), (True, 1, 1.0), (0.0, False, 0)):
        traces = [
            FinishedTrace([session().spans[0]._replace(attributes={"k": value})], None) for value in values
        ]
        read = [mapping(span.attributes)["k"] for span in spans_of(encode_spans(traces, {}))]
        assert typed(read) == typed(list(values))


def test_caches_do_not_grow_without_end() -> None:
    """More different names and values than a cache holds are still encoded right."""
    spans = [
        SpanData(1, n + 1, 0, f"name{n}", 1, 1, 2, {f"key{n}": f"value{n}", "n": n, f"d{n}": n / 3})
        for n in range(9000)
    ]
    read = spans_of(encode_spans([FinishedTrace(spans, None)], {}))
    assert [mapping(span.attributes) for span in read] == [span.attributes for span in spans]
    assert [span.name for span in read] == [span.name for span in spans]


class Hostile:
    """A value that cannot even be printed."""

    def __str__(self) -> str:
        raise RuntimeError("no text for you")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1 << 70, str(1 << 70)),
        (-(1 << 63) - 1, str(-(1 << 63) - 1)),
        (1 << 20000, hex(1 << 20000)),
        ({1, 2}, "{1, 2}"),
        (Hostile(), "<unprintable Hostile>"),
        ("a\ud800b", "a\\ud800b"),
        (None, None),
        (b"\xff\x00", b"\xff\x00"),
        ((1, None, "x"), [1, None, "x"]),
        ({3: {"x": Hostile()}}, {"3": {"x": "<unprintable Hostile>"}}),
    ],
    ids=["big", "small", "huge", "set", "hostile", "surrogate", "none", "bytes", "tuple", "odd key"],
)
def test_what_otlp_cannot_say_becomes_text(value: object, expected: object) -> None:
    """A value that should have been cleaned before is written as text, and nothing is raised."""
    root = session().spans[0]._replace(attributes={"k": value, "after": 1})
    (span,) = spans_of(encode_spans([FinishedTrace([root], None)], {}))
    assert typed(mapping(span.attributes)) == typed({"k": expected, "after": 1})


def test_a_value_nested_without_end_is_cut_off() -> None:
    """A list that holds itself does not end the program."""
    loop: list[Any] = []
    loop.append(loop)
    root = session().spans[0]._replace(attributes={"k": loop})
    assert len(spans_of(encode_spans([FinishedTrace([root], None)], {}))) == 1


def test_a_nan_is_a_double_and_not_an_error() -> None:
    """Cleaning turns NaN into text before; one that slipped through is written as it is."""
    root = session().spans[0]._replace(attributes={"k": math.nan})
    (span,) = spans_of(encode_spans([FinishedTrace([root], None)], {}))
    assert math.isnan(mapping(span.attributes)["k"])


def test_numbers_beyond_their_bounds_do_not_cost_the_batch() -> None:
    """Ids, times and kinds that OTLP cannot hold are brought within its bounds."""
    wrong = SpanData(
        1 << 130 | 5, -1, 1 << 64 | 7, "x", -3, -5, 1 << 65, {}, 9, links=[Link(-1, 1 << 64, {})]
    )
    right = session().spans[0]
    first, second = spans_of(encode_spans([FinishedTrace([wrong, right], None)], {}))
    assert int.from_bytes(first.trace_id, "big") == 5
    assert int.from_bytes(first.span_id, "big") == (1 << 64) - 1
    assert int.from_bytes(first.parent_span_id, "big") == 7
    assert (first.start_time_unix_nano, first.end_time_unix_nano) == (0, (1 << 64) - 1)
    assert int.from_bytes(second.trace_id, "big") == right.trace_id


def test_a_record_without_its_spans_is_dated_by_itself() -> None:
    """A record whose spans are gone bears no ids, and its own end as its time."""
    record = {"session_id": "s", "submit_ts": 100.0, "total_s": 2.5}
    event = event_of(encode_records([FinishedTrace([], record)], {}))
    assert event.time_unix_nano == 102_500_000_000
    assert (event.trace_id, event.span_id) == (b"", b"")

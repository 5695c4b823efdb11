"""Exporters that are installed as entry points, made by a real package on the path."""

from __future__ import annotations

import importlib
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import orjson
import pytest
from opentelemetry.trace import SpanKind, StatusCode

from rollspan import exporters, health
from rollspan.config import Settings
from rollspan.exporters.base import Delivered, Refused, Retry
from rollspan.exporters.third_party import ThirdPartyExporter, UnknownExporterError
from rollspan.finished import FinishedTrace
from rollspan.record import from_event_attributes
from rollspan.spandata import STATUS_ERROR

from .samples import RESOURCE, changed, session

PACKAGE = """
import logging, time
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk._logs.export import LogRecordExportResult
got, closed, result, delay = [], [], "SUCCESS", 0.0
logger = logging.getLogger("opentelemetry.acme")
class Spans:
    def export(self, spans):
        time.sleep(delay)
        got.extend(spans)
        if result != "SUCCESS":
            logger.error("acme is down")
        return SpanExportResult[result]
    def shutdown(self):
        closed.append(self)
class Logs:
    def export(self, batch):
        got.extend(batch)
        return LogRecordExportResult.SUCCESS
    def shutdown(self):
        closed.append(self)
class Raising(Spans):
    def export(self, spans):
        raise OSError("no route to acme")
class Broken:
    def __init__(self):
        raise KeyError("ACME_TOKEN")
"""
ENTRY_POINTS = """
[opentelemetry_traces_exporter]
acme = rollspan_acme:Spans
raising = rollspan_acme:Raising
broken = rollspan_acme:Broken
[opentelemetry_logs_exporter]
acme = rollspan_acme:Logs
"""


@pytest.fixture
def acme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An installed package with exporters; the module in which they leave what they got."""
    (tmp_path / "rollspan_acme.py").write_text(PACKAGE)
    info = tmp_path / "rollspan_acme-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: rollspan-acme\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("rollspan_acme")
    yield module
    del sys.modules["rollspan_acme"]


def test_an_installed_exporter_gets_real_spans(acme: Any) -> None:
    """Ids, times, parents, kinds, links, status, scope and resource are those of the finished spans."""
    trace = session(3)
    failed = trace.spans[1]._replace(status=STATUS_ERROR, status_message="boom")
    trace = FinishedTrace([trace.spans[0], failed, *trace.spans[2:]], trace.record)
    exporter = exporters.make("acme", "traces")
    assert exporter.name == "acme.traces"
    assert exporter.export([trace], RESOURCE, 5.0) == Delivered()
    exporter.close()
    assert len(acme.closed) == 1
    for made, span in zip(acme.got, trace.spans, strict=True):
        assert (made.context.trace_id, made.context.span_id) == (span.trace_id, span.span_id)
        assert (made.parent.span_id if made.parent else 0) == span.parent_id
        assert (made.name, made.start_time, made.end_time) == (span.name, span.start_ns, span.end_ns)
        assert dict(made.attributes) == span.attributes
        assert made.resource.attributes == RESOURCE
        assert made.instrumentation_scope.name == "rollspan"
        assert [(k.context.trace_id, k.context.span_id, dict(k.attributes)) for k in made.links] == [
            (k.trace_id, k.span_id, k.attributes) for k in span.links
        ]
        assert orjson.loads(made.to_json())["name"] == span.name
    assert acme.got[2].kind is SpanKind.CLIENT
    assert (acme.got[1].status.status_code, acme.got[1].status.description) == (StatusCode.ERROR, "boom")
    assert acme.got[0].status.status_code is StatusCode.UNSET


def test_an_installed_exporter_gets_real_log_records(acme: Any) -> None:
    """The record's event has its name, its time, its ids, and the whole record in its attributes."""
    trace = session(3)
    assert exporters.make("acme", "records").export([trace], RESOURCE, 5.0) == Delivered()
    (made,) = acme.got
    log = made.log_record
    assert log.event_name == "rollout.session"
    assert log.timestamp == log.observed_timestamp == trace.spans[0].end_ns
    assert (log.trace_id, log.span_id) == (trace.spans[0].trace_id, trace.spans[0].span_id)
    assert from_event_attributes(log.attributes) == trace.record
    assert made.resource.attributes == RESOURCE


def test_a_failure_is_a_retry_with_what_the_exporter_said(acme: Any, caplog: Any) -> None:
    """FAILURE, and an exception, are reasons; what was logged meanwhile is the reason's text."""
    acme.result = "FAILURE"
    exporter = exporters.make("acme", "traces")
    assert exporter.export([session()], RESOURCE, 5.0) == Retry("acme is down")
    acme.result = "SUCCESS"
    assert exporter.export([session()], RESOURCE, 5.0) == Delivered()
    raising = exporters.make("raising", "traces")
    assert raising.export([session()], RESOURCE, 5.0) == Retry("OSError: no route to acme")
    assert caplog.records == []


def test_one_that_hangs_is_not_called_twice_at_once(acme: Any) -> None:
    """While an earlier call has not come back there is no other, and afterwards there is."""
    acme.delay = 0.5
    exporter = exporters.make("acme", "traces")
    assert isinstance(exporter.export([session()], RESOURCE, 0.05), Retry)
    assert exporter.export([session()], RESOURCE, 0.05) == Retry("an earlier call has not come back yet")
    assert acme.got == []
    acme.delay = 0.0
    assert exporter.export([session()], RESOURCE, 30.0) == Delivered()
    assert len(acme.got) == 8
    exporter.close()


def test_one_that_cannot_be_made_is_switched_off(acme: Any) -> None:
    """A constructor that raises costs this exporter alone, and the reason names it."""
    answer = exporters.make("broken", "traces").export([session()], RESOURCE, 5.0)
    assert answer == Refused("rollspan_acme:Broken cannot be made: KeyError: 'ACME_TOKEN'", unsupported=True)


def test_nothing_for_it_makes_no_call(acme: Any) -> None:
    """Traces that leave another way are none of its business."""
    exporter = exporters.make("acme", "traces")
    assert exporter.export([changed(session(), export_spans=False)], RESOURCE, 5.0) == Delivered()
    assert acme.got == []


def test_the_console_prints_spans_and_records() -> None:
    """`console` is the SDK's own, for both signals."""
    source = (
        "from rollspan import exporters\n"
        "from rollspan.finished import FinishedTrace\nfrom rollspan.spandata import SpanData\n"
        "trace = FinishedTrace([SpanData(1, 2, 0, 'rollout', 1, 3, 4, {})], {'session_id': 'abc'})\n"
        "for signal in ('traces', 'records'):\n"
        "    exporters.make('console', signal).export([trace], {'service.name': 'trainer'}, 5.0)\n"
    )
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True)
    assert '"name": "rollout"' in done.stdout
    assert '"event_name": "rollout.session"' in done.stdout
    assert '"session_id": "abc"' in done.stdout


def test_an_unknown_name_says_what_there_is(acme: Any) -> None:
    """The text names the value, what is installed, and what to do."""
    with pytest.raises(UnknownExporterError) as caught:
        exporters.make("acmee", "traces")
    text = str(caught.value)
    assert "OTEL_TRACES_EXPORTER" in text and "'acmee'" in text and "Install the package" in text
    for name in ("acme", "console", "none", "otlp"):
        assert name in text


def test_build_makes_what_the_settings_name(tmp_path: Path, acme: Any) -> None:
    """The file always, then traces and records in the order of their names; what nobody knows is left out."""
    settings = Settings(
        dir=tmp_path,
        traces_exporters=("otlp", "acme", "nonsense"),
        records_exporters=("otlp_proto_grpc", "console"),
    )
    built = exporters.build(settings)
    assert [exporter.name for exporter in built] == [
        "file",
        "otlp.traces",
        "acme.traces",
        "otlp.records",
        "console.records",
    ]
    assert isinstance(built[2], ThirdPartyExporter)
    assert health.counters() == {"exporters.unknown.traces.nonsense": 1}
    for exporter in built:
        exporter.close()


def test_without_names_there_is_the_file_alone(tmp_path: Path) -> None:
    """No endpoint and no exporter named: records go to the file, and nothing else is made."""
    (file,) = exporters.build(Settings(dir=tmp_path))
    assert file.export([FinishedTrace((), {"session_id": "a"})], {}, 1.0) == Delivered()
    file.close()
    assert (tmp_path / "sessions-r0.jsonl").read_bytes() == b'{"session_id":"a"}\n'


def test_one_that_does_not_shut_down_is_left_behind(acme: Any) -> None:
    """Whoever closes it waits for as long as they said, not for as long as its shutdown takes."""
    over = threading.Event()
    acme.Spans.shutdown = lambda self: over.wait()
    exporter = exporters.make("acme", "traces")
    assert exporter.export([session()], RESOURCE, 5.0) == Delivered()
    closing = threading.Thread(target=exporter.close, args=(0.05,), daemon=True)
    closing.start()
    closing.join(8)
    waits = closing.is_alive()
    over.set()
    assert not waits
    assert exporter._exporter is None  # type: ignore[attr-defined]

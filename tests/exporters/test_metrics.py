"""Metrics, through the real SDK to a real receiver."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.metrics import get_meter_provider

import rollspan
from rollspan import health, testing_messages
from rollspan.exporters.metrics import RolloutMetrics, interval_from_environment
from rollspan.testing import recording
from rollspan.testing_receiver import Answer, OtlpReceiver

from .samples import RESOURCE, session


def points(receiver: OtlpReceiver, name: str) -> dict[tuple[Any, ...], Any]:
    """The values of one instrument in the last export, by the values of their attributes."""
    last = receiver.accepted("metrics")[-1]

    return {
        tuple(point["attributes"].values()): point.get("value", point.get("count"))
        for point in testing_messages.metrics(last.message)
        if point["name"] == name
    }


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_sessions_and_durations_are_counted(receiver: OtlpReceiver, protocol: str, monkeypatch: Any) -> None:
    """Sessions by status and reason, a duration for each phase, wait and whole, over both protocols."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", protocol)
    where = receiver.grpc_endpoint if protocol == "grpc" else receiver.endpoint
    metrics = RolloutMetrics(["otlp"], RESOURCE, endpoint=where, open_sessions=lambda: 5)
    accepted = session(1).record or {}
    metrics.record(accepted)
    metrics.record(accepted)
    metrics.record({"status": "dropped", "rejection_reason": "timeout", "queue_wait_s": 0.5, "late_spans": 2})
    assert metrics.flush(10.0)
    assert points(receiver, "rollout.sessions") == {("accepted",): 2, ("dropped", "timeout"): 1}
    assert points(receiver, "rollout.phase.duration") == {
        ("execution",): 2,
        ("generate",): 2,
        ("reward",): 2,
        ("total",): 2,
        ("queue_wait",): 1,
    }
    assert points(receiver, "rollout.sessions.open") == {(): 5}
    assert points(receiver, "rollout.late_spans") == {(): 2}
    assert {point["unit"] for point in receiver.metrics() if point["name"] == "rollout.phase.duration"} == {
        "s"
    }
    assert receiver.metrics()[0]["resource"] == RESOURCE
    metrics.close(5.0)


def test_the_plugins_own_health_is_told_apart(receiver: OtlpReceiver) -> None:
    """Losses by exporter and reason, deliveries, retries, what is queued; everything else is an event."""
    counters = {
        "lost.otlp.traces.journal_full": 3,
        "delivered.file": 9,
        "retries.otlp.records": 2,
        "queued.file": 4,
        "internal_errors": 1,
        "journal.damaged_lines": 7,
    }
    metrics = RolloutMetrics(["otlp"], RESOURCE, endpoint=receiver.endpoint, health=lambda: counters)
    metrics.record({"status": "accepted"})
    assert metrics.flush(10.0)
    assert points(receiver, "rollspan.lost") == {("otlp.traces", "journal_full"): 3}
    assert points(receiver, "rollspan.delivered") == {("file",): 9}
    assert points(receiver, "rollspan.retries") == {("otlp.records",): 2}
    assert points(receiver, "rollspan.queued") == {("file",): 4}
    assert points(receiver, "rollspan.events") == {("internal_errors",): 1, ("journal.damaged_lines",): 7}
    metrics.close(5.0)


def test_what_waits_for_an_exporter_is_measured(
    receiver: OtlpReceiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """rollspan.queued: the traces that an endpoint has not taken yet, for each exporter; 0 once it has."""
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "50")
    receiver.answer(Answer(status=503), signal="traces")
    otlp = {"traces_exporters": ("otlp",), "records_exporters": ("otlp",), "metrics_exporters": ("otlp",)}

    def queued() -> dict[Any, Any]:
        return points(receiver, "rollspan.queued") if receiver.accepted("metrics") else {}

    with recording(tmp_path, endpoint=receiver.endpoint, **otlp):
        for _ in range(7):
            with rollspan.session():
                pass
        waiting = {("file",): 0, ("otlp.traces",): 7, ("otlp.records",): 0}
        assert receiver.wait_for(lambda: queued() == waiting), queued()
        receiver.recover()
        assert rollspan.flush(20.0)
        assert receiver.wait_for(lambda: queued() == {**waiting, ("otlp.traces",): 0}), queued()


def test_a_tick_exports_when_the_interval_is_over(receiver: OtlpReceiver) -> None:
    """Nothing before, and then without anybody waiting; the last is exported at close."""
    slow = RolloutMetrics(["otlp"], RESOURCE, endpoint=receiver.endpoint, interval=3600.0)
    slow.record({"status": "accepted"})
    slow.tick()
    assert receiver.requests == []
    slow.close(10.0)
    assert points(receiver, "rollout.sessions") == {("accepted",): 1}
    receiver.clear()
    quick = RolloutMetrics(["otlp"], RESOURCE, endpoint=receiver.endpoint, interval=0.0001)
    quick.record({"status": "failed"})
    quick.tick()
    assert receiver.wait_for(lambda: receiver.accepted("metrics"))
    assert points(receiver, "rollout.sessions") == {("failed",): 1}
    quick.close(5.0)
    quick.close(5.0)


def test_a_failed_export_is_made_good_by_the_next(receiver: OtlpReceiver) -> None:
    """Sums are cumulative, so an endpoint that was away misses nothing."""
    receiver.answer(Answer(status=503), times=1)
    metrics = RolloutMetrics(["otlp"], RESOURCE, endpoint=receiver.endpoint)
    metrics.record({"status": "accepted"})
    assert not metrics.flush(10.0)
    assert health.counters() == {"retries.otlp.metrics": 1, "unreachable.otlp.metrics": 1}
    metrics.record({"status": "accepted"})
    assert metrics.flush(10.0)
    assert points(receiver, "rollout.sessions") == {("accepted",): 2}
    metrics.close(5.0)


def test_nobody_may_want_metrics(receiver: OtlpReceiver) -> None:
    """Then records are not even made for them."""
    assert not RolloutMetrics([], RESOURCE).wanted()
    metrics = RolloutMetrics(["otlp"], RESOURCE, endpoint=receiver.endpoint)
    assert metrics.wanted()
    metrics.close(5.0)


def test_an_endpoint_without_metrics_is_asked_once(receiver: OtlpReceiver) -> None:
    """A 404 switches them off, with one message."""
    receiver.answer(Answer(status=404), signal="metrics")
    metrics = RolloutMetrics(["otlp"], RESOURCE, endpoint=receiver.endpoint)
    metrics.record({"status": "accepted"})
    assert metrics.flush(10.0)
    assert metrics.flush(10.0)
    metrics.close(5.0)
    assert len(receiver.requests) == 1
    assert health.counters() == {"off.otlp.metrics": 1}


def test_an_endpoint_that_hangs_holds_nobody_up(receiver: OtlpReceiver) -> None:
    """Records are counted and ticks come back while a request hangs; a flush gives up in time."""
    receiver.answer(Answer(hang=True))
    metrics = RolloutMetrics(["otlp"], RESOURCE, endpoint=receiver.endpoint, interval=0.0001)
    for _ in range(50):
        metrics.record({"status": "accepted"})
        metrics.tick()
    assert receiver.wait_for(lambda: receiver.requests)
    assert not metrics.flush(0.2)
    assert len(receiver.requests) == 1
    metrics.close(0.1)


def test_a_wrong_record_or_callback_costs_itself_alone(receiver: OtlpReceiver, monkeypatch: Any) -> None:
    """Errors inside are counted, and the other instruments are exported."""
    monkeypatch.setattr(health, "raise_internal_errors", False)

    def broken() -> int:
        raise RuntimeError("no sessions for you")

    metrics = RolloutMetrics(["otlp"], RESOURCE, endpoint=receiver.endpoint, open_sessions=broken)
    metrics.record({"status": "accepted", "phases": {"x": [{}]}})
    assert metrics.flush(10.0)
    assert points(receiver, "rollout.sessions") == {("accepted",): 1}
    assert health.counters()["internal_errors"] == 2
    metrics.close(5.0)


def test_the_global_provider_is_never_ours(receiver: OtlpReceiver) -> None:
    """With a provider of our own at work, the global one is still nobody's; and no thread but one waits."""
    metrics = RolloutMetrics(["otlp"], RESOURCE, endpoint=receiver.endpoint)
    metrics.record({"status": "accepted"})
    assert metrics.flush(10.0)
    assert "sdk" not in type(get_meter_provider()).__module__
    assert [t.name for t in threading.enumerate() if "Otel" in t.name] == []
    metrics.close(5.0)


def test_a_name_nobody_knows_is_reported_and_the_others_work(receiver: OtlpReceiver) -> None:
    """One wrong name among the exporters costs that one."""
    metrics = RolloutMetrics(["nonsense", "otlp"], RESOURCE, endpoint=receiver.endpoint)
    metrics.record({"status": "accepted"})
    assert metrics.flush(10.0)
    assert points(receiver, "rollout.sessions") == {("accepted",): 1}
    assert health.counters() == {"exporters.metrics.nonsense": 1}
    metrics.close(5.0)


@pytest.mark.parametrize(
    ("text", "seconds", "said"), [("", 60.0, 0), ("1500", 1.5, 0), ("0", 60.0, 1), ("soon", 60.0, 1)]
)
def test_the_interval_is_otels(text: str, seconds: float, said: int, monkeypatch: Any) -> None:
    """OTEL_METRIC_EXPORT_INTERVAL is in milliseconds; what is none is reported and the default used."""
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", text)
    assert interval_from_environment() == seconds
    assert sum(health.counters().values()) == said


def run(source: str, *arguments: str) -> str:
    """Output of a program of its own: the global provider can be set once in a process."""
    code = textwrap.dedent(source)
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
    ).stdout


def test_a_provider_that_somebody_set_is_used_even_if_it_comes_late(receiver: OtlpReceiver) -> None:
    """Records count in a user's provider as soon as there is one, and ours stops exporting."""
    out = run(
        """
        import sys
        from rollspan.exporters.metrics import RolloutMetrics
        metrics = RolloutMetrics(["otlp"], {}, endpoint=sys.argv[1])
        metrics.record({"status": "accepted"})
        assert metrics.flush(10.0)
        from opentelemetry.metrics import set_meter_provider
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import InMemoryMetricReader
        reader = InMemoryMetricReader()
        set_meter_provider(MeterProvider([reader], shutdown_on_exit=False))
        metrics.record({"status": "rejected"})
        assert metrics.flush(10.0)
        metrics.close(5.0)
        found = reader.get_metrics_data().resource_metrics[0].scope_metrics[0].metrics
        print([p.attributes for m in found if m.name == "rollout.sessions" for p in m.data.data_points])
        """,
        receiver.endpoint,
    )
    assert out == "[{'rollout.status': 'rejected'}]\n"
    assert len(receiver.requests) == 1


def test_without_exporters_and_provider_nothing_is_loaded() -> None:
    """No names and no provider: no SDK, and records cost next to nothing."""
    out = run(
        """
        import sys
        from rollspan.exporters.metrics import RolloutMetrics
        metrics = RolloutMetrics((), {})
        metrics.record({"status": "accepted"})
        metrics.tick(); assert metrics.flush(1.0); metrics.close(1.0)
        print([m for m in sys.modules if m.startswith("opentelemetry")])
        """
    )
    assert out == "[]\n"


def test_the_console_prints_metrics() -> None:
    """An installed exporter, such as the SDK's `console`, gets them as well."""
    out = run(
        """
        from rollspan.exporters.metrics import RolloutMetrics
        metrics = RolloutMetrics(["console"], {"service.name": "trainer"})
        metrics.record({"status": "accepted"})
        metrics.close(5.0)
        """
    )
    assert '"rollout.sessions"' in out and '"trainer"' in out

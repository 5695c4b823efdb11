"""Sessions as the worker hands them to exporters, for the tests of exporters."""

from __future__ import annotations

from typing import Any

from rollspan.exporters.otlp import RecordExporter, TraceExporter
from rollspan.finished import FinishedTrace
from rollspan.fold import fold_trace
from rollspan.spandata import KIND_CLIENT, KIND_INTERNAL, Link, SpanData
from rollspan.testing_receiver import OtlpReceiver

RESOURCE = {
    "service.name": "trainer",
    "service.instance.id": "0b0e8c1a-2f30-4c1e-9a37-6d3a2b1c0d9e",
    "telemetry.sdk.language": "python",
    "rl.run.id": "run-1",
    "rollout.world_size": 8,
}
START = 1_790_000_000_123_456_789


def session(number: int = 0, **root_attributes: Any) -> FinishedTrace:
    """A session of root, execution, generate and reward, with the attributes of a usual one."""
    trace_id = (0xABCDEF << 96) + number + 1
    session_id = f"{trace_id:032x}"

    def span(
        at: int, parent: int, name: str, start_ms: int, end_ms: int, kind: int = KIND_INTERNAL, **more: Any
    ) -> SpanData:
        attributes = {"session.id": session_id, "rollout.phase": name, **more}
        return SpanData(
            trace_id,
            (number + 1) * 16 + at,
            (number + 1) * 16 + parent if parent else 0,
            name,
            kind,
            START + start_ms * 1_000_000 + number,
            START + end_ms * 1_000_000 + number,
            attributes,
        )

    root = span(1, 0, "rollout", 0, 1000)._replace(
        attributes={
            "session.id": session_id,
            "rollout.phase": "session",
            "rollout.request_id": number,
            "rollout.rank": 3,
            "rl.sample.task.id": f"task-{number}",
            "rollout.group.id": str(number // 8),
            "rollout.workflow": "math",
            "rollout.status": "accepted",
            "rollout.consumed": True,
            "rollout.stats.accepted": number,
            "rollout.stats.running": 4,
            **root_attributes,
        },
        links=[Link(77, 78, {"rollout.link": "dispatch"})],
    )
    spans = [
        root,
        span(2, 1, "execution", 100, 900),
        span(
            3,
            2,
            "generate",
            120,
            700,
            KIND_CLIENT,
            **{
                "gen_ai.operation.name": "text_completion",
                "gen_ai.provider.name": "sglang",
                "gen_ai.request.model": "tiny",
                "gen_ai.usage.input_tokens": 512,
                "gen_ai.usage.output_tokens": 300 + number,
                "gen_ai.response.finish_reasons": ["stop"],
            },
        ),
        span(4, 2, "reward", 710, 890, **{"rl.reward.score": number / 7}),
    ]
    return FinishedTrace(spans, fold_trace(spans))


def changed(trace: FinishedTrace, **changes: Any) -> FinishedTrace:
    """The same with other `spans`, `record` or `export_spans`."""
    given = {"spans": trace.spans, "record": trace.record, "export_spans": trace.export_spans}
    return FinishedTrace(**{**given, **changes})


PROTOCOLS = ["http/protobuf", "grpc"]
KINDS = {"traces": TraceExporter, "logs": RecordExporter}


def endpoint(receiver: OtlpReceiver, protocol: str) -> str:
    return receiver.grpc_endpoint if protocol == "grpc" else receiver.endpoint


def send(exporter: Any, traces: list[FinishedTrace], timeout: float = 10.0) -> Any:
    """One export, after which the exporter is closed."""
    try:
        return exporter.export(traces, RESOURCE, timeout)
    finally:
        exporter.close()

"""The OpenTelemetry SDK with its own batches and OTLP/HTTP exporter, and the same spans by its own API.

It makes no record of a rollout: that part of the work is not done here. Nor are the attributes set that rollspan
adds off the caller's thread (durations on the root, the phase's and session's names on each span).
"""

from __future__ import annotations

import os
from importlib.metadata import version

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind

from benchmarks.workload import FINISH_REASON, MODEL, PROVIDER, WORKFLOW, Rollout

# Spans. The default of 2048 silently drops what a burst brings beyond it, and what is dropped is not paid for.
_QUEUE = 1 << 17


class SdkTracer:
    """Defaults but for the queue."""

    def __init__(self, endpoint: str) -> None:
        self._run = os.urandom(4).hex()
        self._processor = BatchSpanProcessor(
            OTLPSpanExporter(endpoint=f"{endpoint}/v1/traces"), max_queue_size=_QUEUE
        )
        provider = TracerProvider(resource=Resource.create({"service.name": "benchmark"}))
        provider.add_span_processor(self._processor)
        self._tracer = provider.get_tracer("benchmark")

    def session(self, rollout: Rollout) -> None:
        start = self._tracer.start_as_current_span
        with start("rollout") as root:
            root.set_attributes(
                {
                    "session.id": f"{root.get_span_context().trace_id:032x}",
                    "rollout.phase": "session",
                    "rollout.request_id": rollout.number,
                    "rollout.rank": 0,
                    "rl.run.id": self._run,
                    "rl.sample.task.id": rollout.number,
                    "rollout.group.id": rollout.group,
                    "rollout.workflow": WORKFLOW,
                }
            )
            with start("execution"):
                with start(
                    "generate",
                    kind=SpanKind.CLIENT,
                    attributes={
                        "gen_ai.operation.name": "text_completion",
                        "gen_ai.request.model": MODEL,
                        "gen_ai.provider.name": PROVIDER,
                    },
                ) as generate:
                    generate.set_attributes(
                        {
                            "gen_ai.usage.input_tokens": rollout.input_tokens,
                            "gen_ai.usage.output_tokens": rollout.output_tokens,
                            "gen_ai.response.finish_reasons": [FINISH_REASON],
                        }
                    )
                with start("reward") as reward:
                    reward.set_attribute("rl.reward.score", rollout.score)
            root.set_attributes({"rollout.status": "accepted", "rollout.consumed": True})

    def finish(self) -> None:
        """Until the queue is empty and its last batch was answered."""
        if not self._processor.force_flush(60_000):
            raise RuntimeError("the SDK did not export everything within a minute")

    def versions(self) -> dict[str, str]:
        return {"opentelemetry-sdk": version("opentelemetry-sdk")}

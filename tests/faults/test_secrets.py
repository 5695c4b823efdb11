"""What a model read and wrote appears nowhere, unless ROLLSPAN_CAPTURE_CONTENT asks for it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from rollspan.testing import OtlpReceiver

Run = Callable[..., "subprocess.CompletedProcess[str]"]

# Every way by which content could come in. The journal is kept, so that it can be searched as well.
PROGRAM = """
import sys
import rollspan
from opentelemetry.trace import Status, StatusCode

def rollout():
    session = rollspan.start_session(task_id=1)
    with session.execution():
        with rollspan.phase("generate", prompt="SECRET-0", **{"gen_ai.input.messages": "SECRET-1"}) as span:
            rollspan.record_generation(prompt=["SECRET-2"], completion={"text": "SECRET-3"})
            span.set_attribute("gen_ai.output.messages", "SECRET-4")
            span.set_attribute("completion", "SECRET-5")
            span.record_exception(ValueError("SECRET-6"))
            span.set_status(Status(StatusCode.ERROR, "SECRET-7"))
        with rollspan.phase("toolcall"):
            rollspan.record_tool_call("search", arguments={"q": "SECRET-8"}, result="SECRET-9")
    return session

rollout().mark_failed(ValueError("SECRET-10"))
try:
    with rollspan.session(prompt="SECRET-11"), rollspan.phase("reward"):
        raise ValueError("SECRET-12")
except ValueError:
    pass
with rollspan.step(1, prompt="SECRET-13"):
    pass
with rollspan.session(messages="SECRET-16", failure=ValueError("SECRET-17")) as session:
    session.set_attribute("gen_ai.system_instructions", "SECRET-18")
    for name in ("generate", "toolcall", "execution"):
        with rollspan.phase(name, prompts=["SECRET-19"], messages=[{"content": "SECRET-20"}]) as span:
            span.set_attribute("arguments", ["SECRET-32"])
            span.set_attributes({"errors": [KeyError("SECRET-21")], "gen_ai.output.messages": "SECRET-22"})
            span.set_attributes({"why": {"error": OSError("SECRET-23")}, "gen_ai.tool.call.result": "SECRET-24"})
            span.set_attributes({b"prompt": "SECRET-25", "gen_ai.prompt.0.content": "SECRET-26"})
    with rollspan.phase("generate", arguments="SECRET-27", result="SECRET-28"), rollspan.phase("reward"):
        rollspan.record_reward("SECRET-29")
rollout().mark_rejected(ValueError("SECRET-14"))
rollout().mark_dropped(ValueError("SECRET-15"))
"""

# The spans of a program's own tracer leave as they are; what rollspan makes of them is looked at.
PLAIN = """
import rollspan.processor
own = TracerProvider()
own.add_span_processor(rollspan.RolloutSpanProcessor())
with own.get_tracer("mine").start_as_current_span("rollout", attributes={"rollout.phase": "session"}):
    content = {"rollout.phase": "toolcall", "arguments": "SECRET-30", "exception.message": "SECRET-31"}
    with own.get_tracer("mine").start_as_current_span("search", attributes=content):
        pass
"""


def everything(tmp_path: Path, receiver: OtlpReceiver, done: subprocess.CompletedProcess[str]) -> bytes:
    """All that was written, sent and said."""
    files = [path.read_bytes() for path in (tmp_path / "data").rglob("*") if path.is_file()]
    assert any(b'"s":[[' in content for content in files), "no journal was kept"
    sent = [receiver.bodies(signal) for signal in ("traces", "logs", "metrics")]
    assert all(sent)
    return b"".join(
        [*files, *(body for bodies in sent for body in bodies), (done.stdout + done.stderr).encode()]
    )


@pytest.mark.parametrize("route", ["light", "sdk"])
def test_content_is_nowhere(run_program: Run, tmp_path: Path, receiver: OtlpReceiver, route: str) -> None:
    """Prompts, completions, tool arguments, results and exception messages: in no file, no request, no message."""
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint, "ROLLSPAN_JOURNAL_KEEP": "1"}
    program = PROGRAM
    if route == "sdk":
        program = (
            "from opentelemetry import trace\nfrom opentelemetry.sdk.trace import TracerProvider\n"
            "from opentelemetry.sdk.trace.export import SimpleSpanProcessor\n"
            "from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter\n"
            "provider = TracerProvider()\nprovider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter()))\n"
            "trace.set_tracer_provider(provider)\n" + program + PLAIN
        )
    found = everything(tmp_path, receiver, run_program(program, env=environment))
    assert b"SECRET" not in found, found[max(found.index(b"SECRET") - 200, 0) :][:400]


def test_content_is_there_when_asked_for(run_program: Run, tmp_path: Path, receiver: OtlpReceiver) -> None:
    """With ROLLSPAN_CAPTURE_CONTENT=1 the same program's prompts and messages are recorded and sent."""
    environment = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint,
        "ROLLSPAN_JOURNAL_KEEP": "1",
        "ROLLSPAN_CAPTURE_CONTENT": "1",
    }
    everything(tmp_path, receiver, run_program(PROGRAM, env=environment))
    sent = b"".join(receiver.bodies("traces"))
    for number in (2, 5, 8, 9, 10, 11, 12, 13, 16, 18, 19, 20, 22, 24, 25, 26, 27, 28):
        assert b"SECRET-%d" % number in sent, number

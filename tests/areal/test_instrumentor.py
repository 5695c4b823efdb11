"""The instrumentor's contract: everything is put back, and what does not match is said."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.areal.conftest import environment

LOOK = """
import areal.infra.remote_inf_engine as engine
import areal.infra.workflow_executor as executor
import areal.api.reward_api as reward
import areal.utils.perf_tracer as tracer
import aiohttp
owners = [tracer, engine, executor, engine.RemoteInfEngine, executor.BatchTaskDispatcher, executor.WorkflowExecutor,
          reward.AsyncRewardWrapper, aiohttp.ClientSession, engine.GroupedRolloutWorkflow]
look = lambda: [dict(vars(owner)) for owner in owners]
changed = lambda a, b: sorted(n for x, y in zip(a, b) for n in x.keys() | y.keys() if x.get(n) is not y.get(n))
before = look()
"""
WRAPPED = [
    *("__call__", "_create_workflow_task", "_request", "active_submit_and_wait", "agenerate"),
    *("arequest_with_retry", "destroy", "submit_task_input", "trace_session_event", "wait_for_task"),
    "wait_results",
    *("atrace_scope", "instant", "save", "trace_scope"),
    *("continue_generation", "init_weights_update_group", "pause_generation"),
    *("atrace_session_phase", "trace_session_event", "trace_session_phase"),
]


def run(source: str, **variables: str) -> str:
    """What a program prints that begins by looking at AReaL."""
    done = subprocess.run(
        [sys.executable, "-c", LOOK + source],
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.fixture(autouse=True)
def _installed(installed: None) -> None:
    """Skips where AReaL is not there."""


def test_uninstrument_puts_every_function_back() -> None:
    """Once instrumented, what it wraps is wrapped once; afterwards every attribute is the one from before."""
    said = run(
        "from rollspan.instrumentation.areal.instrumentor import ArealInstrumentor\n"
        "made = ArealInstrumentor()\n"
        "made.instrument()\n"
        "made.instrument()\n"
        "print(changed(before, look()))\n"
        "made.uninstrument()\n"
        "print(changed(before, look()))\n"
    )
    assert f"{sorted(WRAPPED)}\n[]\n" in said


def test_uninstrument_puts_back_what_the_environment_had_wrapped(tmp_path: object) -> None:
    """The instrumentor knows that AReaL is traced, whoever asked for it."""
    said = run(
        "from rollspan.instrumentation.areal.instrumentor import ArealInstrumentor\n"
        "made = ArealInstrumentor()\n"
        "print(made.is_instrumented_by_opentelemetry)\n"
        "made.uninstrument()\n"
        "print(made.is_instrumented_by_opentelemetry, hasattr(engine.RemoteInfEngine.agenerate, '__wrapped__'))\n",
        ROLLSPAN_ENABLED="1",
        ROLLSPAN_DIR=str(tmp_path),
    )
    assert "True\nFalse False\n" in said
    assert "already" not in said


def test_the_variable_alone_instruments(tmp_path: object) -> None:
    """ROLLSPAN_ENABLED=1 before AReaL is imported; without it, or where OpenTelemetry's variable says so, nothing is."""
    ask = "from rollspan.instrumentation import areal\nprint('wrapped', bool(areal._done))\n"
    folder = {"ROLLSPAN_DIR": str(tmp_path)}
    assert "wrapped True" in run(ask, ROLLSPAN_ENABLED="1", **folder)
    assert "wrapped False" in run(ask, ROLLSPAN_ENABLED="", **folder)
    left_out = {"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "areal"}
    assert "wrapped False" in run(ask, ROLLSPAN_ENABLED="1", **left_out, **folder)


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        ("areal.VERSIONS = ('9.9',)", "areal 1.0.4 is not known here; known are 9.9"),
        (
            "del executor.BatchTaskDispatcher.wait_results",
            "BatchTaskDispatcher has no function wait_results()",
        ),
        ("del engine.RemoteInfEngine", "has no attribute 'RemoteInfEngine'"),
    ],
)
def test_what_does_not_match_is_said_and_nothing_is_wrapped(spoil: str, why: str) -> None:
    """An unknown version, a function that is not there: DidNotEnable names it, and all is as it was."""
    said = run(
        "from rollspan.instrumentation import areal, arm\n"
        "from rollspan.instrumentation.patches import DidNotEnable\n"
        f"{spoil}\n"
        "before = look()\n"
        "try:\n"
        "    areal.enable()\n"
        "except DidNotEnable as error:\n"
        "    print(error)\n"
        "print(changed(before, look()))\n"
        "arm()\n"
        "print(changed(before, look()))\n"
    )
    assert said.count("[]\n") == 2
    assert said.count(why) == 2  # raised, and logged where it was the environment that asked
    assert "rollspan: areal is not instrumented" in said

"""One trace and one record for every rollout of a reinforcement-learning run, on OpenTelemetry."""

TYPE_CHECKING = False  # `typing` is not loaded for it: this runs at the start of every process of a job
if TYPE_CHECKING:
    from typing import Any

    from .api import (
        attach,
        carrier,
        configure,
        count,
        current_session,
        current_span,
        flush,
        is_enabled,
        phase,
        record_generation,
        record_reward,
        record_tool_call,
        session,
        shutdown,
        start_session,
        step,
        wrap,
    )
    from .executor import TracedExecutor
    from .processor import RolloutSpanProcessor
    from .sessions import Session
    from .stats import RolloutStats

__version__ = "0.1.0"

__all__ = [
    "RolloutSpanProcessor",
    "RolloutStats",
    "Session",
    "TracedExecutor",
    "attach",
    "carrier",
    "configure",
    "count",
    "current_session",
    "current_span",
    "flush",
    "is_enabled",
    "phase",
    "record_generation",
    "record_reward",
    "record_tool_call",
    "session",
    "shutdown",
    "start_session",
    "step",
    "wrap",
]

_ELSEWHERE = {
    "RolloutSpanProcessor": "processor",
    "RolloutStats": "stats",
    "Session": "sessions",
    "TracedExecutor": "executor",
}


def __getattr__(name: str) -> "Any":
    """Every public name is loaded when it is first asked for."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib  # noqa: PLC0415

    from . import loading  # noqa: PLC0415

    with loading.lock:
        module = importlib.import_module(f".{_ELSEWHERE.get(name, 'api')}", __name__)
    value = globals()[name] = getattr(module, name)
    return value


def __dir__() -> "list[str]":
    return sorted([*globals(), *__all__])

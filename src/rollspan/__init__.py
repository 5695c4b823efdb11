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
        session,
        shutdown,
        start_session,
        step,
        wrap,
    )
    from .executor import TracedExecutor
    from .phases import phase
    from .processor import RolloutSpanProcessor
    from .recorders import record_generation, record_reward, record_tool_call
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

    try:
        from . import loading  # noqa: PLC0415

        with loading.lock:
            value = getattr(importlib.import_module(f".{_ELSEWHERE.get(name, 'api')}", __name__), name)
    except (AttributeError, ImportError):
        if not _is_being_loaded():
            raise
        return _meanwhile
    globals()[name] = value
    return value


def _is_being_loaded() -> bool:
    import sys  # noqa: PLC0415

    ours = [module for name, module in list(sys.modules.items()) if name.startswith(f"{__name__}.")]
    return any(getattr(module.__spec__, "_initializing", False) for module in ours)


class _Meanwhile:
    """What a signal's handler gets that uses rollspan in the middle of its being loaded: nothing is recorded."""

    def __call__(self, *arguments: "Any", **keywords: "Any") -> "Any":
        return arguments[0] if arguments and callable(arguments[0]) else self

    def __getattr__(self, name: str) -> "Any":
        return self

    def __bool__(self) -> bool:
        return False

    def __enter__(self) -> "Any":
        return self

    def __exit__(self, *exc: object) -> None:
        return None


_meanwhile = _Meanwhile()


def __dir__() -> "list[str]":
    return sorted([*globals(), *__all__])

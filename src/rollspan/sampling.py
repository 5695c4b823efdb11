"""Which traces our own route exports: `OTEL_TRACES_SAMPLER`, asked once a trace. Records always go out."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.metadata import entry_points

from . import health

_SAMPLER = "OTEL_TRACES_SAMPLER"
_ARGUMENT = "OTEL_TRACES_SAMPLER_ARG"
_RATIO = "traceidratio"


def sampler_from_environment() -> Callable[[int], bool] | None:
    """A decision by trace id, or None where every trace is exported.

    A root has no parent, so the `parentbased_` samplers decide by what they are based on.
    """
    name = os.environ.get(_SAMPLER, "").strip().lower()
    argument = os.environ.get(_ARGUMENT, "").strip()
    base = name.removeprefix("parentbased_")
    if base in ("", "always_on"):
        return None
    from opentelemetry.sdk.trace import sampling  # noqa: PLC0415

    sampler: sampling.Sampler
    if base == "always_off":
        sampler = sampling.ALWAYS_OFF
    elif base == _RATIO:
        sampler = sampling.TraceIdRatioBased(_ratio(argument))
    else:
        found = _third_party(name, argument)
        if found is None:
            return None
        sampler = found

    def decide(trace_id: int) -> bool:
        try:
            return (
                sampler.should_sample(None, trace_id, "rollout").decision
                is sampling.Decision.RECORD_AND_SAMPLE
            )
        except Exception:  # noqa: BLE001 - somebody else's sampler
            health.internal_error("sampler")
            return True

    return decide


def _ratio(argument: str) -> float:
    try:
        ratio = float(argument or "1")
        if 0.0 <= ratio <= 1.0:
            return ratio
    except ValueError:
        pass
    health.warn_once(
        "config.sampler_arg",
        "rollspan: %s=%r: expected a number from 0 to 1; every trace is exported",
        _ARGUMENT,
        argument,
    )
    return 1.0


def _third_party(name: str, argument: str):  # type: ignore[no-untyped-def]
    for entry in entry_points(group="opentelemetry_traces_sampler", name=name):
        try:
            return entry.load()(argument)
        except Exception as exc:  # noqa: BLE001
            health.warn_once("config.sampler_failed", "rollspan: sampler %r cannot be made: %s", name, exc)
            return None
    health.warn_once(
        "config.sampler",
        "rollspan: %s=%r: expected always_on, always_off, traceidratio, parentbased_<one of these> or an installed "
        "sampler; every trace is exported",
        _SAMPLER,
        name,
    )
    return None

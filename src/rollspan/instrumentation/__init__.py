"""Frameworks that are traced without a change of their code: each is met when it is imported, if ever."""

from __future__ import annotations

import os

from . import imports

TYPE_CHECKING = False  # this is loaded at every start of an interpreter in a job
if TYPE_CHECKING:
    from collections.abc import Callable

FRAMEWORKS = {
    "areal": (
        "areal.utils.perf_tracer",
        "areal.infra.remote_inf_engine",
        "areal.engine.fsdp_engine",
        "areal.engine.megatron_engine",
        "areal.experimental.engine.archon_engine",
    ),
    "torch": ("torch.optim.optimizer", "torch.distributed.distributed_c10d"),
}
"""By name, which is also that of the package here: the framework's modules after each of which something is wrapped."""

_ASKED_FOR_BY = {"torch": "ROLLSPAN_TORCH_SCOPES"}
"""Those that are left alone unless a setting asks for them."""

_DISABLED = "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS"


def arm(*asked_for: str) -> None:
    """Instrument what this process has imported or will, but for what OpenTelemetry's variable leaves out.

    `asked_for` are those that a setting asks for, where the environment does not.
    """
    left_out = {name.strip() for name in os.environ.get(_DISABLED, "").split(",")}
    for name, modules in FRAMEWORKS.items():
        asked = _ASKED_FOR_BY.get(name)
        if asked and name not in asked_for and not os.environ.get(asked, "").strip():
            continue
        if not left_out & {"*", name, f"rollspan-{name}"}:
            for module in modules:
                imports.after(module, _enabler(name, module))


def _enabler(name: str, module: str) -> Callable[[], None]:
    def enable() -> None:
        from importlib import import_module  # noqa: PLC0415 - start-up loads what it needs and no more

        from rollspan import health  # noqa: PLC0415

        from .patches import DidNotEnable  # noqa: PLC0415

        try:
            import_module(f".{name}", __name__).enable(module)
        except DidNotEnable as why:
            health.warn_once(f"instrumentation.{name}", "rollspan: %s is not instrumented: %s", name, why)
        except Exception:  # noqa: BLE001 - the framework goes on, untraced
            health.internal_error(f"instrumentation.{name}")

    return enable

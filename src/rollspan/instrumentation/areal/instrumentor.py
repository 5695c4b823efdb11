"""The door for `opentelemetry-instrument`; needs opentelemetry-instrumentation, which that command brings."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from typing import Any

from opentelemetry.instrumentation.instrumentor import BaseInstrumentor  # type: ignore[attr-defined]

from rollspan.instrumentation import imports

from . import PARTS, VERSIONS, disable, enable, is_enabled


class ArealInstrumentor(BaseInstrumentor):  # type: ignore[misc]
    """Traces AReaL where rollspan is on: now, if it has been imported, else once it is."""

    def instrumentation_dependencies(self) -> Collection[str]:
        """The versions that are known."""
        return tuple(f"areal == {version}" for version in VERSIONS)

    @property
    def is_instrumented_by_opentelemetry(self) -> bool:
        """Whether AReaL is traced, be it by this or by the environment."""
        return is_enabled() or bool(self._is_instrumented_by_opentelemetry)

    def uninstrument(self, **kwargs: Any) -> Any:
        """Put everything back, be it wrapped by this or by the environment."""
        self._is_instrumented_by_opentelemetry = self.is_instrumented_by_opentelemetry
        return super().uninstrument(**kwargs)

    def _instrument(self, **kwargs: Any) -> None:
        for module in PARTS:
            imports.after(module, partial(enable, module))

    def _uninstrument(self, **kwargs: Any) -> None:
        for module in PARTS:
            imports.never_mind(module)
        disable()

"""The door for `opentelemetry-instrument`; needs opentelemetry-instrumentation, which that command brings."""

from __future__ import annotations

import os
from collections.abc import Collection
from typing import Any

from opentelemetry.instrumentation.instrumentor import BaseInstrumentor  # type: ignore[attr-defined]

from .autostart import start


class RolloutInstrumentor(BaseInstrumentor):  # type: ignore[misc]
    """Turns rollspan on in the program and its children, unless ROLLSPAN_ENABLED says no."""

    def instrumentation_dependencies(self) -> Collection[str]:
        """Nothing but rollspan itself is needed."""
        return ()

    def _instrument(self, **kwargs: Any) -> None:
        self._set_here = not os.environ.get("ROLLSPAN_ENABLED", "").strip()
        if self._set_here:
            os.environ["ROLLSPAN_ENABLED"] = "1"
        start()

    def _uninstrument(self, **kwargs: Any) -> None:
        if self._set_here:
            os.environ.pop("ROLLSPAN_ENABLED", None)

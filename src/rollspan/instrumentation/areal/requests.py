"""What a session's HTTP requests carry: their place in its trace, so that a server's own spans hang below it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from opentelemetry import propagate

from rollspan import context, health, switch
from rollspan.instrumentation.patches import Patches


def wrap(patches: Patches, session: type) -> None:
    """Put headers on what `aiohttp.ClientSession` sends from inside a session, by OTEL_PROPAGATORS."""

    def _request(inside: Callable[..., Any]) -> Callable[..., Any]:
        def _request(self: Any, method: str, str_or_url: Any, **kwargs: Any) -> Any:
            try:
                if switch.runtime() is not None and context.current() is not None:
                    kwargs["headers"] = _with_place(kwargs.get("headers"))
            except Exception:  # noqa: BLE001
                health.internal_error("areal.request")
            return inside(self, method, str_or_url, **kwargs)

        return _request

    patches.wrap(session, "_request", _request)


def _with_place(headers: Any) -> list[tuple[str, str]]:
    """The request's own headers, and those that it lacks."""
    given = list(headers.items() if hasattr(headers, "items") else headers or ())
    has = {str(name).lower() for name, _ in given}
    place: dict[str, str] = {}
    propagate.inject(place)
    return [*given, *((name, value) for name, value in place.items() if name.lower() not in has)]

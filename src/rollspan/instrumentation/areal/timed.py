"""A scope of AReaL's and our span of it, entered and left together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rollspan.scope import Scope
from rollspan.span import RolloutSpan


class Timed(Scope):
    """A span below `above`, of a session or a step."""

    __slots__ = ("_above", "_entered", "_name", "_said")

    def __init__(self, above: RolloutSpan, name: str, said: Mapping[str, Any]) -> None:
        super().__init__()
        self._above = above
        self._name = name
        self._said = said

    def _start(self) -> RolloutSpan | None:
        return self._above.owner.start_phase(self._name, self._said, self._above)

    def _finish(self, span: RolloutSpan, exc: BaseException | None) -> None:
        if exc is not None:
            span.fail(exc)
        span.end()


class Both:
    """One of AReaL's scopes in one of ours."""

    __slots__ = ("_inside", "_ours")

    def __init__(self, ours: Any, inside: Any) -> None:
        self._ours = ours
        self._inside = inside

    def __enter__(self) -> Any:
        self._ours.__enter__()
        return self._inside.__enter__()

    def __exit__(self, *left_by: Any) -> Any:
        try:
            return self._inside.__exit__(*left_by)
        finally:
            self._ours.__exit__(*left_by)

    async def __aenter__(self) -> Any:
        self._ours.__enter__()
        return await self._inside.__aenter__()

    async def __aexit__(self, *left_by: Any) -> Any:
        try:
            return await self._inside.__aexit__(*left_by)
        finally:
            self._ours.__exit__(*left_by)

"""A scope of AReaL's and our span of it, entered and left together."""

from __future__ import annotations

from typing import Any

from rollspan.session_scopes import SessionPhase
from rollspan.span import RolloutSpan


class Timed(SessionPhase):
    """A span below another one, of a session or a step."""

    __slots__ = ()

    def _start(self) -> RolloutSpan | None:
        above = self._session
        return above.owner.start_phase(self._name, self._attributes, above)  # type: ignore[no-any-return]


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

"""What the API hands out while there is nothing to record: one object with every method of the real ones.

The signatures are those of `Session`, `Step` and `RolloutSpan`, so that a wrong call fails while rollspan is off,
in the first test of a program, and not when it is turned on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from . import semconv

if TYPE_CHECKING:
    from .stats import RolloutStats


class Null:
    """Stands in for a session, a step or a span while rollspan is off, or where there is no session."""

    __slots__ = ()

    session_id = ""
    trace_id = ""
    name = ""
    number: Any = None
    status = "pending"
    ended = True

    def __enter__(self) -> Null:
        return self

    def __exit__(self, *exc: object) -> None:
        return None

    async def __aenter__(self) -> Null:
        return self

    async def __aexit__(self, *exc: object) -> None:
        return None

    def __bool__(self) -> bool:
        return False

    def __call__(self, function: Any) -> Any:
        return function

    def __repr__(self) -> str:
        return "<rollspan: not recording>"

    # A session's.

    def execution(self, **attributes: Any) -> Null:
        """Itself, to be entered."""
        return self

    def phase(self, name: str, /, **attributes: Any) -> Null:
        """Itself, to be entered."""
        return self

    def activate(self) -> Null:
        """Itself, to be entered."""
        return self

    def carrier(self) -> dict[str, str]:
        """Nothing to take along."""
        return {}

    def mark_enqueued(self) -> None:
        """Nothing."""

    def mark_accepted(self, *, stats: RolloutStats | None = None, reward: float | None = None) -> None:
        """Nothing."""

    def mark_rejected(
        self,
        reason: str | BaseException = semconv.SHOULD_ACCEPT_FALSE,
        *,
        stats: RolloutStats | None = None,
        reward: float | None = None,
    ) -> None:
        """Nothing."""

    def mark_failed(self, exc: BaseException | None = None, *, stats: RolloutStats | None = None) -> None:
        """Nothing."""

    def mark_dropped(self, reason: str | BaseException, *, stats: RolloutStats | None = None) -> None:
        """Nothing."""

    def mark_consumed(self) -> None:
        """Nothing."""

    def abort(self, reason: str) -> None:
        """Nothing."""

    def count(self, name: str, n: int = 1) -> None:
        """Nothing."""

    # A span's, some of them a session's and a step's too.

    def is_recording(self) -> bool:
        """False."""
        return False

    def get_span_context(self) -> Any:
        """OpenTelemetry's invalid span context."""
        from opentelemetry.trace import INVALID_SPAN_CONTEXT  # noqa: PLC0415 - off, nothing loads OpenTelemetry

        return INVALID_SPAN_CONTEXT

    def set_attribute(self, key: str, value: Any) -> None:
        """Nothing."""

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Nothing."""

    def add_event(self, name: str, attributes: Any = None, timestamp: int | None = None) -> None:
        """Nothing."""

    def add_link(self, context: Any, attributes: Any = None) -> None:
        """Nothing."""

    def update_name(self, name: str) -> None:
        """Nothing."""

    def set_status(self, status: Any, description: str | None = None) -> None:
        """Nothing."""

    def record_exception(self, exception: BaseException, *args: Any, **kwargs: Any) -> None:
        """Nothing."""

    def end(self, end_time: int | None = None) -> None:
        """Nothing."""

    def record_generation(self, **given: Any) -> None:
        """Nothing."""

    def record_reward(self, score: float, name: str | None = None) -> None:
        """Nothing."""

    def record_tool_call(self, tool: str, call_id: str | None = None, **content: Any) -> None:
        """Nothing."""


NULL = Null()

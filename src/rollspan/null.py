"""What the API hands out while there is nothing to record: one object that accepts everything."""

from __future__ import annotations

from typing import Any


class Null:
    """Stands in for a session, a step or a span while rollspan is off, or where there is no session."""

    __slots__ = ()

    session_id = ""
    trace_id = ""
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

    def _nothing(self, *args: Any, **kwargs: Any) -> None:
        return None

    def _itself(self, *args: Any, **kwargs: Any) -> Null:
        return self

    def _empty(self) -> dict[str, str]:
        return {}

    def is_recording(self) -> bool:
        """False."""
        return False

    def get_span_context(self) -> Any:
        """OpenTelemetry's invalid span context."""
        from opentelemetry.trace import INVALID_SPAN_CONTEXT  # noqa: PLC0415 - off, nothing loads OpenTelemetry

        return INVALID_SPAN_CONTEXT

    execution = phase = activate = _itself
    carrier = _empty
    mark_enqueued = mark_accepted = mark_rejected = mark_failed = mark_dropped = mark_consumed = _nothing
    count = end = set_attribute = set_attributes = add_event = add_link = update_name = _nothing
    set_status = record_exception = record_generation = record_reward = record_tool_call = _nothing


NULL = Null()

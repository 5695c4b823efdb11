"""What AReaL's events say of a session: those of 1.0.4 and those of pull request 539, whose names do not clash."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any

from rollspan import health, semconv

from .tracked import Tracked


class SessionTraceEvent(str, Enum):
    """AReaL 1.0.4's."""

    FINALIZED = "finalized"
    GENERATE_START = "generate_start"
    GENERATE_END = "generate_end"
    REWARD_START = "reward_start"
    REWARD_END = "reward_end"
    TOOLCALL_START = "toolcall_start"
    TOOLCALL_END = "toolcall_end"


class SessionTraceEvent539(str, Enum):
    """Pull request 539's."""

    ENQUEUED = "enqueued"
    EXECUTION_START = "execution_start"
    EXECUTION_END = "execution_end"
    CONSUMED = "consumed"
    GENERATE_START = "generate_start"
    GENERATE_END = "generate_end"
    REWARD_START = "reward_start"
    REWARD_END = "reward_end"
    DROPPED = "dropped"


def tell(tracked: Tracked | None, event: Any, payload: Mapping[str, Any]) -> None:
    """A session is told of an event; one that is over, or nobody knows, is not."""
    try:
        if tracked is not None:
            _tell(tracked, str(getattr(event, "value", event)).removeprefix("mark_"), payload)
    except Exception:  # noqa: BLE001
        health.internal_error("compat.areal.event")


def _tell(tracked: Tracked, event: str, payload: Mapping[str, Any]) -> None:
    name, _, edge = event.rpartition("_")
    if event == "increment_counter":
        if payload.get("name"):
            tracked.session.count(payload["name"], payload.get("value", 1))
    elif event == "finalized":
        tracked.finalize(payload.get("status"), payload.get("reason"))
    elif event == "enqueued":
        tracked.session.mark_enqueued()
    elif event == "consumed":
        tracked.session.mark_consumed()
    elif event == "dropped":
        tracked.end(semconv.EXECUTION, {})
        tracked.judge(semconv.DROPPED, payload.get("rejection_reason"), payload.get("rollout_stats"))
    elif event == "execution_end":
        tracked.end(semconv.EXECUTION, {})
        if payload.get("status") is not None:
            tracked.judge(payload["status"], payload.get("rejection_reason"), payload.get("rollout_stats"))
    elif name and edge == "start":
        tracked.begin(name, payload)
    elif name and edge == "end":
        tracked.end(name, payload)

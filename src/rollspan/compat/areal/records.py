"""A session's record under the names that AReaL's session tracer writes, and those that it had at first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from rollspan import semconv
from rollspan.finished import FinishedTrace
from rollspan.spandata import AttributeValue

TASK: Final = "areal.task_id"
SESSION: Final = "areal.session_id"
"""Attribute: AReaL's number of a session, which is its `request_id`."""
REASON: Final = "areal.reason"
"""Attribute: why, where rollspan has no such reason."""

REASONS: Final = {
    "rejected": semconv.SHOULD_ACCEPT_FALSE,
    "returned_none": semconv.WORKFLOW_RETURNED_NONE,
}
"""AReaL's words for them, and ours."""

_REASONS_OF_AREAL: Final = {ours: theirs for theirs, ours in REASONS.items()}
_DURATIONS: Final = {"generate_s": "generate_s", "reward_calc_s": "reward_s", "toolcall_s": "toolcall_s"}
_FIELDS_539: Final = (
    *("enqueue_ts", "wait_return_ts", "rollout_stats", "queue_wait_s", "runner_wait_s", "execution_s"),
    *("post_wait_s", "total_s", "generate_s", "reward_calc_s", "toolcall_s"),
)


class SessionLines:
    """As AReaL 1.0.4 has them."""

    kind = "sessions"

    def __init__(self, rank: int, role: str | None = None) -> None:
        self._rank = rank
        self._role = role

    def about(self) -> dict[str, Any]:
        """What makes another one like it."""
        return {"rank": self._rank, "role": self._role}

    def renew(self) -> None:
        """Nothing of it has been written, which is all the same here."""

    def of(self, trace: FinishedTrace, resource: Mapping[str, AttributeValue]) -> Iterator[Mapping[str, Any]]:
        """One line for a session that is AReaL's."""
        record = trace.record
        if record is not None:
            said = trace.spans[0].attributes
            if self._marked_by in said:
                yield self._line(record, said)

    _marked_by = TASK

    def _line(self, record: Mapping[str, Any], said: Mapping[str, AttributeValue]) -> Mapping[str, Any]:
        # It says how long a rollout was worked on: what waits for the trainer is done.
        total = record["total_s"]
        if record["status"] == semconv.ACCEPTED:
            total = max(total - record.get("post_wait_s", 0.0), 0.0)
        reason = record.get("rejection_reason", "")
        line = {
            "task_id": said[TASK],
            "session_id": record["request_id"],
            "rank": self._rank,
            "role": self._role,
            "status": record["status"],
            "reason": said.get(REASON) or _REASONS_OF_AREAL.get(reason, reason) or None,
            "submit_ts": record["submit_ts"],
            "finalized_ts": record["submit_ts"] + total,
            "total_s": total,
            **{theirs: record.get(ours) for ours, theirs in _DURATIONS.items()},
            "phases": {n: spans for n, spans in record["phases"].items() if n != semconv.EXECUTION},
        }
        return _complete(line, record)


class SessionLines539(SessionLines):
    """As pull request 539 had them."""

    kind = "sessions-539"
    _marked_by = SESSION

    def _line(self, record: Mapping[str, Any], said: Mapping[str, AttributeValue]) -> Mapping[str, Any]:
        line = {
            "session_id": record["request_id"],
            "rank": self._rank,
            "status": record["status"],
            "rejection_reason": said.get(REASON) or record.get("rejection_reason"),
            "submit_ts": record["submit_ts"],
            **{name: record.get(name) for name in _FIELDS_539},
            "phases": record["phases"],
        }
        return _complete(line, record)


def _complete(line: dict[str, Any], record: Mapping[str, Any]) -> Mapping[str, Any]:
    """Without what there is none of; with the way to its trace."""
    line |= {"phases": line["phases"] or None, "counters": record.get("counters") or None}
    return {**{key: v for key, v in line.items() if v is not None}, "trace_id": record["trace_id"]}

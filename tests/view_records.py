"""A record to vary, and how its pictures read as text."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console, RenderableType

BEGIN = 1_760_000_000.0


def a_record(**changes: Any) -> dict[str, Any]:
    """A rollout of 1 s: 0.1 queued, 0.1 waiting for the runner, 0.5 at work, 0.3 waiting for the trainer."""
    record: dict[str, Any] = {
        "request_id": 3,
        "rank": 0,
        "status": "accepted",
        "submit_ts": BEGIN,
        "enqueue_ts": BEGIN + 0.1,
        "wait_return_ts": BEGIN + 1.0,
        "queue_wait_s": 0.1,
        "runner_wait_s": 0.1,
        "execution_s": 0.5,
        "post_wait_s": 0.3,
        "total_s": 1.0,
        "generate_s": 0.4,
        "reward_calc_s": 0.05,
        "unattributed_s": 0.05,
        "phases": {
            "reward": [{"start_ts": BEGIN + 0.62, "end_ts": BEGIN + 0.67}],
            "generate": [{"start_ts": BEGIN + 0.21, "end_ts": BEGIN + 0.61}],
            "execution": [{"start_ts": BEGIN + 0.2, "end_ts": BEGIN + 0.7}],
        },
        "session_id": "ab" * 16,
        "trace_id": "ab" * 16,
        "task_id": 7,
        "late_spans": 0,
    }
    return {key: value for key, value in (record | changes).items() if value is not None}


def rendered(what: RenderableType, width: int = 80, encoding: str = "utf-8") -> str:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    Console(file=stream, width=width, color_system=None, highlight=False).print(what)
    stream.flush()
    return stream.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined,no-any-return]

"""rollspan as a program uses it: public functions, default settings, the journal where it lies by default."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import rollspan
from benchmarks.workload import FINISH_REASON, MODEL, PROVIDER, WORKFLOW, Rollout
from rollspan.native import is_built


class RollspanTracer:
    """The file of records, and with an endpoint traces and records over OTLP/HTTP too."""

    def __init__(self, folder: Path, endpoint: str | None, *, native: bool) -> None:
        # Metrics are left out: nobody else here makes any.
        rollspan.configure(dir=folder, endpoint=endpoint, metrics_exporters=(), native=native)

    def session(self, rollout: Rollout) -> None:
        """Ten attributes of the root: the three given here, and the ids, number, status and so on it sets itself."""
        with (
            rollspan.session(task_id=rollout.number, group_id=rollout.group, workflow=WORKFLOW),
            rollspan.phase("execution"),
        ):
            with rollspan.phase("generate", model=MODEL, provider=PROVIDER):
                rollspan.record_generation(
                    input_tokens=rollout.input_tokens,
                    output_tokens=rollout.output_tokens,
                    finish_reasons=FINISH_REASON,
                )
            with rollspan.phase("reward"):
                rollspan.record_reward(rollout.score)

    def finish(self) -> None:
        """Until exporters have caught up with the journal."""
        if not rollspan.flush(60.0):
            raise RuntimeError("rollspan did not deliver everything within a minute")

    def versions(self) -> dict[str, str]:
        parts = "with its parts in C" if is_built() else "without parts in C"
        return {"rollspan": f"{rollspan.__version__} {parts}", "orjson": version("orjson")}

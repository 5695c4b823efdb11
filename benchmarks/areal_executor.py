"""What tracing costs where AReaL runs: its executor over an engine that does nothing, untraced, with its own session
tracer, and with rollspan, in one interleaved run: `python -m benchmarks.areal_executor`.

It needs AReaL with all that it needs itself (`make bench-areal` installs it); else it says so and is skipped.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence

from rich.console import Console

from .beside_areal import Round, holds, of_the_machine, parser, run
from .driver import BenchmarkError
from .executor_child import AREAL, MODES, ROLLSPAN, UNTRACED

BOUND = 1.0
"""What a session may cost with rollspan, in the time that the executor takes for it, in multiples of AReaL's tracer."""

_MEASURES = ("wall", "hot", "total")


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 1 where something failed, or with --check the bound does not hold."""
    asking = parser("benchmarks.areal_executor", __doc__, 20)
    asking.add_argument("--tasks", type=int, default=1000, help="tasks in a round (%(default)s)")
    asked = asking.parse_args(arguments)
    console = Console(highlight=False)
    try:
        done = run(console, asked, "benchmarks.executor_child", MODES, asked.tasks)
    except BenchmarkError as error:
        console.print(str(error), style="red", markup=False, soft_wrap=True)
        return 1
    if done is None:
        return 0
    is_within = _show(console, done[0], asked.tasks, done[1])
    return 1 if asked.check and not is_within else 0


def _show(console: Console, rounds: Sequence[Round], tasks: int, versions: dict[str, str]) -> bool:
    for mode in MODES:
        told = []
        for measure in _MEASURES:
            each = [r[mode][measure] / r[AREAL][measure] for r in rounds]
            low, ratio, high = statistics.quantiles(each, n=4, method="inclusive")
            here = statistics.median(r[mode][measure] for r in rounds)
            told.append(f"{measure} {ratio:.2f} [{low:.2f}-{high:.2f}] {here:4.0f} µs")
        console.print(f"{mode:9} {'   '.join(told)}", markup=False, soft_wrap=True)
    cost = statistics.median(
        (r[ROLLSPAN]["wall"] - r[UNTRACED]["wall"]) / (r[AREAL]["wall"] - r[UNTRACED]["wall"]) for r in rounds
    )
    console.print(
        f"Median and [quartiles] of {len(rounds)} interleaved rounds of {tasks} tasks, in multiples of AReaL's tracer in "
        "the same round. wall: until the trainer has all results; hot: the process's CPU time until then; total: until "
        f"rollspan has delivered too. Tracing alone: {cost:.2f} times AReaL's.\n"
        f"{of_the_machine(versions)}",
        markup=False,
        soft_wrap=True,
        style="dim",
    )
    return holds(console, rounds, ROLLSPAN, AREAL, BOUND)


if __name__ == "__main__":
    sys.exit(main())

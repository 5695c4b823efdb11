"""What a session costs in rollspan's executor of rollouts, beside AReaL's own, each with its own tracing, over an engine
that does nothing, in one interleaved run: `python -m benchmarks.rollout_runtime`.

It needs AReaL with all that it needs itself (`make bench-areal` installs it); else it says so and is skipped.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence

from rich.console import Console

from .beside_areal import Round, holds, of_the_machine, parser, run
from .driver import BenchmarkError
from .runtime_child import AREAL, CHECKED, MODES, ROLLSPAN, WAYS

BOUND = 0.5
"""What a session may cost until the trainer has it, by the wall clock, in multiples of AReaL's executor: in either way,
with trajectories unchecked. The two checks are not of the same things, so theirs is a line without a bound."""

_MEASURES = ("wall", "hot", "total")


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 1 where something failed, or with --check the bound does not hold."""
    asking = parser("benchmarks.rollout_runtime", __doc__, 20)
    asking.add_argument("--sessions", type=int, default=1000, help="sessions in a round (%(default)s)")
    asked = asking.parse_args(arguments)
    console = Console(highlight=False)
    try:
        done = run(console, asked, "benchmarks.runtime_child", MODES, asked.sessions)
    except BenchmarkError as error:
        console.print(str(error), style="red", markup=False, soft_wrap=True)
        return 1
    if done is None:
        return 0
    rounds, versions = done
    are_within = True
    for way in WAYS:
        in_this = [{mode: answer[way] for mode, answer in answers.items()} for answers in rounds]
        _show(console, way, in_this)
        if way != CHECKED:
            are_within &= holds(console, in_this, ROLLSPAN, AREAL, BOUND)
    console.print(
        f"Median and [quartiles] of {len(rounds)} interleaved rounds of {asked.sessions} sessions, in multiples of "
        "AReaL's executor in the same round. wall: until the trainer has all; hot: the process's CPU time until then, "
        "that of rollspan's worker included; total: until rollspan has delivered too.\n"
        f"{of_the_machine(versions)}",
        markup=False,
        soft_wrap=True,
        style="dim",
    )
    return 1 if asked.check and not are_within else 0


def _show(console: Console, way: str, rounds: Sequence[Round]) -> None:
    told = []
    for measure in _MEASURES:
        each = [r[ROLLSPAN][measure] / r[AREAL][measure] for r in rounds]
        low, ratio, high = statistics.quantiles(each, n=4, method="inclusive")
        ours, theirs = (statistics.median(r[mode][measure] for r in rounds) for mode in (ROLLSPAN, AREAL))
        told.append(f"{measure} {ratio:.2f} [{low:.2f}-{high:.2f}] {ours:3.0f} / {theirs:3.0f} µs")
    console.print(f"{way:24}  {'   '.join(told)}", markup=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())

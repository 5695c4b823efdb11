"""What a timed scope costs the thread that enters it, beside AReaL's own tracer, in one interleaved run:
`python -m benchmarks.areal_scopes`. AReaL writes its file at the end of a step, by that thread.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence

from rich.console import Console

from .beside_areal import Round, holds, of_the_machine, parser, run
from .driver import BenchmarkError
from .scopes_child import AREAL, MODES, ROLLSPAN

BOUND = 0.3
"""What a scope may cost on the caller, by the wall clock, in multiples of AReaL's."""

SIZES = (20, 200)
"""Scopes in a step, as trainers have them."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 1 where something failed, or with --check the bound does not hold."""
    asking = parser("benchmarks.areal_scopes", __doc__, 10)
    asking.add_argument("--scopes", type=int, nargs="+", default=SIZES, help="scopes in a step (20 200)")
    asked = asking.parse_args(arguments)
    console = Console(highlight=False)
    are_within = True
    for size in asked.scopes:
        try:
            done = run(console, asked, "benchmarks.scopes_child", MODES, size)
        except BenchmarkError as error:
            console.print(str(error), style="red", markup=False, soft_wrap=True)
            return 1
        if done is None:
            return 0
        are_within &= _show(console, done[0], size)
        versions = done[1]
    console.print(
        f"Median and [quartiles] of {asked.rounds} interleaved rounds of ten steps, in multiples of AReaL's tracer in "
        "the same round; wall clock and CPU of the thread, steps and their end included.\n"
        f"{of_the_machine(versions)}",
        markup=False,
        soft_wrap=True,
        style="dim",
    )
    return 1 if asked.check and not are_within else 0


def _show(console: Console, rounds: Sequence[Round], size: int) -> bool:
    for mode in MODES[1:]:
        told = []
        for measure in ("wall", "cpu"):
            low, ratio, high = statistics.quantiles(
                [r[mode][measure] / r[AREAL][measure] for r in rounds], n=4, method="inclusive"
            )
            told.append(f"{measure} {ratio:.2f} [{low:.2f}-{high:.2f}]")
        console.print(f"{size:5} scopes a step  {mode:9}  {'   '.join(told)}", markup=False, soft_wrap=True)
    return holds(console, rounds, ROLLSPAN, AREAL, BOUND)


if __name__ == "__main__":
    sys.exit(main())

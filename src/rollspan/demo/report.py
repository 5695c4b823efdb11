"""What the demo shows while it trains, and the curve at the end."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from rollspan.demo.trainer import StepReport

HEIGHT = 6
BLOCKS = " ▁▂▃▄▅▆▇█"
ASCII_BLOCKS = " ...:::##"


class Watch:
    """Shows the steps as they come: a live line in a terminal, plain lines elsewhere. A context manager."""

    def __init__(self, console: Console, steps: int) -> None:
        self.rewards: list[float] = []
        self._console = console
        self._steps = steps
        self._live = Progress(
            SpinnerColumn(),
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(bar_width=24),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._bar = self._live.add_task("starting the server", total=steps)

    def __enter__(self) -> Watch:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._live.stop()

    def step(self, report: StepReport) -> None:
        """One more step is done."""
        self.rewards.append(report.reward)
        stats = report.stats
        line = (
            f"reward {report.reward:.2f}  groups: {stats.enqueued} queued, {stats.running} running, "
            f"{stats.accepted + stats.rejected} finished"
        )
        if report.evaluation is not None:
            line += f"  evaluation {report.evaluation:.2f}"
        self._live.update(self._bar, advance=1, description=line)
        if self._live.disable and (
            report.step == 0 or report.step % 5 == 4 or report.step + 1 == self._steps
        ):
            self._console.print(f"step {report.step + 1}/{self._steps}  {line}", soft_wrap=True)


def reward_chart(rewards: Sequence[float], width: int, *, ascii_only: bool = False) -> Text:
    """Columns of blocks, one for each step (or for several, where `width` has no room for all), from 0 to the top."""
    shown = fit(rewards, max(width - 8, 1))
    top = max(*shown, 0.1)
    blocks = ASCII_BLOCKS if ascii_only else BLOCKS
    text = Text.assemble(("reward of each step\n", "bold"))
    for row in reversed(range(HEIGHT)):
        label = f"{top * (row + 1) / HEIGHT:5.2f} " if row % 2 else " " * 6
        levels = (round((reward / top * HEIGHT - row) * 8) for reward in shown)
        text.append(label, "dim")
        text.append("".join(blocks[min(max(level, 0), 8)] for level in levels).rstrip() + "\n", "green")
    text.append(f"{'':6}step 0 to {len(rewards) - 1}: from {rewards[0]:.2f} to {rewards[-1]:.2f}", "dim")
    return text


def fit(values: Sequence[float], width: int) -> list[float]:
    """At most `width` values: each the mean of as many neighbours as need be."""
    share = -(-len(values) // width)
    parts = [values[at : at + share] for at in range(0, len(values), share)]
    return [sum(part) / len(part) for part in parts]

"""The task: put digits in order. What scores it runs in a pool of processes, so this file imports no torch."""

from __future__ import annotations

import asyncio
import itertools
import math
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rollspan.demo.config import DemoConfig

# Tokens 0 to 9 are the digits.
EQUALS = 10  # ends the prompt
TOOL = 11  # the policy asks for the next digit instead of knowing it
END = 12
PADDING = 13
VOCABULARY = 14


@dataclass(frozen=True)
class Task:
    """Digits to sort; `tool_takes_s` is how long this task's tool takes beyond the usual, for ever where infinite."""

    task_id: int
    digits: tuple[int, ...]
    tool_takes_s: float = 0.0

    @property
    def prompt(self) -> list[int]:
        """The prompt's tokens: `3 1 2 =`."""
        return [*self.digits, EQUALS]


def tasks(config: DemoConfig, *, evaluation: bool = False) -> Iterator[Task]:
    """Endless tasks, the same for the same seed; those for evaluation are others, and their tools are quick."""
    rng = random.Random(f"{config.seed} {evaluation}")
    for task_id in itertools.count():
        too_long = rng.random() < config.long_prompt_probability
        digits = tuple(rng.randrange(10) for _ in range(config.digits * (3 if too_long else 1)))
        slow, hangs = (rng.random() < p for p in (config.slow_tool_probability, config.tool_hang_probability))
        takes = math.inf if hangs else config.slow_tool_s if slow else 0.0
        yield Task(task_id, digits, 0.0 if evaluation else takes)


def score(digits: Sequence[int], answer: Sequence[int]) -> float:
    """Share of the tokens of `answer` (END included) that stand where they should, 0 to 1.

    Raises ValueError for an answer that begins with neither a digit nor END.
    """
    if answer[0] in (EQUALS, PADDING):
        raise ValueError(f"an answer begins with a digit, not with token {answer[0]}")
    wanted = [*sorted(digits), END]
    return sum(given == right for given, right in zip(answer, wanted, strict=False)) / len(wanted)


async def next_digit(task: Task, answer: Sequence[int]) -> int:
    """The tool: the smallest digit that `answer` still lacks (END where it lacks none)."""
    await asyncio.sleep(min(task.tool_takes_s, 3600) + 0.001 * len(answer))  # a remote tool takes its time
    left = Counter(task.digits) - Counter(answer)
    return min(left, default=END)

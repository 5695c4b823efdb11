"""The task: put digits in order. What scores it runs in a pool of processes, so this file imports no torch."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import rollspan
from rollspan.demo.config import DemoConfig

# Tokens 0 to 9 are the digits.
EQUALS = 10  # ends the prompt
TOOL = 11  # the policy asks for the next digit instead of knowing it
END = 12
PADDING = 13
VOCABULARY = 14


@dataclass(frozen=True)
class Task:
    """Digits to sort; `tool_hangs` says that this task's tool will never answer."""

    task_id: int
    digits: tuple[int, ...]
    tool_hangs: bool = False

    @property
    def prompt(self) -> list[int]:
        """The prompt's tokens: `3 1 2 =`."""
        return [*self.digits, EQUALS]


def tasks(config: DemoConfig) -> Iterator[Task]:
    """Endless tasks, the same for the same seed."""
    rng = random.Random(config.seed)
    task_id = 0
    while True:
        too_long = rng.random() < config.long_prompt_probability
        digits = tuple(rng.randrange(10) for _ in range(config.digits * (3 if too_long else 1)))
        yield Task(task_id, digits, tool_hangs=rng.random() < config.tool_hang_probability)
        task_id += 1


@rollspan.phase("reward")
def score(digits: Sequence[int], answer: Sequence[int]) -> float:
    """Share of the tokens of `answer` (END included) that stand where they should, 0 to 1.

    Raises ValueError for an answer that begins with neither a digit nor END.
    """
    if answer[0] in (EQUALS, PADDING):
        raise ValueError(f"an answer begins with a digit, not with token {answer[0]}")
    wanted = [*sorted(digits), END]
    reward = sum(given == right for given, right in zip(answer, wanted, strict=False)) / len(wanted)
    rollspan.record_reward(reward, "sorted")
    return reward


async def next_digit(task: Task, answer: Sequence[int]) -> int:
    """The tool: the smallest digit that `answer` still lacks (END where it lacks none)."""
    if task.tool_hangs:
        await asyncio.sleep(3600)
    await asyncio.sleep(0.001 * len(answer))  # a remote tool takes its time
    left = Counter(task.digits) - Counter(answer)
    return min(left, default=END)

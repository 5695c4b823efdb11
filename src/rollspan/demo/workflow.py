"""One rollout: the policy writes, a tool helps it once if asked, another process scores the answer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field

import rollspan
from rollspan.demo.client import EngineClient
from rollspan.demo.config import DemoConfig
from rollspan.demo.task import END, TOOL, Task, next_digit, score


@dataclass
class Trajectory:
    """Tokens of one rollout, prompt first; `mask` is true for those that the policy itself wrote."""

    tokens: list[int]
    mask: list[bool]
    logprobs: list[float]  # 0 where the policy did not write
    reward: float = 0.0
    weight_versions: set[int] = field(default_factory=set)

    def append(self, tokens: Sequence[int], logprobs: Sequence[float] | None = None) -> None:
        """Add tokens of the policy, or without `logprobs` those of somebody else."""
        self.tokens += tokens
        self.mask += [logprobs is not None] * len(tokens)
        self.logprobs += logprobs if logprobs is not None else [0.0] * len(tokens)


class SortWorkflow:
    """Runs rollouts of the sorting task."""

    def __init__(self, config: DemoConfig, engine: EngineClient, scorers: Executor) -> None:
        self._config = config
        self._engine = engine
        self._scorers = scorers

    async def run(self, task: Task) -> Trajectory | None:
        """The finished rollout; None for a prompt that is too long for the policy."""
        if len(task.prompt) > self._config.max_prompt_tokens:
            return None
        trajectory = Trajectory([], [], [])
        trajectory.append(task.prompt)
        answer = await self._write(trajectory, stop=[END, TOOL])
        if answer[-1] == TOOL:
            del answer[-1]
            with rollspan.phase("toolcall", tool="next_digit"):
                digit = await next_digit(task, answer)
            trajectory.append([digit])
            answer.append(digit)
            answer += await self._write(trajectory, stop=[END])
        loop = asyncio.get_running_loop()
        trajectory.reward = await loop.run_in_executor(self._scorers, score, task.digits, answer)
        return trajectory

    async def _write(self, trajectory: Trajectory, stop: Sequence[int]) -> list[int]:
        generation = await self._engine.generate(
            trajectory.tokens, max_new_tokens=self._config.max_new_tokens, stop=stop
        )
        trajectory.append(generation.tokens, generation.logprobs)
        trajectory.weight_versions.update(generation.weight_versions)
        return generation.tokens

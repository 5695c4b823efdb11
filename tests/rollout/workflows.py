"""Workflows and an engine without a server, for tests of what runs them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import torch

import rollspan
from rollspan.rollout import ModelRequest, ModelResponse, RolloutWorkflow, Trajectory, WorkflowTaskInput


class NullEngine:
    """Answers at once with one token of its version."""

    def __init__(self) -> None:
        self._version = 0
        self.closed = False

    async def agenerate(self, request: ModelRequest) -> ModelResponse:
        """One token."""
        with rollspan.phase("generate"):
            rollspan.record_generation(output_tokens=1, weight_version=self._version)
        return ModelResponse(
            input_tokens=request.input_ids,
            output_tokens=[7],
            output_logprobs=[-0.5],
            output_versions=[self._version],
        )

    def get_version(self) -> int:
        """As it was set."""
        return self._version

    def set_version(self, version: int) -> None:
        """Of the tokens from now on."""
        self._version = version

    async def update_weights(self, weights: Any, version: int) -> None:
        """Takes anything."""
        self._version = version

    async def pause(self) -> None:
        """Nothing."""

    async def resume(self) -> None:
        """Nothing."""

    async def aclose(self) -> None:
        """Closed."""
        self.closed = True


def trajectory(reward: float = 1.0, *, version: int = 0, length: int = 3) -> Trajectory:
    """One row, of which the last token is the model's."""
    written = [[False] * (length - 1) + [True]]
    versions = torch.where(torch.tensor(written), version, -1).to(torch.int32)
    return {
        "input_ids": torch.ones(1, length, dtype=torch.int64),
        "attention_mask": torch.ones(1, length, dtype=torch.bool),
        "loss_mask": torch.tensor(written, dtype=torch.float32),
        "logprobs": torch.zeros(1, length),
        "versions": versions,
        "rewards": torch.tensor([float(reward)]),
    }


class Steps(RolloutWorkflow):
    """Does what its function does with engine and task, and gives that."""

    def __init__(
        self, function: Callable[[Any, WorkflowTaskInput], Awaitable[Any]], group_size: int = 1
    ) -> None:
        self.group_size = group_size
        self._function = function

    async def arun_episode(self, engine: Any, task: WorkflowTaskInput) -> Any:
        """As the function."""
        return await self._function(engine, task)


async def one_token(engine: Any, task: WorkflowTaskInput) -> Trajectory:
    """Generates a token, and is rewarded with what the task says."""
    response = await engine.agenerate(ModelRequest(input_ids=[1, 2]))
    with rollspan.phase("reward"):
        reward = float(task.data.get("reward", 1.0))
        rollspan.record_reward(reward)
    return trajectory(reward, version=response.output_versions[0])


async def for_ever(engine: Any, task: WorkflowTaskInput) -> Trajectory:
    """Never ends."""
    await asyncio.Event().wait()
    raise AssertionError("unreachable")

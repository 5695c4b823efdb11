"""One rollout: the policy writes, a tool helps it once if asked, another process scores the answer."""

from __future__ import annotations

import rollspan
from rollspan.demo.config import DemoConfig
from rollspan.demo.task import END, TOOL, Task, next_digit
from rollspan.rollout import (
    AsyncReward,
    GenerationHyperparameters,
    InferenceEngine,
    ModelRequest,
    RolloutWorkflow,
    Trajectory,
    WorkflowTaskInput,
)
from rollspan.rollout.trajectories import TrajectoryBuilder


class SortWorkflow(RolloutWorkflow):
    """Rollouts of the sorting task, several of each."""

    def __init__(self, config: DemoConfig, reward: AsyncReward) -> None:
        self.group_size = config.group_size
        self._config = config
        self._reward = reward
        self._first = GenerationHyperparameters(
            max_new_tokens=config.max_new_tokens, stop_token_ids=[END, TOOL]
        )
        self._last = self._first.new(stop_token_ids=[END])

    async def arun_episode(self, engine: InferenceEngine, task: WorkflowTaskInput) -> Trajectory | None:
        """The finished rollout; None for a prompt that is too long for the policy."""
        item: Task = task.data
        if len(item.prompt) > self._config.max_prompt_tokens:
            return None
        tokens = TrajectoryBuilder()
        tokens.append(item.prompt)
        answer = await self._write(engine, tokens, self._first)
        if answer[-1] == TOOL:
            del answer[-1]
            with rollspan.phase("toolcall", tool="next_digit"):
                digit = await next_digit(item, answer)
            tokens.append([digit])
            answer.append(digit)
            answer += await self._write(engine, tokens, self._last)
        return tokens.trajectory(await self._reward(item.digits, answer))

    async def _write(
        self, engine: InferenceEngine, tokens: TrajectoryBuilder, how: GenerationHyperparameters
    ) -> list[int]:
        response = await engine.agenerate(ModelRequest(list(tokens.input_ids), how))
        tokens.append_response(response)
        return list(response.output_tokens)

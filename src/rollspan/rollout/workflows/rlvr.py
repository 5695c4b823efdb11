"""One prompt, one answer, one reward that can be computed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rollspan.rollout.engine import InferenceEngine
from rollspan.rollout.requests import GenerationHyperparameters, ModelResponse, Tokenizer
from rollspan.rollout.reward import as_async_reward
from rollspan.rollout.trajectories import Trajectory, TrajectoryBuilder
from rollspan.rollout.workflow import RolloutWorkflow, WorkflowTaskInput

from .inputs import (
    check_gconfig,
    check_room,
    data_of,
    entry,
    loaded_tokenizer,
    messages_of,
    request,
    token_ids,
)
from .scoring import score
from .templates import ChatTemplate


def default_get_input_ids_fn(messages: Any, tokenizer: Tokenizer, enable_thinking: bool) -> list[int]:
    """Token ids of a conversation by the tokenizer's chat template, up to where the model has to answer."""
    template = ChatTemplate(tokenizer, enable_thinking=enable_thinking)
    return template.tokens(template.text(messages))


class RLVRWorkflow(RolloutWorkflow):
    """Reinforcement learning with verifiable rewards: one answer to one prompt, scored by a function.

    `reward_fn(prompt, completions, prompt_ids, completion_ids, **data)` gets both as text and as token ids, and the
    task's data by name, without keys of these four names. It is a plain function, an async function, or an
    `AsyncReward`, which says how long it may take; the two first are made into one.

    The task's data is a mapping. `data_extract_prompt_fn(data)` is the prompt, by default `data["messages"]`;
    `get_input_ids_fn(prompt, tokenizer, enable_thinking)` makes token ids of it, by default with the tokenizer's chat
    template. `tokenizer` may be the name or folder of a Hugging Face one.
    """

    def __init__(
        self,
        reward_fn: Callable[..., Any],
        gconfig: GenerationHyperparameters,
        tokenizer: Tokenizer | str,
        enable_thinking: bool = False,
        get_input_ids_fn: Callable[[Any, Tokenizer, bool], Any] = default_get_input_ids_fn,
        data_extract_prompt_fn: Callable[[Mapping[str, Any]], Any] | None = None,
    ) -> None:
        check_gconfig(gconfig)
        self.tokenizer = loaded_tokenizer(tokenizer)
        self.gconfig = gconfig.new_with_stop_and_pad_token_ids(self.tokenizer)
        self.group_size = gconfig.n_samples
        self.reward = as_async_reward(reward_fn)
        self.enable_thinking = enable_thinking
        self.get_input_ids_fn = get_input_ids_fn
        self.data_extract_prompt_fn = data_extract_prompt_fn

    async def arun_episode(self, engine: InferenceEngine, task: WorkflowTaskInput) -> Trajectory | None:
        """One row of prompt and answer, [1, length]; None where the engine gave the answer up.

        Raises ValueError, with the task's id, for data that is not as described, and for a prompt that leaves no room
        within `gconfig.max_tokens`; RewardError and whatever the reward function raises.
        """
        tokens = self._prompt(task)
        check_room(task, self.gconfig, len(tokens))
        response = await engine.agenerate(request(self.gconfig, self.tokenizer, tokens))
        return await self._finished(task, tokens, response)

    def _prompt(self, task: WorkflowTaskInput) -> list[int]:
        if self.data_extract_prompt_fn is not None:
            prompt = self.data_extract_prompt_fn(data_of(task))
        else:
            prompt = messages_of(task, entry(task, "messages"))
        return token_ids(task, self.get_input_ids_fn(prompt, self.tokenizer, self.enable_thinking))

    async def _finished(
        self, task: WorkflowTaskInput, tokens: list[int], response: ModelResponse, **others: Any
    ) -> Trajectory | None:
        if response.stop_reason == "abort":
            return None
        builder = TrajectoryBuilder()
        builder.append(tokens)
        builder.append_response(response)
        reward = await score(self.reward, self.tokenizer, self.gconfig, task, tokens, response)
        return builder.trajectory(reward, **others)

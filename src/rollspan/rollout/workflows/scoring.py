"""How reward functions are asked: as AReaL does."""

from __future__ import annotations

from typing import Final

from rollspan.rollout.requests import GenerationHyperparameters, ModelResponse, Tokenizer
from rollspan.rollout.reward import AsyncReward
from rollspan.rollout.workflow import WorkflowTaskInput

from .inputs import data_of

_OF_THE_ANSWER: Final = ("prompt", "completions", "prompt_ids", "completion_ids")


async def score(
    reward: AsyncReward,
    tokenizer: Tokenizer,
    gconfig: GenerationHyperparameters,
    task: WorkflowTaskInput,
    prompt: list[int],
    response: ModelResponse,
) -> float:
    """`reward_fn(prompt, completions, prompt_ids, completion_ids, **data)` of an answer to the prompt's tokens.

    The prompt's text has its special tokens, the answer's where `gconfig.skip_special_tokens` is false. Keys of the
    data that have the name of one of the four are left out: the function could not take both.
    """
    answer = response.output_tokens
    return await reward(
        tokenizer.decode(prompt, skip_special_tokens=False),
        tokenizer.decode(answer, skip_special_tokens=gconfig.skip_special_tokens),
        prompt,
        answer,
        **{key: value for key, value in data_of(task).items() if key not in _OF_THE_ANSWER},
    )

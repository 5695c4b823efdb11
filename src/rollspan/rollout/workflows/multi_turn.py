"""An answer that is wrong gets feedback and another turn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from rollspan.rollout.engine import InferenceEngine
from rollspan.rollout.errors import check_whole
from rollspan.rollout.requests import GenerationHyperparameters, Tokenizer
from rollspan.rollout.reward import as_async_reward
from rollspan.rollout.trajectories import Trajectory, TrajectoryBuilder
from rollspan.rollout.workflow import RolloutWorkflow, WorkflowTaskInput

from .inputs import (
    check_gconfig,
    check_room,
    entry,
    loaded_tokenizer,
    messages_of,
    request,
    room,
    token_ids,
)
from .scoring import score
from .templates import ChatTemplate, joined

FEEDBACK: Final = (
    "That answer is not right, or could not be read. Go through the question again, find the mistake, and give the "
    "whole answer once more."
)
"""What a wrong answer is told, unless something else is given."""


def check_turns(max_turns: int, turn_discount: float) -> None:
    """Raise ValueError for a number of turns or a discount that makes no sense."""
    check_whole("max_turns", max_turns, 1)
    if not 0 < turn_discount <= 1:
        raise ValueError(f"turn_discount is {turn_discount!r}; expected more than 0 and at most 1")


class MultiTurnWorkflow(RolloutWorkflow):
    """Up to `max_turns` answers to one prompt: a reward of 0 or less brings feedback, more than 0 is the end.

    The last answer's reward counts, times `turn_discount` for every turn before it. `reward_fn` is as in
    `RLVRWorkflow`; its prompt is all that came before the answer. Earlier turns stay the tokens that they were, and
    feedback is appended as token ids, which are found once, with a conversation that stands in for any.

    Raises ChatTemplateError where the tokenizer's template cannot be gone on from.
    """

    def __init__(
        self,
        reward_fn: Callable[..., Any],
        gconfig: GenerationHyperparameters,
        tokenizer: Tokenizer | str,
        max_turns: int,
        turn_discount: float,
        enable_thinking: bool = False,
        feedback: str = FEEDBACK,
    ) -> None:
        check_turns(max_turns, turn_discount)
        check_gconfig(gconfig)
        self.tokenizer = loaded_tokenizer(tokenizer)
        self.gconfig = gconfig.new_with_stop_and_pad_token_ids(self.tokenizer)
        self.group_size = gconfig.n_samples
        self.reward = as_async_reward(reward_fn)
        self.max_turns = max_turns
        self.turn_discount = turn_discount
        self._template = ChatTemplate(self.tokenizer, enable_thinking=enable_thinking)
        behind = self._template.behind_answer(
            [{"role": "user", "content": "?"}], [{"role": "user", "content": feedback}]
        )
        self.feedback_ids = self._template.tokens(behind)

    async def arun_episode(self, engine: InferenceEngine, task: WorkflowTaskInput) -> Trajectory | None:
        """One row of prompt, answers and feedback, [1, length]; None where the engine gave an answer up.

        Fewer turns than `max_turns` where `gconfig.max_tokens` leaves no room for another one. Raises ValueError, with
        the task's id, for data that is not as described, and for a prompt that leaves no room at all; RewardError and
        whatever the reward function raises.
        """
        messages = messages_of(task, entry(task, "messages"))
        builder = TrajectoryBuilder()
        builder.append(token_ids(task, self._template.tokens(self._template.text(messages))))
        check_room(task, self.gconfig, len(builder))
        discount = 1.0
        for turn in range(self.max_turns):
            prompt = list(builder.input_ids)
            response = await engine.agenerate(request(self.gconfig, self.tokenizer, prompt))
            if response.stop_reason == "abort":
                return None
            builder.append_response(response)
            reward = await score(self.reward, self.tokenizer, self.gconfig, task, prompt, response)
            feedback = joined(response.output_tokens, self.gconfig.stop_token_ids, self.feedback_ids)
            has_room = room(self.gconfig, len(builder) + len(feedback)) >= 1
            if reward > 0 or turn + 1 == self.max_turns or not has_room:
                break
            builder.append(feedback)
            discount *= self.turn_discount
        return builder.trajectory(reward * discount)

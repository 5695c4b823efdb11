"""A chat of several turns, with tools, in which no token that was sampled is ever made anew from text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rollspan.rollout.engine import InferenceEngine
from rollspan.rollout.requests import GenerationHyperparameters, ModelResponse, Tokenizer
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
from .multi_turn import FEEDBACK, check_turns
from .scoring import score
from .templates import ChatTemplate, joined
from .tools import ToolCallParser, Tools, check_tool, parse_hermes_tool_calls, run_tool_calls


@dataclass
class _Chat:
    """One rollout's conversation, as messages, as text and as tokens."""

    messages: list[dict[str, Any]]
    text: str
    builder: TrajectoryBuilder = field(default_factory=TrajectoryBuilder)


class MultiTurnChatWorkflow(RolloutWorkflow):
    """Up to `max_turns` answers in a conversation: a call of tools brings their answers, a wrong answer feedback.

    An answer without calls is scored, and so is the last one that there is room or a turn for. A reward of 0 or less
    brings feedback, more than 0 is the end; the last reward counts, times `turn_discount` for every feedback before
    it. `reward_fn` is as in `RLVRWorkflow`; its prompt is all that came before the answer.

    `tools`: plain or async functions by name, run at the same time where the model calls several, see
    `run_tool_calls`. `tool_schemas`: how the chat template describes them to the model, in OpenAI's form.
    `tool_call_parser`: finds calls in an answer's text.

    The next prompt is the tokens so far and those of what the tokenizer's template writes behind the answer. Raises
    ChatTemplateError where the template would change something before that.
    """

    def __init__(
        self,
        reward_fn: Callable[..., Any],
        gconfig: GenerationHyperparameters,
        tokenizer: Tokenizer | str,
        max_turns: int,
        turn_discount: float,
        tools: Tools | None = None,
        tool_schemas: Sequence[Mapping[str, Any]] | None = None,
        tool_call_parser: ToolCallParser = parse_hermes_tool_calls,
        enable_thinking: bool = False,
        feedback: str = FEEDBACK,
    ) -> None:
        check_turns(max_turns, turn_discount)
        for name, tool in (tools or {}).items():
            check_tool(name, tool)
        check_gconfig(gconfig)
        self.tokenizer = loaded_tokenizer(tokenizer)
        self.gconfig = gconfig.new_with_stop_and_pad_token_ids(self.tokenizer)
        self.group_size = gconfig.n_samples
        self.reward = as_async_reward(reward_fn)
        self.max_turns = max_turns
        self.turn_discount = turn_discount
        self.tools: Tools = dict(tools or {})
        self.tool_call_parser = tool_call_parser
        self.feedback = feedback
        schemas = {"tools": [dict(schema) for schema in tool_schemas]} if tool_schemas else {}
        self._template = ChatTemplate(self.tokenizer, enable_thinking=enable_thinking, **schemas)

    async def arun_episode(self, engine: InferenceEngine, task: WorkflowTaskInput) -> Trajectory | None:
        """One row of the whole conversation, [1, length]; None where the engine gave an answer up.

        Raises ValueError, with the task's id, for data that is not as described, and for a prompt that leaves no room
        within `gconfig.max_tokens`; ChatTemplateError; RewardError and whatever the reward function raises.
        """
        chat = self._opened(task)
        discount = 1.0
        for turn in range(self.max_turns):
            prompt = list(chat.builder.input_ids)
            response = await engine.agenerate(request(self.gconfig, self.tokenizer, prompt))
            if response.stop_reason == "abort":
                return None
            chat.builder.append_response(response)
            text = self.tokenizer.decode(response.output_tokens, skip_special_tokens=True)
            parsed = self.tool_call_parser(text)
            calls = parsed.tool_calls if self.tools else []
            is_last = turn + 1 == self.max_turns
            if calls and not is_last:
                new = await run_tool_calls(self.tools, calls)
                if self._go_on(chat, response, parsed.message(text), new):
                    continue
                is_last = True
            reward = await score(self.reward, self.tokenizer, self.gconfig, task, prompt, response)
            if reward > 0 or is_last:
                break
            answer = {"role": "assistant", "content": text}
            if not self._go_on(chat, response, answer, [{"role": "user", "content": self.feedback}]):
                break
            discount *= self.turn_discount
        return chat.builder.trajectory(reward * discount)

    def _opened(self, task: WorkflowTaskInput) -> _Chat:
        messages = messages_of(task, entry(task, "messages"))
        chat = _Chat(messages, self._template.text(messages))
        chat.builder.append(token_ids(task, self._template.tokens(chat.text)))
        check_room(task, self.gconfig, len(chat.builder))
        return chat

    def _go_on(
        self,
        chat: _Chat,
        response: ModelResponse,
        answer: dict[str, Any],
        new: Sequence[dict[str, Any]],
    ) -> bool:
        """Add an answer and what comes after it. False where that leaves no room for another answer."""
        behind = self._template.behind_answer(chat.messages, new)
        messages = [*chat.messages, answer, *new]
        text = self._template.text(messages)
        self._template.check_append_only(chat.text, answer, behind, text)
        tokens = joined(response.output_tokens, self.gconfig.stop_token_ids, self._template.tokens(behind))
        if room(self.gconfig, len(chat.builder) + len(tokens)) < 1:
            return False
        chat.builder.append(tokens)
        chat.messages, chat.text = messages, text
        return True

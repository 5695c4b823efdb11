"""A generation as OpenAI's two kinds of answers, whole or in pieces, with what vLLM adds: token ids."""

from __future__ import annotations

import json
import re
import time
from abc import ABC, abstractmethod
from typing import Any, ClassVar

from rollspan.demo.generation import Generation, text_of
from rollspan.rollout.requests import Tokenizer

TOOL_CALL = re.compile(r"<tool_call>(.*?)</tool_call>", re.DOTALL)
"""How a model calls a tool: an object with `name` and `arguments` between these, as Hermes has it."""


class Kind(ABC):
    """One generation on its way out."""

    prefix: ClassVar[str]
    default_max_tokens: ClassVar[int] = 16
    objects: ClassVar[tuple[str, str]]
    """What it is called, whole and in pieces."""

    def __init__(
        self, generation: Generation, body: dict[str, Any], model: str, tokenizer: Tokenizer | None
    ) -> None:
        self.generation = generation
        self.body = body
        self._model = model
        self._tokenizer = tokenizer
        self._created = int(time.time())
        self._sent = 0

    def envelope(self, *, whole: bool = False) -> dict[str, Any]:
        """What stands around the choice."""
        return {
            "id": self.generation.rid,
            "object": self.objects[not whole],
            "created": self._created,
            "model": self._model,
        }

    def whole(self) -> dict[str, Any]:
        """The answer, once it is complete."""
        envelope = self.envelope(whole=True)
        choice = {**self._choice(0), **self._content()}
        if self.body.get("return_token_ids"):
            self._place_prompt(envelope, choice)
        return {**envelope, "choices": [choice], "usage": usage(self.generation)}

    def news(self, length: int) -> dict[str, Any]:
        """What came since the last time, up to `length` tokens."""
        envelope, since, self._sent = self.envelope(), self._sent, length
        choice = {**self._choice(since), **self._delta(since)}
        if self.body.get("return_token_ids") and not since:
            self._place_prompt(envelope, choice)
        return {**envelope, "choices": [choice]}

    def _choice(self, since: int) -> dict[str, Any]:
        generation = self.generation
        reason = generation.finish_reason or {"type": None}
        choice: dict[str, Any] = {
            "index": 0,
            "finish_reason": reason["type"],
            "stop_reason": reason.get("matched"),
            "logprobs": self._logprobs(since) if self._wants_logprobs() else None,
        }
        if self.body.get("return_token_ids"):
            choice["token_ids"] = generation.output[since:]
        return choice

    def _text(self, since: int = 0) -> str:
        return text_of(self.generation.output, self._tokenizer, since)

    def _name(self, token: int) -> str:
        if self.body.get("return_tokens_as_token_ids"):
            return f"token_id:{token}"
        return str(token) if self._tokenizer is None else self._tokenizer.decode([token])

    def _names(self, since: int) -> list[tuple[str, float]]:
        generation = self.generation
        return [
            (self._name(token), logprob)
            for token, logprob in zip(generation.output[since:], generation.logprobs[since:], strict=True)
        ]

    @abstractmethod
    def _wants_logprobs(self) -> bool: ...

    @abstractmethod
    def _logprobs(self, since: int) -> dict[str, Any]: ...

    @abstractmethod
    def _content(self) -> dict[str, Any]:
        """What of the choice says the answer."""

    @abstractmethod
    def _delta(self, since: int) -> dict[str, Any]:
        """What of the choice says what is new."""

    @abstractmethod
    def _place_prompt(self, envelope: dict[str, Any], choice: dict[str, Any]) -> None:
        """Add the prompt's token ids."""


class Completion(Kind):
    """Of `/v1/completions`."""

    prefix = "cmpl"
    objects = ("text_completion", "text_completion")

    def _wants_logprobs(self) -> bool:
        return self.body.get("logprobs") is not None

    def _logprobs(self, since: int) -> dict[str, Any]:
        names = self._names(since)
        return {"tokens": [name for name, _ in names], "token_logprobs": [logprob for _, logprob in names]}

    def _content(self) -> dict[str, Any]:
        return {"text": self._text()}

    def _delta(self, since: int) -> dict[str, Any]:
        return {"text": self._text(since)}

    def _place_prompt(self, envelope: dict[str, Any], choice: dict[str, Any]) -> None:
        choice["prompt_token_ids"] = self.generation.prompt


class Chat(Kind):
    """Of `/v1/chat/completions`. What calls tools is told in one piece, at the end."""

    prefix = "chatcmpl"
    default_max_tokens = 128
    objects = ("chat.completion", "chat.completion.chunk")

    def _wants_logprobs(self) -> bool:
        return bool(self.body.get("logprobs"))

    def _logprobs(self, since: int) -> dict[str, Any]:
        names = self._names(since)
        return {
            "content": [{"token": name, "logprob": logprob, "top_logprobs": []} for name, logprob in names]
        }

    def _content(self) -> dict[str, Any]:
        calls = self._tool_calls()
        text = TOOL_CALL.sub("", self._text()).strip() if calls else self._text()
        message: dict[str, Any] = {"role": "assistant", "content": text or None}
        if not calls:
            return {"message": message}
        return {"message": {**message, "tool_calls": calls}, "finish_reason": "tool_calls"}

    def _delta(self, since: int) -> dict[str, Any]:
        role = {} if since else {"role": "assistant"}
        if not self.body.get("tools"):
            return {"delta": {**role, "content": self._text(since)}}
        if self.generation.finish_reason is None:
            return {"delta": role}
        content = self._content()
        message = content.pop("message")
        calls = [{"index": index, **call} for index, call in enumerate(message.get("tool_calls", []))]
        return {**content, "delta": {**role, "content": message["content"], "tool_calls": calls}}

    def _tool_calls(self) -> list[dict[str, Any]]:
        reason = self.generation.finish_reason
        if not self.body.get("tools") or reason is None or reason["type"] != "stop":
            return []
        calls = []
        for number, found in enumerate(TOOL_CALL.findall(self._text())):
            try:
                call = json.loads(found)
                function = {"name": call["name"], "arguments": json.dumps(call.get("arguments", {}))}
            except (ValueError, KeyError, TypeError):
                continue  # the model wrote something else
            calls.append({"id": f"call-{number}", "type": "function", "function": function})
        return calls

    def _place_prompt(self, envelope: dict[str, Any], choice: dict[str, Any]) -> None:
        envelope["prompt_token_ids"] = self.generation.prompt


def usage(generation: Generation) -> dict[str, Any]:
    """How many tokens it took and made."""
    prompt, output = len(generation.prompt), len(generation.output)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": output,
        "total_tokens": prompt + output,
        "prompt_tokens_details": {"cached_tokens": generation.cached_tokens},
    }

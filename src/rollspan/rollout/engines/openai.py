"""OpenAI's protocol, as any endpoint of that kind has it: chats, and completions of token ids."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from rollspan.rollout.errors import EngineError
from rollspan.rollout.requests import ModelRequest

from .protocol import Call, Dialect, Part, Piece
from .remote import RemoteEngine
from .servers import Balance

_TOKEN_ID = re.compile(r"token_id:(\d+)")


class OpenAIDialect(Dialect):
    """`/v1/chat/completions` for messages, `/v1/completions` for token ids."""

    provider = "openai"
    health = Call("/v1/models", method="GET")
    max_tokens_of_chats: ClassVar[str] = "max_completion_tokens"

    def __init__(self, model: str | None, extra_body: Mapping[str, Any]) -> None:
        self._model = model
        self._extra = dict(extra_body)

    def check(self, request: ModelRequest) -> None:
        """Messages, or token ids without images."""
        if request.messages is None and not request.input_ids:
            raise ValueError("neither messages nor input_ids were given; expected one of them")
        if request.messages is not None and request.input_ids:
            raise ValueError("both messages and input_ids were given; expected one of them")
        if request.messages is None and request.tools is not None:
            raise ValueError("tools were given without messages; they are for chats")
        if request.image_data:
            raise ValueError("image_data was given; put images into messages, as image_url with a data URL")
        self._check_sampling(request)

    def _check_sampling(self, request: ModelRequest) -> None:
        gconfig, tokenizer = request.gconfig, request.tokenizer
        # An answer ends with these two in any case.
        ends = set() if tokenizer is None else {tokenizer.eos_token_id, tokenizer.pad_token_id}
        asked = {
            "top_k": gconfig.top_k is not None,
            "min_new_tokens": gconfig.min_new_tokens > 0,
            "stop_token_ids": not ends.issuperset(gconfig.stop_token_ids),
            "ignore_eos": gconfig.ignore_eos,
        }
        for name, is_asked in asked.items():
            if is_asked:
                raise ValueError(
                    f"{name} is {getattr(gconfig, name)!r}; OpenAI's protocol has none: use VLLMEngine, "
                    "or extra_body where the endpoint has it"
                )

    def generation(self, part: Part) -> Call:
        """A completion, or a chat."""
        gconfig, request = part.request.gconfig, part.request
        body: dict[str, Any] = {
            "temperature": part.temperature,
            "top_p": gconfig.top_p,
            "stream": part.stream,
        }
        if self._model is not None:
            body["model"] = self._model
        if gconfig.stop:
            body["stop"] = list(gconfig.stop)
        if gconfig.frequency_penalty:
            body["frequency_penalty"] = gconfig.frequency_penalty
        if part.stream:
            body["stream_options"] = {"include_usage": True}
        body |= self._more(part)
        body |= self._extra
        if request.messages is None:
            own = {"prompt": part.input_ids, "max_tokens": part.most, "logprobs": 0}
            return Call("/v1/completions", {**own, **body})
        own = {"messages": request.messages, self.max_tokens_of_chats: part.most, "logprobs": True}
        if request.tools:
            own["tools"] = request.tools
        return Call("/v1/chat/completions", {**own, **body})

    def _more(self, part: Part) -> dict[str, Any]:
        """What else a request says."""
        return {}

    def read(self, answer: Mapping[str, Any], piece: Piece) -> None:
        """An answer that is not streamed."""
        choice = answer["choices"][0]
        self._read_choice(answer, choice, piece)
        if "message" in choice:
            piece.message = {key: value for key, value in choice["message"].items() if value is not None}
            piece.message.setdefault("content", None)
            piece.text = choice["message"].get("content") or ""
        else:
            piece.text = choice["text"]
        self._read_usage(answer, piece)
        self._check_tokens(choice, piece)

    def read_event(self, event: Mapping[str, Any], piece: Piece) -> None:
        """An event: what is new. The last ones may tell the usage alone."""
        for choice in event["choices"][:1]:
            self._read_choice(event, choice, piece)
            if "delta" in choice:
                _add(choice["delta"], piece)
            else:
                piece.text += choice["text"]
            if choice.get("finish_reason"):
                self._check_tokens(choice, piece)
        self._read_usage(event, piece)

    def _read_choice(self, answer: Mapping[str, Any], choice: Mapping[str, Any], piece: Piece) -> None:
        if choice.get("finish_reason"):
            piece.finish_reason = choice["finish_reason"]
        names, logprobs = _logprobs(choice.get("logprobs") or {})
        ids = choice.get("token_ids")
        if ids is None:
            found = [_TOKEN_ID.fullmatch(name) for name in names]
            ids = [int(match[1]) for match in found if match]
            if len(ids) < len(names):
                ids = []
        piece.tokens += ids
        piece.logprobs += logprobs
        prompt = choice.get("prompt_token_ids") or answer.get("prompt_token_ids")
        if prompt is not None:
            piece.prompt_token_ids = list(prompt)

    @staticmethod
    def _read_usage(answer: Mapping[str, Any], piece: Piece) -> None:
        usage = answer.get("usage")
        if usage:
            piece.prompt_tokens = usage.get("prompt_tokens")
            piece.output_tokens = usage.get("completion_tokens")
            piece.cached_tokens = (usage.get("prompt_tokens_details") or {}).get("cached_tokens")

    @staticmethod
    def _check_tokens(choice: Mapping[str, Any], piece: Piece) -> None:
        """Token ids that were asked for with token ids, and a log probability for each."""
        if "text" in choice and not piece.tokens and (piece.text or piece.logprobs):
            raise ValueError(
                "there are no token ids in the answer to a prompt of token ids; an endpoint that can give them is "
                "asked by VLLMEngine, or by extra_body={'return_token_ids': True}"
            )
        if piece.tokens and piece.logprobs and len(piece.tokens) != len(piece.logprobs):
            raise ValueError(f"there are {len(piece.tokens)} token ids with {len(piece.logprobs)} logprobs")

    def weights(self, weights: bytes | str | Path, version: int) -> Call:
        """None are taken."""
        raise EngineError("an endpoint of OpenAI's kind takes no weights; use SGLangEngine or VLLMEngine")


def _logprobs(found: Mapping[str, Any]) -> tuple[list[str], list[float]]:
    """Names of tokens and their log probabilities, of a chat's or a completion's."""
    if found.get("content") is not None:
        return [entry["token"] for entry in found["content"]], [
            entry["logprob"] for entry in found["content"]
        ]
    return list(found.get("tokens") or []), list(found.get("token_logprobs") or [])


def _add(delta: Mapping[str, Any], piece: Piece) -> None:
    """Add what is new to a chat's message."""
    message = piece.message = piece.message or {"role": "assistant", "content": None}
    content = delta.get("content")
    if content:
        piece.text += content
        message["content"] = piece.text
    for call in delta.get("tool_calls") or []:
        calls = message.setdefault("tool_calls", [])
        while len(calls) <= call["index"]:
            calls.append({"id": "", "type": "function", "function": {"name": "", "arguments": ""}})
        known = calls[call["index"]]
        known["id"] = call.get("id") or known["id"]
        function = call.get("function") or {}
        known["function"]["name"] += function.get("name") or ""
        known["function"]["arguments"] += function.get("arguments") or ""


class OpenAIEngine(RemoteEngine):
    """Endpoints of OpenAI's kind. Arguments as for `RemoteEngine`; `model` is needed.

    With `ModelRequest.messages` (and `tools`) it asks `/v1/chat/completions`, and the response has `message`, `text`
    and `stop_reason`, `tool_calls` among them; token ids and log probabilities where the endpoint gives them.
    With `input_ids` it asks `/v1/completions`, of an endpoint that gives token ids. `extra_body` is added to every
    request. Such an endpoint has no pauses and takes no weights: `pause`, `resume` and `update_weights` raise
    EngineError.
    """

    def __init__(
        self,
        addresses: str | Sequence[str],
        *,
        model: str,
        request_timeout: float = 3600.0,
        retries: int = 3,
        max_connections: int = 4096,
        balance: Balance = "round_robin",
        probe_interval: float = 5.0,
        stream: bool = True,
        api_key: str | None = None,
        trust_env: bool = False,
        extra_body: Mapping[str, Any] | None = None,
    ) -> None:
        if not model:
            raise ValueError(f"model is {model!r}; expected the name under which the endpoint serves it")
        super().__init__(
            addresses,
            OpenAIDialect(model, extra_body or {}),
            model=model,
            request_timeout=request_timeout,
            retries=retries,
            max_connections=max_connections,
            balance=balance,
            probe_interval=probe_interval,
            stream=stream,
            api_key=api_key,
            trust_env=trust_env,
        )

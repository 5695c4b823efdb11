"""The engine as vLLM would serve it: OpenAI's routes with token ids, and those of its development mode."""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator
from typing import Any

from rollspan.demo.engine import Engine
from rollspan.demo.generation import BadRequestError, Generation, Sampling, tokens_of
from rollspan.demo.http import HttpRequest, Reply, Routes
from rollspan.demo.openai_answers import Chat, Completion, Kind, usage
from rollspan.demo.sglang_api import weights_in
from rollspan.rollout.requests import Tokenizer


class OpenAIApi:
    """`/v1/completions`, `/v1/chat/completions`, `/pause`, `/resume`, and reloading of weights."""

    def __init__(self, engine: Engine, model: str) -> None:
        self._engine = engine
        self._model = model
        self._ids = itertools.count()

    def routes(self) -> Routes:
        """What it serves; `/health` is SGLang's too."""
        return {
            ("GET", "/v1/models"): self._models,
            ("GET", "/load"): self._load,
            ("POST", "/v1/completions"): self._completions,
            ("POST", "/v1/chat/completions"): self._chat,
            ("POST", "/pause"): self._pause,
            ("POST", "/resume"): self._resume,
            ("GET", "/is_paused"): self._is_paused,
            ("POST", "/collective_rpc"): self._collective_rpc,
        }

    async def _models(self, _: HttpRequest) -> Reply:
        return {
            "object": "list",
            "data": [{"id": self._model, "object": "model", "owned_by": "rollspan"}],
        }

    async def _load(self, _: HttpRequest) -> Reply:
        return {"server_load": sum(self._engine.load)}

    async def _completions(self, request: HttpRequest) -> Reply:
        body, prompt = request.body, request.body.get("prompt")
        if isinstance(prompt, str):
            prompt = self._tokenizer("a text as prompt").encode(prompt)
        return await self._answer(
            body, tokens_of(prompt, "prompt", self._engine.policy.vocabulary), Completion
        )

    async def _chat(self, request: HttpRequest) -> Reply:
        body = request.body
        tokenizer = self._tokenizer("/v1/chat/completions")
        try:
            prompt = tokenizer.apply_chat_template(
                body["messages"], tools=body.get("tools"), tokenize=True, add_generation_prompt=True
            )
        except Exception as error:
            raise BadRequestError(
                f"messages that the chat template takes were expected: {error!r}"
            ) from error
        return await self._answer(body, tokens_of(prompt, "messages", self._engine.policy.vocabulary), Chat)

    def _tokenizer(self, what: str) -> Tokenizer:
        if self._engine.tokenizer is None:
            raise BadRequestError(
                f"{what} needs a policy with a tokenizer; this one has none: send token ids"
            )
        return self._engine.tokenizer

    async def _answer(self, body: dict[str, Any], prompt: list[int], of_kind: type[Kind]) -> Reply:
        if body.get("model") not in (None, self._model):
            raise BadRequestError(f"model is {body['model']!r}; this server has {self._model!r}")
        if body.get("n", 1) != 1:
            raise BadRequestError(f"n is {body['n']!r}; this server makes one answer to a request")
        engine, eos = self._engine, None
        if engine.tokenizer is not None:
            eos = engine.tokenizer.eos_token_id
        if "max_completion_tokens" in body:
            body = {**body, "max_tokens": body["max_completion_tokens"]}
        sampling = Sampling.of(body, "max_tokens", "min_tokens", eos, of_kind.default_max_tokens)
        name = f"{of_kind.prefix}-{next(self._ids)}"
        generation = engine.submit(prompt, sampling, rid=str(body.get("request_id") or name))
        kind = of_kind(generation, body, self._model, engine.tokenizer)
        if body.get("stream"):
            return self._events(generation, kind)
        try:
            await generation.finished()
        finally:
            engine.end(generation)
        return kind.whole()

    async def _events(self, generation: Generation, kind: Kind) -> AsyncGenerator[dict[str, Any], None]:
        try:
            async for length in generation.growing():
                yield kind.news(length)
            if (kind.body.get("stream_options") or {}).get("include_usage"):
                yield {**kind.envelope(), "choices": [], "usage": usage(generation)}
        finally:
            self._engine.end(generation)

    async def _pause(self, request: HttpRequest) -> Reply:
        mode = request.query.get("mode", "abort")
        if mode not in ("abort", "keep"):
            raise BadRequestError(f"mode is {mode!r}; expected abort or keep")
        self._engine.pause(abort=mode == "abort")
        return {"status": "paused"}

    async def _resume(self, _: HttpRequest) -> Reply:
        self._engine.resume()
        return {"status": "resumed"}

    async def _is_paused(self, _: HttpRequest) -> Reply:
        return {"is_paused": self._engine.paused}

    async def _collective_rpc(self, request: HttpRequest) -> Reply:
        method, given = request.body.get("method"), request.body.get("kwargs") or {}
        if method != "reload_weights":
            raise BadRequestError(f"method is {method!r}; expected reload_weights")
        self._engine.update_weights(weights_in(given.get("weights_path")), None, abort_all=False)
        return {"results": [None]}

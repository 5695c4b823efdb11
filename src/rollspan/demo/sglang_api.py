"""The engine as SGLang would serve it."""

from __future__ import annotations

import base64
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

from rollspan.demo.engine import Engine
from rollspan.demo.generation import BadRequestError, Generation, Sampling, text_of, tokens_of
from rollspan.demo.http import HttpRequest, Reply, Routes


class SGLangApi:
    """`/generate`, and what a trainer tells the server."""

    def __init__(self, engine: Engine, model: str, *, stream_output: bool = False) -> None:
        self._engine = engine
        self._model = model
        self._disjoint = stream_output

    def routes(self) -> Routes:
        """What it serves."""
        return {
            ("GET", "/health"): self._health,
            ("GET", "/get_model_info"): self._model_info,
            ("GET", "/get_load"): self._load,
            ("POST", "/generate"): self._generate,
            ("POST", "/abort_request"): self._abort,
            ("POST", "/pause_generation"): self._pause,
            ("POST", "/continue_generation"): self._resume,
            ("POST", "/update_weights_from_tensor"): self._update_from_tensor,
            ("POST", "/update_weights_from_disk"): self._update_from_disk,
        }

    async def _health(self, _: HttpRequest) -> Reply:
        return {}

    async def _model_info(self, _: HttpRequest) -> Reply:
        version = self._engine.weight_version
        return {"model_path": self._model, "is_generation": True, "weight_version": version}

    async def _load(self, _: HttpRequest) -> Reply:
        running, waiting = self._engine.load
        return {"num_reqs": running + waiting, "num_waiting_reqs": waiting}

    async def _generate(self, request: HttpRequest) -> Reply:
        body, engine = request.body, self._engine
        prompt = tokens_of(body.get("input_ids"), "input_ids", engine.policy.vocabulary)
        eos = None if engine.tokenizer is None else engine.tokenizer.eos_token_id
        sampling = Sampling.of(body.get("sampling_params") or {}, "max_new_tokens", "min_new_tokens", eos)
        images = body.get("image_data") or []
        generation = engine.submit(
            prompt,
            sampling,
            rid=str(body["rid"]) if body.get("rid") else None,
            image_data=[images] if isinstance(images, str) else images,
        )
        with_logprobs = bool(body.get("return_logprob", False))
        if body.get("stream"):
            return self._events(generation, with_logprobs)
        try:
            await generation.finished()
        finally:
            engine.end(generation)
        return self._reply(generation, with_logprobs)

    async def _events(
        self, generation: Generation, with_logprobs: bool
    ) -> AsyncGenerator[dict[str, Any], None]:
        """All that there is so far, again and again, as SGLang has it; with `--stream-output` what is new."""
        sent = 0
        try:
            async for length in generation.growing():
                yield self._reply(generation, with_logprobs, sent)
                sent = length if self._disjoint else 0
        finally:
            self._engine.end(generation)

    def _reply(self, generation: Generation, with_logprobs: bool, since: int = 0) -> dict[str, Any]:
        output = generation.output[since:]
        meta: dict[str, Any] = {
            "id": generation.rid,
            "finish_reason": generation.finish_reason,
            "prompt_tokens": len(generation.prompt),
            "completion_tokens": len(generation.output),
            "cached_tokens": generation.cached_tokens,
            "weight_version": generation.weight_version,
        }
        if with_logprobs:
            pairs = zip(generation.logprobs[since:], output, strict=True)
            meta["output_token_logprobs"] = [[logprob, token, None] for logprob, token in pairs]
        text = text_of(generation.output, self._engine.tokenizer, since)
        return {"text": text, "output_ids": output, "meta_info": meta}

    async def _abort(self, request: HttpRequest) -> Reply:
        if request.body.get("abort_all"):
            self._engine.abort()
        elif request.body.get("rid"):
            self._engine.abort(str(request.body["rid"]))
        else:
            raise BadRequestError("give the rid of the request to abort, or abort_all=true")
        return {}

    async def _pause(self, request: HttpRequest) -> Reply:
        mode = request.body.get("mode", "abort")
        if mode not in ("abort", "retract", "in_place"):
            raise BadRequestError(f"mode is {mode!r}; expected abort, retract or in_place")
        self._engine.pause(abort=mode == "abort")
        return {"status": "ok", "message": "generation is paused"}

    async def _resume(self, _: HttpRequest) -> Reply:
        self._engine.resume()
        return {"status": "ok", "message": "generation goes on"}

    async def _update_from_tensor(self, request: HttpRequest) -> Reply:
        try:
            (encoded,) = request.body["serialized_named_tensors"]
            data = base64.b64decode(encoded, validate=True)
            version = str(request.body["weight_version"])
        except (KeyError, TypeError, ValueError) as error:
            raise BadRequestError(
                f"expected serialized_named_tensors (one base64 string) and weight_version: {error!r}"
            ) from error
        return self._update(data, version, request.body)

    async def _update_from_disk(self, request: HttpRequest) -> Reply:
        path, version = request.body.get("model_path"), request.body.get("weight_version")
        return self._update(weights_in(path), None if version is None else str(version), request.body)

    def _update(self, data: bytes, version: str | None, body: dict[str, Any]) -> dict[str, Any]:
        self._engine.update_weights(data, version, abort_all=bool(body.get("abort_all_requests", False)))
        return {"success": True, "message": f"weight version {self._engine.weight_version} is in use"}


def weights_in(path: Any) -> bytes:
    """The bytes of a file that `torch.save` wrote. Raises BadRequestError where there is none."""
    try:
        return Path(path).read_bytes()
    except (TypeError, OSError) as error:
        raise BadRequestError(f"the file of weights is {path!r}, which cannot be read: {error}") from error

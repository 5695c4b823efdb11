"""Talks to the server: generates, goes on where a weight update cut a generation off, pushes weights."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import httpx

import rollspan

MODEL = "rollspan-demo"


@dataclass
class Generation:
    """What the policy wrote: one weight version per part, more than one where weights came in between."""

    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    weight_versions: list[int] = field(default_factory=list)
    finish_reason: str = ""


class EngineClient:
    """A connection pool to one server."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http

    async def generate(
        self, prompt: Sequence[int], *, max_new_tokens: int, stop: Sequence[int]
    ) -> Generation:
        """Sample until a token of `stop` or the limit. An aborted generation goes on with the new weights."""
        generation = Generation()
        while generation.finish_reason in ("", "abort"):
            with rollspan.phase(
                "generate",
                model=MODEL,
                provider="sglang",
                operation="text_completion",
                continuation=generation.finish_reason == "abort",
            ):
                reply = await self._post(
                    "/generate",
                    {
                        "input_ids": [*prompt, *generation.tokens],
                        "sampling_params": {
                            "max_new_tokens": max_new_tokens - len(generation.tokens),
                            "temperature": 1.0,
                            "stop_token_ids": list(stop),
                        },
                        "return_logprob": True,
                    },
                )
                meta = reply["meta_info"]
                rollspan.record_generation(
                    input_tokens=meta["prompt_tokens"],
                    output_tokens=meta["completion_tokens"],
                    cached_tokens=meta["cached_tokens"],
                    weight_version=int(meta["weight_version"]),
                    finish_reasons=[meta["finish_reason"]["type"]],
                )
            generation.tokens += reply["output_ids"]
            generation.logprobs += [logprob for logprob, _, _ in meta["output_token_logprobs"]]
            generation.weight_versions.append(int(meta["weight_version"]))
            generation.finish_reason = meta["finish_reason"]["type"]
        return generation

    async def update_weights(self, weights: bytes, version: int) -> None:
        """Push weights; generations under way are aborted and go on with these."""
        await self._post(
            "/update_weights_from_tensor",
            {
                "serialized_named_tensors": [base64.b64encode(weights).decode()],
                "weight_version": str(version),
                "abort_all_requests": True,
            },
        )

    async def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        response = await self._http.post(path, json=body)
        response.raise_for_status()
        return cast("dict[str, Any]", response.json())

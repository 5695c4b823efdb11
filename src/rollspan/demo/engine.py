"""Generation with continuous batching: all running requests advance by one token at a time."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from rollspan.demo.policy import Policy, load_weights
from rollspan.demo.task import PADDING, VOCABULARY

MAX_CACHED_PREFIXES = 4096


class BadRequestError(ValueError):
    """What was asked for cannot be done; the message says why and what would do."""


@dataclass(eq=False)
class Request:
    """One generation under way."""

    rid: str
    prompt: list[int]
    max_new_tokens: int
    temperature: float
    stop: frozenset[int]
    weight_version: str
    done: asyncio.Future[dict[str, Any]]
    output: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    cached_tokens: int = 0
    state: Tensor | None = None  # after every token but the last


class Engine:
    """Holds the policy; one task runs `run()`, everything else happens on the same event loop."""

    def __init__(self, policy: Policy, seed: int, max_running: int = 64) -> None:
        self.policy = policy.eval()
        self.weight_version = "default"
        self.max_running = max_running
        self._generator = torch.Generator().manual_seed(seed)
        self._waiting: list[Request] = []
        self._running: list[Request] = []
        self._states: dict[tuple[int, ...], Tensor] = {}  # the prefix cache
        self._work = asyncio.Event()
        self._ids = itertools.count()

    async def generate(self, body: dict[str, Any]) -> dict[str, Any]:
        """Answer one `/generate` request. Raises BadRequestError for one that makes no sense."""
        request = self._parse(body)
        self._waiting.append(request)
        self._work.set()
        reply = await request.done
        if not body.get("return_logprob", False):
            del reply["meta_info"]["output_token_logprobs"]
        return reply

    def abort(self, rid: str | None = None) -> None:
        """End the generation `rid`, or all of them, with what they have so far."""
        for request in [*self._running, *self._waiting]:
            if rid is None or request.rid == rid:
                self._finish(request, {"type": "abort", "message": "aborted"})
        self._drop_finished()

    def update_weights(self, data: bytes, version: str, *, abort_all: bool) -> None:
        """Take new weights over. Raises BadRequestError for bytes that are no weights of this policy."""
        if abort_all:
            self.abort()
        try:
            load_weights(self.policy, data)
        except Exception as error:
            raise BadRequestError(f"these are no weights of this policy: {error}") from error
        self.weight_version = version
        self._states.clear()

    async def run(self) -> None:
        """Generate for ever; cancel it to stop."""
        while True:
            if not self._running and not self._waiting:
                self._work.clear()
                await self._work.wait()
            admitted = self._waiting[: self.max_running - len(self._running)]
            del self._waiting[: len(admitted)]
            for request in admitted:
                self._find_prefix(request)
            self._running += admitted
            if self._running:
                self._advance()
            await asyncio.sleep(0)  # let requests in and replies out

    def _parse(self, body: dict[str, Any]) -> Request:
        prompt = body.get("input_ids")
        if not isinstance(prompt, list) or not prompt or any(t not in range(VOCABULARY) for t in prompt):
            raise BadRequestError(f"input_ids must be tokens from 0 to {VOCABULARY - 1}, at least one")
        params = body.get("sampling_params") or {}
        limit, temperature = params.get("max_new_tokens", 128), params.get("temperature", 1.0)
        if not isinstance(limit, int) or limit < 1:
            raise BadRequestError(f"max_new_tokens is {limit!r}; expected a whole number above 0")
        if not isinstance(temperature, (int, float)) or temperature <= 0:
            raise BadRequestError(f"temperature is {temperature!r}; expected a number above 0")
        return Request(
            rid=str(body.get("rid") or f"request-{next(self._ids)}"),
            prompt=prompt,
            max_new_tokens=limit,
            temperature=float(temperature),
            stop=frozenset() if params.get("ignore_eos") else frozenset(params.get("stop_token_ids") or ()),
            weight_version=self.weight_version,
            done=asyncio.get_running_loop().create_future(),
        )

    def _find_prefix(self, request: Request) -> None:
        request.weight_version = self.weight_version
        for length in range(len(request.prompt) - 1, 0, -1):
            state = self._states.get(tuple(request.prompt[:length]))
            if state is not None:
                request.state, request.cached_tokens = state, length
                return

    @torch.inference_mode()
    def _advance(self) -> None:
        """Feed each running request the tokens that its state has not seen, and sample its next one."""
        feeds = [r.output[-1:] or r.prompt[r.cached_tokens :] for r in self._running]
        width = max(map(len, feeds))
        tokens = torch.tensor([feed + [PADDING] * (width - len(feed)) for feed in feeds])
        nothing = torch.zeros(self.policy.gru.hidden_size)
        before = torch.stack([nothing if r.state is None else r.state for r in self._running])
        logits, states = self.policy(tokens, before)

        rows = torch.arange(len(feeds))
        last = torch.tensor([len(feed) - 1 for feed in feeds])
        temperatures = torch.tensor([r.temperature for r in self._running])
        logprobs = torch.log_softmax(logits[rows, last] / temperatures[:, None], dim=-1)
        sampled = torch.multinomial(logprobs.exp(), 1, generator=self._generator)
        chosen = logprobs.gather(1, sampled)
        for row, request in enumerate(self._running):
            if not request.output and len(feeds[row]) > 1:
                self._remember(request.prompt[:-1], states[row, len(feeds[row]) - 2])
            request.state = states[row, len(feeds[row]) - 1].clone()
            self._append(request, int(sampled[row, 0]), float(chosen[row, 0]))
        self._drop_finished()

    def _append(self, request: Request, token: int, logprob: float) -> None:
        request.output.append(token)
        request.logprobs.append(logprob)
        if token in request.stop:
            self._finish(request, {"type": "stop", "matched": token})
        elif len(request.output) >= request.max_new_tokens:
            self._finish(request, {"type": "length", "length": request.max_new_tokens})

    def _finish(self, request: Request, reason: dict[str, Any]) -> None:
        if request.state is not None and request.output:
            self._remember([*request.prompt, *request.output[:-1]], request.state)
        if request.done.done():  # its connection is gone
            return
        meta = {
            "id": request.rid,
            "finish_reason": reason,
            "prompt_tokens": len(request.prompt),
            "completion_tokens": len(request.output),
            "cached_tokens": request.cached_tokens,
            "weight_version": request.weight_version,
            "output_token_logprobs": [
                [logprob, token, None]
                for logprob, token in zip(request.logprobs, request.output, strict=True)
            ],
        }
        text = " ".join(map(str, request.output))
        request.done.set_result({"text": text, "output_ids": request.output, "meta_info": meta})

    def _remember(self, prefix: list[int], state: Tensor) -> None:
        if len(self._states) >= MAX_CACHED_PREFIXES:
            self._states.clear()
        self._states[tuple(prefix)] = state.clone()

    def _drop_finished(self) -> None:
        self._running = [r for r in self._running if not r.done.done()]
        self._waiting = [r for r in self._waiting if not r.done.done()]

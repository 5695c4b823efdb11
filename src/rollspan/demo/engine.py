"""Generation with continuous batching: all running generations advance by one token at a time."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from rollspan.demo.generation import BadRequestError, Generation, Sampling
from rollspan.demo.policy import load_weights
from rollspan.demo.served import SeesImages, ServedPolicy, tokenizer_of

MAX_CACHED_PREFIXES = 4096


class Engine:
    """Holds the policy; one task runs `run()`, everything else happens on the same event loop."""

    def __init__(self, policy: ServedPolicy, seed: int, max_running: int = 64) -> None:
        cast("nn.Module", policy).eval()
        self.policy = policy
        self.tokenizer = tokenizer_of(policy)
        self.weight_version = "default"
        self.max_running = max_running
        self.paused = False
        self._generator = torch.Generator().manual_seed(seed)
        self._waiting: list[Generation] = []
        self._running: list[Generation] = []
        self._states: dict[tuple[int, ...], Tensor] = {}  # the prefix cache
        self._work = asyncio.Event()
        self._ids = itertools.count()

    @property
    def load(self) -> tuple[int, int]:
        """How many generations run, and how many wait."""
        return len(self._running), len(self._waiting)

    def submit(
        self,
        prompt: list[int],
        sampling: Sampling,
        *,
        rid: str | None = None,
        image_data: Sequence[str] = (),
    ) -> Generation:
        """Begin a generation. Raises BadRequestError for images or texts that this policy cannot take."""
        if sampling.stop and self.tokenizer is None:
            raise BadRequestError("stop needs a policy with a tokenizer; this one has none")
        generation = Generation(
            rid or f"request-{next(self._ids)}",
            prompt,
            sampling,
            self.weight_version,
            start=self._seen(image_data) if image_data else None,
        )
        self._waiting.append(generation)
        self._work.set()
        return generation

    def abort(self, rid: str | None = None) -> None:
        """End the generations whose rid begins so (SGLang's rule), or all, with what they have so far."""
        for generation in [*self._running, *self._waiting]:
            if rid is None or generation.rid.startswith(rid):
                self.end(generation)

    def end(self, generation: Generation) -> None:
        """End this one, unless it is over."""
        if generation.finish_reason is None:
            self._finish(generation, {"type": "abort", "message": "aborted"})
            self._drop_finished()

    def pause(self, *, abort: bool) -> None:
        """Generate nothing until `resume`; end what is under way, or freeze it."""
        self.paused = True
        if abort:
            self.abort()

    def resume(self) -> None:
        """Generate again."""
        self.paused = False
        self._work.set()

    def update_weights(self, data: bytes, version: str | None, *, abort_all: bool) -> None:
        """Take new weights over. Raises BadRequestError for bytes that are no weights of this policy.

        Without a version it stays what it was.
        """
        if abort_all:
            self.abort()
        try:
            load_weights(cast("nn.Module", self.policy), data)
        except Exception as error:
            raise BadRequestError(f"these are no weights of this policy: {error}") from error
        if version is not None:
            self.weight_version = version
        self._states.clear()

    async def run(self) -> None:
        """Generate for ever; cancel it to stop."""
        while True:
            if self.paused or not (self._running or self._waiting):
                self._work.clear()
                await self._work.wait()
                continue
            admitted = self._waiting[: self.max_running - len(self._running)]
            del self._waiting[: len(admitted)]
            for generation in admitted:
                self._find_prefix(generation)
            self._running += admitted
            self._advance()
            await asyncio.sleep(0)  # let requests in and replies out

    def _seen(self, image_data: Sequence[str]) -> Tensor:
        if not isinstance(self.policy, SeesImages):
            raise BadRequestError("image_data was given; this policy takes no images")
        try:
            with torch.inference_mode():
                return self.policy.initial_state(image_data)
        except Exception as error:
            raise BadRequestError(f"image_data holds no images of this policy: {error}") from error

    def _find_prefix(self, generation: Generation) -> None:
        generation.weight_version = self.weight_version
        if generation.start is not None:  # the cache knows tokens alone
            generation.state = generation.start
            return
        for length in range(len(generation.prompt) - 1, 0, -1):
            state = self._states.get(tuple(generation.prompt[:length]))
            if state is not None:
                generation.state, generation.cached_tokens = state, length
                return

    @torch.inference_mode()
    def _advance(self) -> None:
        """Feed each running generation the tokens that its state has not seen, and sample its next one."""
        running = self._running
        feeds = [g.output[-1:] or g.prompt[g.cached_tokens :] for g in running]
        width = max(map(len, feeds))
        tokens = torch.tensor([feed + [0] * (width - len(feed)) for feed in feeds])
        nothing = torch.zeros(self.policy.hidden_size)
        before = torch.stack([nothing if g.state is None else g.state for g in running])
        logits, states = self.policy(tokens, before)

        last = torch.tensor([len(feed) - 1 for feed in feeds])
        sampled, chosen = self._sample(logits[torch.arange(len(feeds)), last])
        for row, generation in enumerate(running):
            if not generation.output and len(feeds[row]) > 1:
                self._remember(generation, generation.prompt[:-1], states[row, len(feeds[row]) - 2])
            generation.state = states[row, len(feeds[row]) - 1].clone()
            self._append(generation, int(sampled[row]), float(chosen[row]))
        self._drop_finished()

    def _sample(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """A token for each row of `logits` [running, vocabulary], and its log probability before top_p and top_k."""
        asked = [g.sampling for g in self._running]
        for row, generation in enumerate(self._running):
            if len(generation.output) < asked[row].min_new_tokens:
                logits[row, list(asked[row].ends)] = -torch.inf
        temperatures = torch.tensor([s.temperature or 1.0 for s in asked])
        logprobs = torch.log_softmax(logits / temperatures[:, None], dim=-1)
        kept = logprobs.exp()
        for row, sampling in enumerate(asked):
            if sampling.temperature == 0 or sampling.top_p < 1 or sampling.top_k:
                kept[row] = narrowed(kept[row], sampling)
        sampled = torch.multinomial(kept, 1, generator=self._generator)
        return sampled[:, 0], logprobs.gather(1, sampled)[:, 0]

    def _append(self, generation: Generation, token: int, logprob: float) -> None:
        generation.append(token, logprob)
        sampling, length = generation.sampling, len(generation.output)
        if token in sampling.ends:
            self._finish(generation, {"type": "stop", "matched": token})
        elif (matched := self._stopped(generation)) is not None:
            self._finish(generation, {"type": "stop", "matched": matched})
        elif length >= sampling.max_new_tokens:
            self._finish(generation, {"type": "length", "length": sampling.max_new_tokens})

    def _stopped(self, generation: Generation) -> str | None:
        if not generation.sampling.stop or self.tokenizer is None:
            return None
        text = self.tokenizer.decode(generation.output)
        return next((stop for stop in generation.sampling.stop if stop in text), None)

    def _finish(self, generation: Generation, reason: dict[str, object]) -> None:
        if generation.state is not None and generation.output:
            self._remember(generation, [*generation.prompt, *generation.output[:-1]], generation.state)
        generation.finish(reason)

    def _remember(self, generation: Generation, prefix: list[int], state: Tensor) -> None:
        if generation.start is not None:
            return
        if len(self._states) >= MAX_CACHED_PREFIXES:
            self._states.clear()
        self._states[tuple(prefix)] = state.clone()

    def _drop_finished(self) -> None:
        self._running = [g for g in self._running if g.finish_reason is None]
        self._waiting = [g for g in self._waiting if g.finish_reason is None]


def narrowed(probabilities: Tensor, sampling: Sampling) -> Tensor:
    """The likeliest of `probabilities` [vocabulary] that `sampling` leaves, the others 0."""
    ordered, order = probabilities.sort(descending=True)
    before = ordered.cumsum(0) - ordered
    keep = before < sampling.top_p
    most = 1 if sampling.temperature == 0 else sampling.top_k
    if most:
        keep &= torch.arange(len(ordered)) < most
    return torch.zeros_like(probabilities).scatter(0, order[keep], ordered[keep])

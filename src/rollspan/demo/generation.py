"""One generation under way in the engine, and how it samples."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from rollspan.rollout.requests import Tokenizer


class BadRequestError(ValueError):
    """What was asked for cannot be done; the message says why and what would do."""


@dataclass(frozen=True)
class Sampling:
    """How to sample. `temperature` 0 takes the likeliest token."""

    max_new_tokens: int = 128
    min_new_tokens: int = 0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    """0: all of them."""
    ends: frozenset[int] = frozenset()
    """Tokens that end the answer; they are part of it."""
    stop: tuple[str, ...] = ()
    """Texts that end it."""

    @classmethod
    def of(
        cls, asked: Mapping[str, Any], most: str, least: str, eos: int | None, default_most: int = 128
    ) -> Sampling:
        """Of a request's fields, where `most` and `least` name the bounds on new tokens.

        Raises BadRequestError for a value that makes no sense.
        """

        def value(name: str, default: Any, kind: type | tuple[type, ...], lowest: float, wanted: str) -> Any:
            found: Any = asked.get(name)
            if found is None:
                return default
            is_kind = isinstance(found, kind) and type(found) is not bool
            if not is_kind or not found >= lowest:
                raise BadRequestError(f"{name} is {found!r}; expected {wanted}")
            return found

        if asked.get("frequency_penalty"):
            raise BadRequestError(
                f"frequency_penalty is {asked['frequency_penalty']!r}; this server has none"
            )
        top_k = value("top_k", -1, int, -1, "a whole number, or -1 for all")
        top_p = value("top_p", 1.0, (int, float), 0, "a number above 0, at most 1")
        if not 0 < top_p <= 1:
            raise BadRequestError(f"top_p is {top_p!r}; expected a number above 0, at most 1")
        ends = [*(asked.get("stop_token_ids") or ()), *(() if eos is None else (eos,))]
        stop = asked.get("stop") or ()
        return cls(
            max_new_tokens=value(most, default_most, int, 1, "a whole number above 0"),
            min_new_tokens=value(least, 0, int, 0, "a whole number of at least 0"),
            temperature=float(value("temperature", 1.0, (int, float), 0, "a number of at least 0")),
            top_p=float(top_p),
            top_k=max(top_k, 0),
            ends=frozenset() if asked.get("ignore_eos") else frozenset(ends),
            stop=(stop,) if isinstance(stop, str) else tuple(stop),
        )


@dataclass(eq=False)
class Generation:
    """What was asked for, and what there is of it so far."""

    rid: str
    prompt: list[int]
    sampling: Sampling
    weight_version: str
    start: Tensor | None = None
    """The state before the prompt, where an image made it."""
    output: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    cached_tokens: int = 0
    state: Tensor | None = None  # after every token but the last
    finish_reason: dict[str, Any] | None = None
    """SGLang's: `type` is `stop`, `length` or `abort`; None while it is under way."""
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    def append(self, token: int, logprob: float) -> None:
        """One more token."""
        self.output.append(token)
        self.logprobs.append(logprob)
        self._news.set()

    def finish(self, reason: dict[str, Any]) -> None:
        """It is over."""
        self.finish_reason = reason
        self._news.set()

    async def finished(self) -> None:
        """Wait for its end."""
        async for _ in self.growing():
            pass

    async def growing(self) -> AsyncIterator[int]:
        """Numbers of tokens so far, each time that there are more, and at the end."""
        while self.finish_reason is None:
            await self._news.wait()
            self._news.clear()
            yield len(self.output)


def tokens_of(value: Any, name: str, vocabulary: int) -> list[int]:
    """Token ids of a request. Raises BadRequestError for what are none of this vocabulary."""
    if not isinstance(value, list) or not value or not are_tokens(value, vocabulary):
        raise BadRequestError(f"{name} must be tokens from 0 to {vocabulary - 1}, at least one")
    return value


def are_tokens(values: Sequence[Any], vocabulary: int) -> bool:
    """Whether all are whole numbers of the vocabulary."""
    return all(type(value) is int and 0 <= value < vocabulary for value in values)


def text_of(output: Sequence[int], tokenizer: Tokenizer | None, since: int = 0) -> str:
    """What the tokens from `since` on add to the text of `output`; numbers where there is no tokenizer."""
    if tokenizer is not None:
        return tokenizer.decode(output).removeprefix(tokenizer.decode(output[:since]) if since else "")
    return "".join(f" {token}" for token in output[since:])[0 if since else 1 :]

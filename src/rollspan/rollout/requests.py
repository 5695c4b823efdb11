"""What is asked of an inference engine, and what it answers. The names are AReaL's."""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from .errors import check_whole


class Tokenizer(Protocol):
    """What is used of a tokenizer; Hugging Face's are such."""

    eos_token_id: int | None
    pad_token_id: int | None

    def encode(self, text: str, *, add_special_tokens: bool = ...) -> list[int]:
        """Token ids of a text."""

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = ...) -> str:
        """The text of token ids."""

    def apply_chat_template(self, conversation: Sequence[Mapping[str, Any]], **options: Any) -> Any:
        """A conversation as text, or with `tokenize=True` as token ids."""


@dataclass(frozen=True)
class GenerationHyperparameters:
    """How to sample. Raises ValueError for what makes no sense, with the field, its value and what was expected."""

    n_samples: int = 1
    """Rollouts of one prompt, for the workflows here the size of a group; one generation gives one answer."""
    max_new_tokens: int = 16384
    min_new_tokens: int = 0
    max_tokens: int | None = None
    """Of prompt and answer together, where it is to be bounded."""
    greedy: bool = False
    top_p: float = 1.0
    top_k: int | None = None
    """None for all tokens."""
    temperature: float = 1.0
    stop_token_ids: Sequence[int] = ()
    ignore_eos: bool = False
    skip_special_tokens: bool = True
    stop: Sequence[str] | None = ()
    frequency_penalty: float = 0.0

    def __post_init__(self) -> None:
        # One by one, not by a table of the fields: some make one of these for each request.
        check_whole("n_samples", self.n_samples, 1)
        check_whole("max_new_tokens", self.max_new_tokens, 1)
        check_whole("min_new_tokens", self.min_new_tokens, 0)
        if self.min_new_tokens > self.max_new_tokens:
            raise ValueError(
                f"min_new_tokens is {self.min_new_tokens}; expected at most max_new_tokens, which is "
                f"{self.max_new_tokens}"
            )
        if self.max_tokens is not None:
            check_whole("max_tokens", self.max_tokens, 1, ", or None for no bound")
        if self.top_k is not None:
            check_whole("top_k", self.top_k, 1, ", or None for all tokens")
        if not (_is_number(self.temperature) and 0 <= self.temperature < math.inf):
            raise ValueError(f"temperature is {self.temperature!r}; expected a finite number of at least 0")
        if not (_is_number(self.top_p) and 0 < self.top_p <= 1):
            raise ValueError(f"top_p is {self.top_p!r}; expected a number above 0 and at most 1")
        if not (_is_number(self.frequency_penalty) and math.isfinite(self.frequency_penalty)):
            raise ValueError(f"frequency_penalty is {self.frequency_penalty!r}; expected a finite number")
        _check_bool("greedy", self.greedy)
        _check_bool("ignore_eos", self.ignore_eos)
        _check_bool("skip_special_tokens", self.skip_special_tokens)
        if self.stop_token_ids != ():
            _check_list("stop_token_ids", self.stop_token_ids, int, "token ids")
        if self.stop is not None and self.stop != ():
            _check_list("stop", self.stop, str, "texts")

    def new(self, **changes: Any) -> GenerationHyperparameters:
        """The same with changes."""
        return replace(self, **changes)

    def new_with_stop_and_pad_token_ids(self, tokenizer: Tokenizer) -> GenerationHyperparameters:
        """The same, with the tokenizer's end and padding among the tokens that end an answer."""
        ends = [token for token in (tokenizer.pad_token_id, tokenizer.eos_token_id) if token is not None]
        return replace(self, stop_token_ids=list(dict.fromkeys([*self.stop_token_ids, *ends])))


def _check_bool(name: str, value: Any) -> None:
    if value is not True and value is not False:
        raise ValueError(f"{name} is {value!r}; expected True or False")


def _check_list(name: str, value: Any, kind: type, items: str) -> None:
    if not isinstance(value, (list, tuple)) or not all(type(item) is kind for item in value):
        raise ValueError(f"{name} is {value!r}; expected a list of {items}")


def _is_number(value: Any) -> bool:
    return isinstance(value, (float, int)) and not isinstance(value, bool)


@dataclass
class ModelRequest:
    """One generation that is asked for: token ids, or where the engine takes them, messages."""

    input_ids: list[int] = field(default_factory=list)
    gconfig: GenerationHyperparameters = field(default_factory=GenerationHyperparameters)
    rid: str = field(default_factory=lambda: uuid.uuid4().hex)
    messages: list[dict[str, Any]] | None = None
    tools: list[dict[str, Any]] | None = None
    image_data: list[str] = field(default_factory=list)
    """Images as base64, without the head of a data URL."""
    metadata: dict[str, Any] = field(default_factory=dict)
    """The caller's own; not sent."""
    tokenizer: Any = None
    """Where an engine has to turn token ids into text, or back."""


@dataclass
class Segment:
    """A part of an answer that was made by one request, under one version of the weights."""

    weight_version: int
    output_tokens: int
    duration_s: float
    """From the request to its answer."""
    paused_s: float = 0.0
    """How long the engine was paused before it."""


@dataclass
class ModelResponse:
    """What was generated. `output_*` have one entry for each token of the answer."""

    input_tokens: list[int] = field(default_factory=list)
    output_tokens: list[int] = field(default_factory=list)
    output_logprobs: list[float] = field(default_factory=list)
    output_versions: list[int] = field(default_factory=list)
    stop_reason: str = "stop"
    """`stop`, `length`, `tool_calls`, or `abort` where it was given up."""
    text: str = ""
    message: dict[str, Any] | None = None
    """The answer as a message, of an engine for chats."""
    latency: float = float("inf")
    """Seconds from the request to the end of the answer."""
    ttft: float = float("inf")
    """Seconds to the first token; of an answer that is not streamed, to its end."""
    segments: list[Segment] = field(default_factory=list)
    tokenizer: Any = None

    @property
    def input_len(self) -> int:
        """Tokens of the prompt."""
        return len(self.input_tokens)

    @property
    def output_len(self) -> int:
        """Tokens of the answer."""
        return len(self.output_tokens)

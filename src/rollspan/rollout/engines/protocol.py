"""What a server's protocol says: `Dialect`; and what passes between it and an engine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from rollspan.rollout.requests import ModelRequest


@dataclass(frozen=True)
class Call:
    """One request to a server."""

    path: str
    body: Mapping[str, Any] = field(default_factory=dict)
    method: str = "POST"


@dataclass(frozen=True)
class Part:
    """What one request of a generation asks for: what is still to come of its answer."""

    request: ModelRequest
    rid: str
    """Of this one request."""
    output: Sequence[int]
    """Tokens of the answer that there are already."""
    most: int
    """New tokens at most, of the answer as a whole less `output`."""
    stream: bool

    @property
    def input_ids(self) -> list[int]:
        """The prompt and the answer so far."""
        return [*self.request.input_ids, *self.output]

    @property
    def least(self) -> int:
        """New tokens at least."""
        return max(0, self.request.gconfig.min_new_tokens - len(self.output))

    @property
    def temperature(self) -> float:
        """0 where it is greedy."""
        return 0.0 if self.request.gconfig.greedy else self.request.gconfig.temperature


@dataclass
class Piece:
    """What one request has brought so far."""

    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    text: str = ""
    finish_reason: str | None = None
    """`stop`, `length`, `tool_calls`, `abort`; None while there is more to come."""
    weight_version: int | None = None
    """As the server says it, where that is a whole number."""
    other_weights: str = ""
    """What the server calls its weights, where that is no number: none that an engine has pushed."""
    prompt_tokens: int | None = None
    prompt_token_ids: list[int] | None = None
    cached_tokens: int | None = None
    output_tokens: int | None = None
    """How many the server says, where it gives no token ids."""
    message: dict[str, Any] | None = None
    first_at: float | None = None
    """When the first of it came, by `time.perf_counter`, where it is streamed."""


class Dialect(ABC):
    """How a kind of server is spoken to."""

    provider: ClassVar[str]
    health: ClassVar[Call] = Call("/health", method="GET")
    info: ClassVar[Call | None] = None
    """Asks for what `version_in` reads."""
    pausing: ClassVar[Call | None] = None
    resuming: ClassVar[Call | None] = None

    def operation(self, request: ModelRequest) -> str:
        """`text_completion`, or `chat` where messages are sent."""
        return "text_completion" if request.messages is None else "chat"

    def can_go_on(self, request: ModelRequest) -> bool:
        """Whether an answer that was cut off goes on from its tokens; otherwise it begins again."""
        return request.messages is None

    @abstractmethod
    def check(self, request: ModelRequest) -> None:
        """Raise ValueError for what it cannot be asked for."""

    @abstractmethod
    def generation(self, part: Part) -> Call:
        """Asks for a part of an answer."""

    @abstractmethod
    def read(self, answer: Mapping[str, Any], piece: Piece) -> None:
        """Take an answer that is not streamed over. Raises KeyError, TypeError or ValueError for what is none."""

    @abstractmethod
    def read_event(self, event: Mapping[str, Any], piece: Piece) -> None:
        """Take an event of a streamed answer over. Raises as `read` does."""

    def aborting(self, rid: str) -> Call | None:
        """Ends a generation; None where closing its connection does."""
        return None

    def weights(self, weights: bytes | str | Path, version: int) -> Call:
        """Pushes weights. Raises EngineError or ValueError for what the servers do not take."""
        raise NotImplementedError

    def version_in(self, info: Mapping[str, Any]) -> str | None:
        """The weight version in the answer to `info`, where it says one."""
        return None


def whole_number(value: Any) -> int | None:
    """A version that a server tells, as a number; None for `default` and the like."""
    try:
        return int(value)
    except (TypeError, ValueError):
        return None

"""What producing asks of the machinery behind it: the one joint between the two."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import orjson
    from opentelemetry.trace import Tracer

    from .config import Settings
    from .spandata import AttributeValue


class Lines(Protocol):
    """Takes journal lines."""

    def append(self, line: bytes) -> None:
        """Keep one framed line."""


class OpenTrace(Protocol):
    """A session, step or stretch that has not ended."""

    def checkpoint(self, older_than_ns: int) -> None:
        """Write what it has finished so far, if it is older than that."""

    def abort(self, reason: str) -> None:
        """End it: the process ends in good order."""


class Machinery(Protocol):
    """What a `Runtime` is to sessions, steps and spans."""

    @property
    def settings(self) -> Settings:
        """Settings of this process."""

    @property
    def lock(self) -> threading.RLock:
        """Guards the journal, and what happens to a trace under several threads."""

    @property
    def journal(self) -> Lines:
        """Where lines go."""

    @property
    def request_ids(self) -> Iterator[int]:
        """Numbers of sessions, from 0."""

    @property
    def sampler(self) -> Callable[[int], bool] | None:
        """Whether our own route exports a trace's spans; None where it exports all. Records go out all the same."""

    @property
    def common(self) -> dict[str, AttributeValue]:
        """What the roots of all sessions here say, when they begin."""

    @property
    def common_json(self) -> orjson.Fragment:
        """The same, as it stands in a line."""

    @property
    def live(self) -> MutableMapping[bytes, Any]:
        """Open sessions by trace id, 32 hex digits."""

    @property
    def steps(self) -> MutableMapping[bytes, Any]:
        """Open steps by trace id, 32 hex digits."""

    @property
    def stretches(self) -> MutableMapping[bytes, Any]:
        """Open stretches by trace id, 32 hex digits."""

    @property
    def abandoned(self) -> bool:
        """Whether it was shut down, or left behind by a fork."""

    def tracer(self, attach: Any = None) -> Tracer | None:
        """The tracer of a user's SDK provider, or None for light spans."""

    def profile(self, step: Any) -> Any:
        """What looks at this step, entered, where it was chosen to be profiled; else None."""

    def only_open_step(self) -> Any:
        """The one step that is open in this process, else None."""

    def root_sums(self, trace_hex: bytes, part: Mapping[str, Any]) -> Mapping[str, AttributeValue]:
        """What a whole session, given as one journal line's object, came to: attributes for its root."""

"""What the server asks of a policy, so that it can serve others than the demo's."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any, Protocol, cast, runtime_checkable

from torch import Tensor, nn

from rollspan.rollout.requests import Tokenizer


class ServedPolicy(Protocol):
    """A recurrent policy: a `torch.nn.Module` with these two numbers."""

    vocabulary: int
    """Tokens are 0 .. vocabulary - 1."""
    hidden_size: int

    def __call__(self, tokens: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [batch, time, vocabulary] and states [batch, time, hidden] for `tokens` [batch, time], int64.

        `state` [batch, hidden] is the state before the first token: zeros, or what `initial_state` gave.
        """


@runtime_checkable
class SeesImages(Protocol):
    """A policy whose first state depends on images."""

    def initial_state(self, image_data: Sequence[str]) -> Tensor:
        """The state [hidden] before the first token, of images in base64. Raises ValueError for no such images."""


@runtime_checkable
class HasTokenizer(Protocol):
    """A policy that can be asked with texts and messages."""

    tokenizer: Tokenizer


def made_by(factory: str, config: dict[str, Any]) -> ServedPolicy:
    """The policy that `package.module:factory` makes of the keywords in `config`.

    Raises ValueError for a name without a colon and for what makes no module; what the factory raises goes through.
    """
    module, colon, name = factory.partition(":")
    if not (module and colon and name):
        raise ValueError(f"the policy is {factory!r}; expected package.module:factory")
    policy = getattr(importlib.import_module(module), name)(**config)
    if not isinstance(policy, nn.Module):
        raise ValueError(f"{factory} made a {type(policy).__name__}; expected a torch.nn.Module")
    return cast("ServedPolicy", policy)


def tokenizer_of(policy: ServedPolicy) -> Tokenizer | None:
    """Its tokenizer, where it has one."""
    return policy.tokenizer if isinstance(policy, HasTokenizer) else None

"""Policies that the demo's server serves in tests; `python -m rollspan.demo.server --policy` finds them here."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rollspan.demo.policy import Policy

LIVELY = "tests.rollout.policies:lively"
LOOKS = "tests.rollout.policies:Looks"
RECITES = "tests.rollout.policies:Recites"


def lively(seed: int = 11, hidden_size: int = 32) -> Policy:
    """A policy that, unlike a fresh one, prefers some tokens to others."""
    policy = Policy(hidden_size, seed)
    with torch.no_grad():
        policy.head.weight.normal_(generator=torch.Generator().manual_seed(seed))
    return policy


def logprobs_of(
    policy: Policy, prompt: Sequence[int], output: Sequence[int], state: Tensor | None = None
) -> list[float]:
    """What `policy` says of each token of `output` after `prompt`, in one pass and without a cache."""
    with torch.no_grad():
        logits, _ = policy(torch.tensor([[*prompt, *output]])[:, :-1], None if state is None else state[None])
    every = torch.log_softmax(logits[0, len(prompt) - 1 :], dim=-1)
    return [float(row[token]) for row, token in zip(every, output, strict=True)]


class Looks(Policy):
    """A policy whose first state is what an image holds."""

    def __init__(self) -> None:
        super().__init__(16, 5)
        with torch.no_grad():
            self.head.weight.normal_(generator=torch.Generator().manual_seed(5))

    def initial_state(self, image_data: Sequence[str]) -> Tensor:
        """Its bytes, 16 of them, as numbers from -1 to 1."""
        (image,) = image_data
        return torch.tensor(list(base64.b64decode(image, validate=True)), dtype=torch.float32) / 128 - 1


class Letters:
    """A tokenizer: a token for each character, and two that end a message and begin an answer."""

    vocabulary = 128
    eos_token_id: int | None = 0
    pad_token_id: int | None = 0
    answer = 1

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Its characters."""
        return [ord(character) for character in text]

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """The text of tokens, without those that are no characters."""
        return "".join(chr(token) for token in token_ids if token > 1)

    def apply_chat_template(self, conversation: Sequence[Mapping[str, Any]], **options: Any) -> list[int]:
        """All contents, and the token that begins an answer."""
        text = "".join(f"{message['role']}: {message['content']}\n" for message in conversation)
        return [*self.encode(text), self.answer]


class Recites(nn.Module):
    """A policy that says one sentence, whatever it was asked, and ends."""

    hidden_size = 1
    vocabulary = Letters.vocabulary

    def __init__(self, sentence: str | None = None, call: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.tokenizer = Letters()
        text = sentence if sentence is not None else f"<tool_call>{json.dumps(call)}</tool_call>"
        self.register_buffer("script", torch.tensor([*self.tokenizer.encode(text), 0]))
        self.sure = nn.Parameter(torch.tensor(30.0))

    def forward(self, tokens: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """The state counts what was said: 1 after the token that begins an answer."""
        said, states = state[:, 0], []
        for column in tokens.T:
            said = torch.where(column == Letters.answer, 1.0, torch.where(said > 0, said + 1, said))
            states.append(said)
        counted = torch.stack(states, dim=1)
        place = (counted.long() - 1).clamp(0, len(self.script) - 1)
        logits = nn.functional.one_hot(self.script[place], self.vocabulary) * self.sure
        return logits, counted[:, :, None]

"""The policy: a recurrent network of about 100 000 parameters over 14 tokens."""

from __future__ import annotations

import io
from typing import cast

import torch
from torch import Tensor, nn

from rollspan.demo.task import VOCABULARY

EMBEDDING = 32


class Policy(nn.Module):
    """Tokens in, logits of the next token out. `seed` decides the first weights, torch's global seed does not."""

    vocabulary = VOCABULARY

    def __init__(self, hidden_size: int, seed: int) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.embedding = nn.Embedding(VOCABULARY, EMBEDDING)
        self.gru = nn.GRU(EMBEDDING, hidden_size, batch_first=True)
        self.head = nn.Linear(hidden_size, VOCABULARY)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            self.embedding.weight.normal_(generator=generator)
            for weight in self.gru.parameters():
                weight.uniform_(-(hidden_size**-0.5), hidden_size**-0.5, generator=generator)
            self.head.weight.zero_()  # every token is equally likely at first
            self.head.bias.zero_()

    def forward(self, tokens: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Logits [batch, time, vocabulary] and states [batch, time, hidden] for `tokens` [batch, time].

        `state` [batch, hidden] is the state before the first token (zeros where it is not given).
        """
        states, _ = self.gru(self.embedding(tokens), None if state is None else state.unsqueeze(0))
        return self.head(states), states


def dump_weights(policy: nn.Module) -> bytes:
    """The weights as bytes, for the way over HTTP."""
    buffer = io.BytesIO()
    torch.save(policy.state_dict(), buffer)
    return buffer.getvalue()


def load_weights(policy: nn.Module, data: bytes) -> None:
    """Take weights of `dump_weights` over. Raises for bytes that are no weights; loads tensors and no code."""
    state = cast("dict[str, Tensor]", torch.load(io.BytesIO(data), weights_only=True))
    policy.load_state_dict(state)

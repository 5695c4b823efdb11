"""Chats with a tool: a tiny policy asks a calculator, and says what that answered.

    python examples/multi_turn_tools.py [--config examples/multi_turn_tools.yaml] [key=value ...]

It is taught how one calls the tool before, by demonstrations of which many are wrong; rewards train it further. Groups
whose answers are all right or all wrong teach nothing and are left out, of the reward that is shown too. With
ROLLSPAN_ENABLED=1 in the environment every turn and every call is traced.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Final

import torch
from torch import Tensor, nn

from grpo_tiny import group_advantages, grpo_loss, has_signal
from rollspan import perf
from rollspan.demo.policy import dump_weights
from rollspan.demo.serving import serving
from rollspan.rollout import (
    GenerationHyperparameters,
    MultiTurnChatWorkflow,
    RolloutExecutor,
    SGLangEngine,
    Trajectory,
    concat_padded,
)
from settings import AboveZero, NotNegative, Positive, run
from tiny_tokenizer import SPECIAL, tiny_tokenizer

# A call is `3` and `2` between these three; each of them is one token of this small vocabulary.
CALL: Final = ('<tool_call>{"name": "add", "arguments": {"a": ', ', "b": ', "}}</tool_call>")
WRONG: Final = "wrong"
WORDS: Final = [*"0123456789+", *CALL, WRONG]


@dataclass(frozen=True)
class Settings:
    """What multi_turn_tools.yaml says, and explains."""

    steps: Positive
    seed: int
    tasks: Positive
    largest: NotNegative
    hidden_size: Positive
    demonstrations: NotNegative
    mistakes: float
    learning_rate: AboveZero
    epochs: Positive
    clip: float
    entropy_bonus: float
    batch_size: Positive
    group_size: Positive
    max_turns: Positive
    turn_discount: float
    max_new_tokens: Positive
    max_staleness: NotNegative
    rollout_timeout: AboveZero


class Policy(nn.Module):
    """Tokens in, logits of the next token out. The server makes one of it too."""

    vocabulary = len(SPECIAL) + len(WORDS)

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.tokenizer = tiny_tokenizer(WORDS)
        self.embedding = nn.Embedding(self.vocabulary, 32)
        self.gru = nn.GRU(32, hidden_size, batch_first=True)
        self.head = nn.Linear(hidden_size, self.vocabulary)

    def forward(self, tokens: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Logits [batch, time, vocabulary] and states [batch, time, hidden] for `tokens` [batch, time]."""
        states, _ = self.gru(self.embedding(tokens), None if state is None else state[None])
        return self.head(states), states


# The task: what is asked, the tool, and what an answer is worth.


def questions(settings: Settings, random: Random) -> list[dict[str, Any]]:
    """Sums of two numbers, as chats."""
    found = []
    for number in range(settings.tasks):
        a, b = random.randint(0, settings.largest), random.randint(0, settings.largest)
        messages = [{"role": "user", "content": f"{a}+{b}"}]
        found.append({"id": number, "messages": messages, "answer": str(a + b)})
    return found


def add(a: int, b: int) -> int:
    """The tool."""
    return a + b


async def is_right(
    prompt: str, completions: str, prompt_ids: list[int], completion_ids: list[int], answer: str, **data: Any
) -> float:
    """The reward: 1 for the right answer."""
    return float(completions == answer)


# Learning: the form of a call from demonstrations, then from rewards.


def demonstration(settings: Settings, random: Random) -> str:
    """A chat as the template writes it, in which numbers are wrong now and then."""

    def written(number: int) -> int:
        is_wrong = random.random() < settings.mistakes
        return random.randint(0, settings.largest) if is_wrong else number

    a, b = random.randint(0, settings.largest), random.randint(0, settings.largest)
    x, y = written(a), written(b)
    call = f"{CALL[0]}{x}{CALL[1]}{y}{CALL[2]}"
    return f"<|user|>{a}+{b}<|end|><|assistant|>{call}<|end|><|tool|>{x + y}<|end|><|assistant|>{written(x + y)}<|end|>"


def warm_up(policy: Policy, settings: Settings, random: Random) -> None:
    """Learn what the assistant says in demonstrations, 64 of them at a time."""
    optimizer = torch.optim.Adam(policy.parameters(), lr=0.01)
    for _ in range(settings.demonstrations // 64):
        chats = [policy.tokenizer.encode(demonstration(settings, random)) for _ in range(64)]
        tokens, is_said = torch.tensor(chats), said_by_assistant(policy, chats[0])  # all are equally long
        logits, _ = policy(tokens[:, :-1])
        losses = nn.functional.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none")
        optimizer.zero_grad()
        (losses * is_said).mean().backward()
        optimizer.step()


def said_by_assistant(policy: Policy, chat: Sequence[int]) -> Tensor:
    """1 for each token from the second on that the assistant writes, [length - 1]."""
    assistant, end = policy.tokenizer.convert_tokens_to_ids(["<|assistant|>", "<|end|>"])
    said, speaks = [], False
    for token in chat:
        said.append(float(speaks))
        speaks = token == assistant or (speaks and token != end)
    return torch.tensor(said[1:])


@perf.trace_perf("learn", category="compute")
def learn(
    policy: Policy, optimizer: torch.optim.Optimizer, groups: Sequence[Trajectory], settings: Settings
) -> None:
    """A few passes over a batch. What the tool and the user say has a loss mask of 0."""
    batch = concat_padded(groups)
    advantages = torch.cat([group_advantages(group["rewards"]) for group in groups])
    for _ in range(settings.epochs):
        logits, _ = policy(batch["input_ids"][:, :-1])
        loss = grpo_loss(logits, batch, advantages, settings.clip, settings.entropy_bonus)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def main(settings: Settings) -> None:
    """Teach, then train; prints the mean reward of each step's batch."""
    torch.set_num_threads(1)  # nothing here is large enough for more
    torch.manual_seed(settings.seed)
    random = Random(settings.seed)
    policy = Policy(settings.hidden_size)
    warm_up(policy, settings, random)
    optimizer = torch.optim.Adam(policy.parameters(), lr=settings.learning_rate)
    tasks = questions(settings, random)
    workflow = MultiTurnChatWorkflow(
        is_right,
        GenerationHyperparameters(n_samples=settings.group_size, max_new_tokens=settings.max_new_tokens),
        policy.tokenizer,
        max_turns=settings.max_turns,
        turn_discount=settings.turn_discount,
        tools={"add": add},
        feedback=WRONG,
    )
    with (
        serving(
            policy=f"{Path(__file__).stem}:Policy",
            config={"hidden_size": settings.hidden_size},
            seed=settings.seed,
        ) as url,
        RolloutExecutor(
            SGLangEngine(url, model="multi-turn-tools"),
            consumer_batch_size=settings.batch_size,
            max_staleness=settings.max_staleness,
            rollout_timeout=settings.rollout_timeout,
        ) as executor,
    ):
        executor.update_weights(dump_weights(policy), 0)
        for step in range(settings.steps):
            with perf.step(step):
                groups = executor.prepare_batch(tasks, workflow, has_signal)
                learn(policy, optimizer, groups, settings)
                executor.update_weights(dump_weights(policy), step + 1)
            rewards = torch.cat([group["rewards"] for group in groups])
            print(f"step {step + 1}/{settings.steps}  reward {rewards.mean():.3f}", flush=True)


if __name__ == "__main__":
    run(main, Settings, __file__)

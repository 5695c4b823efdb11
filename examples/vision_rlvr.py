"""Images: a tiny policy with eyes learns to name the colour of a square.

    python examples/vision_rlvr.py [--config examples/vision_rlvr.yaml] [key=value ...]

With ROLLSPAN_ENABLED=1 in the environment every rollout is traced.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Final

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn

from grpo_tiny import group_advantages, grpo_loss
from rollspan import perf
from rollspan.demo.policy import dump_weights
from rollspan.demo.serving import serving
from rollspan.rollout import (
    GenerationHyperparameters,
    RolloutExecutor,
    SGLangEngine,
    Trajectory,
    VisionRLVRWorkflow,
    concat_padded,
)
from settings import AboveZero, NotNegative, Positive, run
from tiny_tokenizer import SPECIAL, tiny_tokenizer

COLOURS: Final = {
    "red": (200, 30, 30),
    "green": (30, 180, 30),
    "blue": (40, 40, 220),
    "yellow": (220, 210, 30),
}
WORDS: Final = [*COLOURS, "colour?"]
SIDE: Final = 16  # pixels


@dataclass(frozen=True)
class Settings:
    """What vision_rlvr.yaml says, and explains."""

    steps: Positive
    seed: int
    tasks: Positive
    hidden_size: Positive
    learning_rate: AboveZero
    epochs: Positive
    clip: float
    entropy_bonus: float
    batch_size: Positive
    group_size: Positive
    max_new_tokens: Positive
    max_staleness: NotNegative
    rollout_timeout: AboveZero


def pixels(image: Image.Image) -> Tensor:
    """What the policy sees of an image: how far red, green and blue are from grey, [3, SIDE, SIDE]."""
    channels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1) / 64
    return channels - channels.mean(dim=0)


class Policy(nn.Module):
    """An image and tokens in, logits of the next token out. The server makes one of it too."""

    vocabulary = len(SPECIAL) + len(WORDS)

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.eye = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(16 * (SIDE // 4) ** 2, hidden_size),
            nn.Tanh(),
        )
        self.embedding = nn.Embedding(self.vocabulary, 16)
        self.gru = nn.GRU(16, hidden_size, batch_first=True)
        self.head = nn.Linear(hidden_size, self.vocabulary)

    def initial_state(self, image_data: Sequence[str]) -> Tensor:
        """The state [hidden] before the first token: for the server, which has the image in base64."""
        (encoded,) = image_data
        image = Image.open(io.BytesIO(base64.b64decode(encoded)))
        return self.eye(pixels(image)[None])[0]

    def forward(self, tokens: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [batch, time, vocabulary] and states [batch, time, hidden] for `tokens` [batch, time]."""
        states, _ = self.gru(self.embedding(tokens), state[None])
        return self.head(states), states


class Processor:
    """What Hugging Face's processors do: a prompt's tokens, and pixels for the trainer."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def __call__(self, images: Sequence[Image.Image], text: str, **_: Any) -> dict[str, Tensor]:
        return {
            "input_ids": torch.tensor([self._tokenizer.encode(text)]),
            "pixel_values": torch.stack([pixels(image) for image in images]),
        }


# The task.


def square(colour: str, random: Random) -> Image.Image:
    """A square of about this colour, somewhere on a grey ground."""
    ground = random.randint(60, 190)
    image = Image.new("RGB", (SIDE, SIDE), (ground, ground, ground))
    x, y, side = random.randint(0, 6), random.randint(0, 6), random.randint(6, 9)
    shade = tuple(channel + random.randint(-20, 20) for channel in COLOURS[colour])
    ImageDraw.Draw(image).rectangle((x, y, x + side, y + side), fill=shade)
    return image


def questions(settings: Settings, random: Random) -> list[dict[str, Any]]:
    """An image and the question for its colour, as a chat."""
    messages = [{"role": "user", "content": "<|image|>colour?"}]
    colours = random.choices(list(COLOURS), k=settings.tasks)
    return [
        {"id": number, "messages": messages, "images": [square(colour, random)], "answer": colour}
        for number, colour in enumerate(colours)
    ]


async def is_right(
    prompt: str, completions: str, prompt_ids: list[int], completion_ids: list[int], answer: str, **data: Any
) -> float:
    """The reward: 1 for the colour alone, half of it where more is said after it."""
    return float(completions == answer) or 0.5 * completions.startswith(answer)


@perf.trace_perf("learn", category="compute")
def learn(
    policy: Policy, optimizer: torch.optim.Optimizer, groups: Sequence[Trajectory], settings: Settings
) -> None:
    """A few passes over a batch; each row has its image in `multi_modal_input`."""
    batch = concat_padded(groups)
    seen = torch.cat([inputs["pixel_values"] for inputs in batch["multi_modal_input"]])
    advantages = torch.cat([group_advantages(group["rewards"]) for group in groups])
    for _ in range(settings.epochs):
        logits, _ = policy(batch["input_ids"][:, :-1], policy.eye(seen))
        loss = grpo_loss(logits, batch, advantages, settings.clip, settings.entropy_bonus)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def main(settings: Settings) -> None:
    """Train; prints the mean reward of each step's batch."""
    torch.set_num_threads(1)  # nothing here is large enough for more
    torch.manual_seed(settings.seed)
    policy = Policy(settings.hidden_size)
    optimizer = torch.optim.Adam(policy.parameters(), lr=settings.learning_rate)
    tasks = questions(settings, Random(settings.seed))
    tokenizer = tiny_tokenizer(WORDS)
    workflow = VisionRLVRWorkflow(
        is_right,
        GenerationHyperparameters(n_samples=settings.group_size, max_new_tokens=settings.max_new_tokens),
        tokenizer,
        Processor(tokenizer),
    )
    with (
        serving(
            policy=f"{Path(__file__).stem}:Policy",
            config={"hidden_size": settings.hidden_size},
            seed=settings.seed,
        ) as url,
        RolloutExecutor(
            SGLangEngine(url, model="vision-rlvr"),
            consumer_batch_size=settings.batch_size,
            max_staleness=settings.max_staleness,
            rollout_timeout=settings.rollout_timeout,
        ) as executor,
    ):
        executor.update_weights(dump_weights(policy), 0)
        for step in range(settings.steps):
            with perf.step(step):
                groups = executor.prepare_batch(tasks, workflow)
                learn(policy, optimizer, groups, settings)
                executor.update_weights(dump_weights(policy), step + 1)
            rewards = torch.cat([group["rewards"] for group in groups])
            print(f"step {step + 1}/{settings.steps}  reward {rewards.mean():.3f}", flush=True)


if __name__ == "__main__":
    run(main, Settings, __file__)

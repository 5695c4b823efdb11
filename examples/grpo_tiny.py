"""GRPO with asynchronous rollouts: a tiny policy learns to sort digits, while the next rollouts are already made.

    python examples/grpo_tiny.py [--config examples/grpo_tiny.yaml] [key=value ...]

With ROLLSPAN_ENABLED=1 in the environment every rollout is traced: see `rollspan show` and `rollspan timeline` after.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from rollspan import perf
from rollspan.demo.policy import Policy, dump_weights
from rollspan.demo.serving import serving
from rollspan.demo.task import END, EQUALS
from rollspan.rollout import (
    AsyncReward,
    GenerationHyperparameters,
    InferenceEngine,
    ModelRequest,
    RolloutExecutor,
    RolloutWorkflow,
    SGLangEngine,
    Trajectory,
    TrajectoryBuilder,
    WorkflowTaskInput,
    concat_padded,
)
from settings import AboveZero, NotNegative, Positive, SettingsError, run


@dataclass(frozen=True)
class Settings:
    """What grpo_tiny.yaml says, and explains."""

    steps: Positive
    seed: int
    checkpoint: str | None
    tasks: Positive
    digits: Positive
    hidden_size: Positive
    learning_rate: AboveZero
    epochs: Positive
    clip: float
    entropy_bonus: float
    batch_size: Positive
    group_size: Positive
    max_new_tokens: Positive
    max_staleness: NotNegative
    max_concurrent_rollouts: Positive
    rollout_timeout: AboveZero
    reward_timeout: AboveZero


# The task, and what one rollout of it does.


def sorted_share(digits: Sequence[int], answer: Sequence[int]) -> float:
    """The reward: which share of the answer's tokens, END included, stand where they should, 0 to 1."""
    wanted = [*sorted(digits), END]
    return sum(given == right for given, right in zip(answer, wanted, strict=False)) / len(wanted)


class SortDigits(RolloutWorkflow):
    """One rollout: digits are the prompt, the policy's answer is scored in another process."""

    def __init__(self, reward: AsyncReward, settings: Settings) -> None:
        self.group_size = settings.group_size
        self._reward = reward
        self._gconfig = GenerationHyperparameters(
            max_new_tokens=settings.max_new_tokens, stop_token_ids=[END]
        )

    async def arun_episode(self, engine: InferenceEngine, task: WorkflowTaskInput) -> Trajectory | None:
        """One row of prompt and answer; None where the engine gave the answer up."""
        digits = task.data["digits"]
        prompt = [*digits, EQUALS]
        response = await engine.agenerate(ModelRequest(prompt, self._gconfig))
        if response.stop_reason == "abort":
            return None
        builder = TrajectoryBuilder()
        builder.append(prompt)
        builder.append_response(response)
        return builder.trajectory(await self._reward(digits, response.output_tokens))


def has_signal(group: Trajectory) -> bool:
    """Whether a group teaches anything: where all rewards are the same, every advantage is 0."""
    return bool(group["rewards"].min() < group["rewards"].max())


# Learning.


def group_advantages(rewards: Tensor) -> Tensor:
    """How much better each rollout of a group is than the group, in the group's own scale: [rows]."""
    return (rewards - rewards.mean()) / (rewards.std() + 0.1)


def grpo_loss(logits: Tensor, batch: Trajectory, advantages: Tensor, clip: float, bonus: float) -> Tensor:
    """The clipped loss of GRPO, with a bonus for entropy.

    `logits` [rows, length - 1, vocabulary] are of the batch's tokens from the second on, `advantages` [rows].
    """
    mask, old = batch["loss_mask"][:, 1:], batch["logprobs"][:, 1:]  # `old`: of the weights that sampled
    every = torch.log_softmax(logits, dim=-1)
    new = every.gather(2, batch["input_ids"][:, 1:, None])[:, :, 0]
    ratio, gain = ((new - old) * mask).exp(), advantages[:, None]
    gain = torch.minimum(ratio * gain, ratio.clamp(1 - clip, 1 + clip) * gain)
    entropy = -(every.exp() * every).sum(dim=-1)
    return -((gain + bonus * entropy) * mask).sum() / mask.sum()


@perf.trace_perf("learn", category="compute")
def learn(
    policy: Policy, optimizer: torch.optim.Optimizer, groups: Sequence[Trajectory], settings: Settings
) -> None:
    """A few passes over a batch: one trajectory [group_size, length] for each task."""
    batch = concat_padded(groups)
    advantages = torch.cat([group_advantages(group["rewards"]) for group in groups])
    for _ in range(settings.epochs):
        logits, _ = policy(batch["input_ids"][:, :-1])
        loss = grpo_loss(logits, batch, advantages, settings.clip, settings.entropy_bonus)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()


# Checkpoints: weights, optimizer, and where the executor is in the data, with the tasks that are under way.


def checkpoint_of(settings: Settings) -> Path | None:
    """Where it is to be. Raises SettingsError where that cannot be, before there is anything to lose."""
    if settings.checkpoint is None:
        return None
    path = Path(settings.checkpoint)
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise SettingsError(
            f"checkpoint is {settings.checkpoint!r}; expected a file in a folder that is there and can be written to"
        )
    return path


def save(path: Path, policy: Policy, optimizer: torch.optim.Optimizer, executor: RolloutExecutor) -> None:
    """Write all of it, or nothing."""
    state = {
        "policy": policy.state_dict(),
        "optimizer": optimizer.state_dict(),
        "executor": executor.state_dict(),
    }
    unfinished = path.with_name(f"{path.name}.new")
    torch.save(state, unfinished)
    os.replace(unfinished, path)  # noqa: PTH105 - what it does is what its name says


def resume(path: Path, policy: Policy, optimizer: torch.optim.Optimizer, executor: RolloutExecutor) -> None:
    """Go on where `save` was."""
    state = torch.load(path, weights_only=True)
    policy.load_state_dict(state["policy"])
    optimizer.load_state_dict(state["optimizer"])
    executor.load_state_dict(state["executor"])
    print(f"goes on after step {executor.get_version()} with {path}")


def main(settings: Settings) -> None:
    """Train; prints the mean reward of each step's batch."""
    checkpoint = checkpoint_of(settings)
    torch.set_num_threads(1)  # nothing here is large enough for more
    random = Random(settings.seed)
    tasks = [
        {"id": number, "digits": random.choices(range(10), k=settings.digits)}
        for number in range(settings.tasks)
    ]
    loader = DataLoader(tasks, batch_size=settings.batch_size, collate_fn=list)
    policy = Policy(settings.hidden_size, settings.seed)
    optimizer = torch.optim.Adam(policy.parameters(), lr=settings.learning_rate)
    with (
        serving(
            config={"hidden_size": settings.hidden_size, "seed": settings.seed}, seed=settings.seed
        ) as url,
        AsyncReward(sorted_share, timeout=settings.reward_timeout, workers=1) as reward,
        RolloutExecutor(
            SGLangEngine(url, model="grpo-tiny"),
            consumer_batch_size=settings.batch_size,
            max_staleness=settings.max_staleness,
            max_concurrent_rollouts=settings.max_concurrent_rollouts,
            rollout_timeout=settings.rollout_timeout,
        ) as executor,
    ):
        workflow = SortDigits(reward, settings)
        if checkpoint is not None and checkpoint.exists():
            resume(checkpoint, policy, optimizer, executor)
        # Weights have the number of the steps that made them; the server has others at first.
        executor.update_weights(dump_weights(policy), executor.get_version())
        for step in range(executor.get_version(), settings.steps):
            with perf.step(step):
                groups = executor.prepare_batch(loader, workflow, has_signal)
                learn(policy, optimizer, groups, settings)
                executor.update_weights(dump_weights(policy), step + 1)
            if checkpoint is not None:
                save(checkpoint, policy, optimizer, executor)
            rewards = torch.cat([group["rewards"] for group in groups])
            print(f"step {step + 1}/{settings.steps}  reward {rewards.mean():.3f}", flush=True)


if __name__ == "__main__":
    run(main, Settings, __file__)

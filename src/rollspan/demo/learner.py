"""Learning: clipped policy-gradient steps with advantages relative to the group (GRPO)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rollspan import perf
from rollspan.demo.config import DemoConfig
from rollspan.demo.policy import Policy
from rollspan.rollout import Trajectory, concat_padded


class Learner:
    """Owns the policy that is trained."""

    def __init__(self, config: DemoConfig) -> None:
        self.policy = Policy(config.hidden_size, config.seed)
        self._config = config
        self._optimizer = torch.optim.Adam(self.policy.parameters(), lr=config.learning_rate)

    @perf.trace_perf("learn", category="compute")
    def learn(self, groups: Sequence[Trajectory]) -> None:
        """A few updates on one batch of groups."""
        advantages = torch.cat([group_advantages(group["rewards"]) for group in groups])[:, None]
        batch = concat_padded(groups)
        tokens, mask, old = batch["input_ids"], batch["loss_mask"][:, 1:], batch["logprobs"][:, 1:]
        low, high = 1 - self._config.clip, 1 + self._config.clip
        for _ in range(self._config.epochs):
            with perf.trace_scope("forward", category="compute"):
                logits, _ = self.policy(tokens[:, :-1])
                every = torch.log_softmax(logits, dim=-1)
                new = every.gather(2, tokens[:, 1:, None])[:, :, 0]
                ratio = ((new - old) * mask).exp()
                gain = torch.minimum(ratio * advantages, ratio.clamp(low, high) * advantages)
                entropy = -(every.exp() * every).sum(dim=-1)
                loss = -((gain + self._config.entropy_bonus * entropy) * mask).sum() / mask.sum()
            with perf.trace_scope("backward", category="compute"):
                self._optimizer.zero_grad()
                loss.backward()
            with perf.trace_scope("optimizer", category="compute"):
                torch.nn.utils.clip_grad_norm_(self.policy.parameters(), 1.0)
                self._optimizer.step()


def group_advantages(rewards: Tensor) -> Tensor:
    """How much better each rollout of a group is than the group, in the group's own scale: [rollouts]."""
    return (rewards - rewards.mean()) / (rewards.std() + 0.1)

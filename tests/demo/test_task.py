"""The demo's task, what scores it, and what is learned from."""

from __future__ import annotations

import itertools

import pytest
import torch

from rollspan.demo.config import DemoConfig
from rollspan.demo.learner import group_advantages
from rollspan.demo.policy import Policy, dump_weights, load_weights
from rollspan.demo.task import END, EQUALS, PADDING, Task, next_digit, score, tasks
from rollspan.demo.trainer import teaches


def test_tasks_depend_on_the_seed_alone() -> None:
    """The same seed gives the same tasks, another seed others."""
    first, again, other = (list(itertools.islice(tasks(DemoConfig(seed=s)), 50)) for s in (1, 1, 2))
    assert first == again != other
    assert [task.task_id for task in first] == list(range(50))
    assert first != list(itertools.islice(tasks(DemoConfig(seed=1), evaluation=True), 50))


@pytest.mark.parametrize(
    ("answer", "reward"),
    [
        ([1, 2, 3, 3, END], 1.0),
        ([1, 2, 3, 3], 0.8),
        ([1, 2, 4, 4, END], 0.6),
        ([3, 1, 2, 3, END], 0.4),
        ([5, EQUALS, 5, 5, 5, 5, 5], 0.0),
        ([END], 0.0),
    ],
)
def test_the_reward_is_the_share_of_tokens_in_their_place(answer: list[int], reward: float) -> None:
    """Partial credit: each token that stands where it should counts the same, the end included."""
    assert score([3, 1, 2, 3], answer) == pytest.approx(reward)


@pytest.mark.parametrize("answer", [[EQUALS, 1, 2, END], [PADDING, END]])
def test_an_answer_that_begins_with_something_else_cannot_be_scored(answer: list[int]) -> None:
    """The reward raises for an answer that begins with neither a digit nor the end: rollouts fail so."""
    with pytest.raises(ValueError, match="begins with a digit"):
        score([1, 2], answer)


async def test_the_tool_gives_the_next_digit() -> None:
    """The tool names the smallest digit still missing, or the end when none is."""
    task = Task(0, (3, 1, 3, 2))
    assert await next_digit(task, []) == 1
    assert await next_digit(task, [1, 2, 3]) == 3
    assert await next_digit(task, [1, 2, 3, 3]) == END


def test_groups_whose_rewards_are_the_same_teach_nothing() -> None:
    """They are refused, others are not."""
    for rewards, accepted in (([0.5, 0.5], False), ([0.5, 0.6], True)):
        assert teaches({"rewards": torch.tensor(rewards)}) is accepted


def test_advantages_are_relative_to_the_group() -> None:
    """Advantages of a group sum to zero and rank as the rewards do; equal rewards give none."""
    advantages = group_advantages(torch.tensor([0.0, 0.4, 0.8]))
    assert float(advantages.sum()) == pytest.approx(0, abs=1e-6)
    assert advantages[0] < advantages[1] < advantages[2]
    assert group_advantages(torch.zeros(4)).tolist() == [0, 0, 0, 0]


def test_weights_survive_the_way_over_http() -> None:
    """Weights taken over from bytes make the same policy; the policy's first weights depend on its seed alone."""
    torch.manual_seed(5)
    first = Policy(16, seed=1)
    torch.manual_seed(6)
    again, other = Policy(16, seed=1), Policy(16, seed=2)
    assert torch.equal(first.gru.weight_hh_l0, again.gru.weight_hh_l0)
    assert not torch.equal(first.gru.weight_hh_l0, other.gru.weight_hh_l0)
    load_weights(other, dump_weights(first))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))

"""Trajectories: how they are built, put together, and checked."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.needs import need

try:
    import torch
except ModuleNotFoundError:
    need(False, "torch is not installed")

from rollspan.rollout.requests import ModelResponse
from rollspan.rollout.trajectories import Trajectory, TrajectoryBuilder, check, concat_padded, oldest_version

PADDING = {"versions": -1, "attention_mask": False}


def built(length: int = 3, reward: float = 1.0, **others: Any) -> Trajectory:
    """A prompt of two tokens and an answer of `length`."""
    builder = TrajectoryBuilder()
    builder.append([7, 8])
    builder.append_response(
        ModelResponse(
            output_tokens=[5] * length, output_logprobs=[-0.5] * length, output_versions=[2] * length
        )
    )
    return builder.trajectory(reward, **others)


def test_a_builder_marks_what_the_model_wrote() -> None:
    """The answer alone has loss, logprobs and versions; every tensor has one row and its documented type."""
    trajectory = built(2, 0.25)
    check(trajectory)
    assert trajectory["input_ids"].tolist() == [[7, 8, 5, 5]]
    assert trajectory["loss_mask"].tolist() == [[0, 0, 1, 1]]
    assert trajectory["logprobs"].tolist() == [[0, 0, -0.5, -0.5]]
    assert trajectory["versions"].tolist() == [[-1, -1, 2, 2]]
    assert trajectory["rewards"].tolist() == [0.25]


def test_an_answer_that_lacks_logprobs_is_refused() -> None:
    """Tokens, logprobs and versions of different numbers are named."""
    with pytest.raises(ValueError, match="2 tokens, 0 logprobs and 2 versions"):
        TrajectoryBuilder().append_response(ModelResponse(output_tokens=[1, 2], output_versions=[0, 0]))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("a", "tokens is 'a'; expected a list of token ids"),
        (b"12345678", "tokens is b'12345678'; expected a list of token ids"),
        (5, "tokens is 5; expected a list of token ids"),
        (None, "tokens is None; expected a list of token ids"),
        ([1, 1.5], "token 1 of 2 is 1.5; expected a token id, a whole number"),
        (["a"], "token 0 of 1 is 'a'; expected a token id, a whole number"),
        ([[1, 2]], "token 0 of 1 is [1, 2]; expected a token id, a whole number"),
        ([1 << 63], f"token 0 of 1 is {1 << 63}; expected a token id, a whole number"),
    ],
)
def test_what_are_no_token_ids_is_refused(given: Any, said: str) -> None:
    """Neither a text nor a number with a fraction becomes tokens, and the builder stays as it was."""
    builder = TrajectoryBuilder()
    with pytest.raises(ValueError, match=f"^{re.escape(said)}"):
        builder.append(given)
    if isinstance(given, list):
        some: list[Any] = [0] * len(given)
        with pytest.raises(ValueError, match=f"^{re.escape(said)}"):
            builder.append_response(
                ModelResponse(output_tokens=given, output_logprobs=some, output_versions=some)
            )
    assert len(builder) == 0
    assert builder.input_ids == []


def test_token_ids_may_come_as_tensors_and_arrays() -> None:
    """They are whole numbers of the builder's list all the same."""
    builder = TrajectoryBuilder()
    builder.append(torch.tensor([1, 2]))  # type: ignore[arg-type]
    builder.append(torch.tensor([3]).numpy())  # type: ignore[arg-type]
    assert builder.input_ids == [1, 2, 3]
    assert {type(token) for token in builder.input_ids} == {int}


@pytest.mark.parametrize(
    ("logprob", "version", "reward", "said"),
    [
        ("a", 0, 1.0, "'logprobs' cannot be a tensor of torch.float32 [1, length]"),
        (None, 0, 1.0, "'logprobs' cannot be a tensor of torch.float32 [1, length]"),
        (0.0, None, 1.0, "'versions' cannot be a tensor of torch.int32 [1, length]"),
        (0.0, 0, "a", "the reward is 'a'; expected a number"),
        (0.0, 0, None, "the reward is None; expected a number"),
        (0.0, 0, [1.0], "the reward is [1.0]; expected a number"),
    ],
)
def test_what_cannot_be_a_tensor_is_named(logprob: Any, version: Any, reward: Any, said: str) -> None:
    """An answer whose numbers are none, and a reward that is none, are told by their key."""
    builder = TrajectoryBuilder()
    builder.append_response(
        ModelResponse(output_tokens=[1], output_logprobs=[logprob], output_versions=[version])
    )
    with pytest.raises(ValueError, match=f"^{re.escape(said)}"):
        builder.trajectory(reward)


def test_a_trajectory_without_a_token_is_refused() -> None:
    """There is nothing to train on, and the message says what to do."""
    with pytest.raises(ValueError, match=r"no tokens.*append\(\).*append_response\(\)"):
        TrajectoryBuilder().trajectory(1.0)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([None], "trajectory 0 is a NoneType; expected a dict of tensors"),
        ([built(), 5], "trajectory 1 is a int; expected a dict of tensors"),
        (built(), "trajectory 0 is a str; expected a dict of tensors"),
    ],
)
def test_what_is_no_trajectory_is_not_concatenated(given: Any, said: str) -> None:
    """It is told by its place: one trajectory alone has to be in a list."""
    with pytest.raises(ValueError, match=f"^{re.escape(said)}"):
        concat_padded(given)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=6))
def test_concatenated_rows_are_what_they_were_and_padding_behind(lengths: list[int]) -> None:
    """Every row is found again in the batch, followed by each key's own padding alone; the batch is a trajectory."""
    rows = [built(length, float(length), notes=[str(length)]) for length in lengths]
    whole = concat_padded(rows)
    check(whole, rows=len(rows))
    for number, row in enumerate(rows):
        for key in ("input_ids", "attention_mask", "loss_mask", "logprobs", "versions"):
            length = row[key].shape[1]
            assert torch.equal(whole[key][number, :length], row[key][0])
            assert (whole[key][number, length:] == PADDING.get(key, 0)).all()
    assert whole["rewards"].tolist() == lengths
    assert whole["notes"] == list(map(str, lengths))
    assert torch.equal(concat_padded([concat_padded(rows[:1]), *rows[1:]])["versions"], whole["versions"])


def test_other_tensors_are_padded_along_their_second_axis() -> None:
    """A workflow's own tensors are padded with 0, with further axes as they are."""
    whole = concat_padded([built(1, hidden=torch.ones(1, 3, 2)), built(2, hidden=torch.ones(1, 4, 2))])
    assert whole["hidden"].shape == (2, 4, 2)
    assert whole["hidden"][0, 3].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("trajectories", "said"),
    [
        ([], "no trajectories"),
        ([built(), built(note=[1])], "trajectory 1 has the keys"),
        ([built(), {**built(), "rewards": torch.ones(1, dtype=torch.float64)}], "'rewards' of trajectory 1"),
        ([built(x=torch.ones(1, 2, 3)), built(x=torch.ones(1, 2, 4))], "'x' of trajectory 1"),
        ([built(x=torch.ones(1)), built(x=[1])], "'x' of trajectory 1 is a list"),
        ([built(x=3)], "'x' of trajectory 0 is a int"),
    ],
)
def test_what_does_not_go_together_is_refused(trajectories: list[Trajectory], said: str) -> None:
    """No trajectories, other keys, types or axes: the message names the key and the trajectory."""
    with pytest.raises(ValueError, match=said):
        concat_padded(trajectories)


ONES = torch.ones(1, 5)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"input_ids": ONES.short()},
            r"'input_ids' is torch.int16 \[1, 5\].*expected a tensor of torch.int64",
        ),
        ({"loss_mask": ONES.long()}, "'loss_mask' is torch.int64"),
        ({"logprobs": [0.0]}, "'logprobs' is a list"),
        ({"rewards": torch.tensor(1.0)}, r"'rewards' is torch.float32 \[\]"),
        ({"versions": torch.ones(1, 4).int()}, r"'versions' has the shape \[1, 4\]"),
        ({"rewards": torch.ones(2)}, "'rewards' has 2 rows"),
        ({"attention_mask": torch.tensor([[True, True, False, False, False]])}, "'loss_mask' is not 0 where"),
        ({"attention_mask": torch.tensor([[False, True, True, True, True]])}, "behind padding"),
        ({"attention_mask": torch.zeros(1, 5).bool()}, "a row without a token"),
        ({"loss_mask": 2 * ONES}, "outside of 0 to 1"),
        (
            {"loss_mask": torch.tensor([[0, float("nan"), 1, 1, 1]])},
            "'loss_mask' has values that are not finite",
        ),
        ({"logprobs": ONES / 0}, "'logprobs' has values that are not finite"),
        ({"rewards": torch.tensor([float("nan")])}, "'rewards' has values that are not finite"),
        ({"images": [1, 2]}, "'images' has 2 rows"),
        ({"note": "text"}, "'note' is a str"),
    ],
)
def test_a_wrong_trajectory_is_told_what_is_wrong_with_it(changes: dict[str, Any], said: str) -> None:
    """A type, a shape or a content that is wrong is named with its key."""
    with pytest.raises(ValueError, match=said):
        check({**built(), **changes})


@pytest.mark.parametrize(
    ("key", "values", "said"),
    [
        ("attention_mask", [[False] * 9 + [True]], "behind padding"),
        ("attention_mask", [[True] * 9 + [False]], "'loss_mask' is not 0 where"),
        ("loss_mask", [[0.0] * 9 + [2.0]], "outside of 0 to 1"),
        ("loss_mask", [[0.0] * 9 + [float("nan")]], "'loss_mask' has values"),
        ("logprobs", [[0.0] * 9 + [float("-inf")]], "'logprobs' has values that are not finite"),
    ],
)
@pytest.mark.parametrize("times", [1, 100])
def test_contents_are_looked_at_in_long_trajectories_too(
    times: int, key: str, values: list[list[float]], said: str
) -> None:
    """Of few tokens one by one, of many as arrays: the same is wrong with both."""
    row = {name: tensor.repeat(1, times) for name, tensor in built(8).items() if name != "rewards"}
    right = {**row, "rewards": torch.ones(1)}
    check(right)
    wrong = torch.cat([row[key][:, :-10], torch.tensor(values).to(row[key].dtype)], dim=1)
    with pytest.raises(ValueError, match=said):
        check({**right, key: wrong})


def test_tokens_and_masks_may_be_of_the_types_that_others_use() -> None:
    """AReaL's are int32, and a mask may be of bools."""
    row = built()
    check({**row, "input_ids": row["input_ids"].int(), "loss_mask": row["loss_mask"].int()})
    check({**row, "loss_mask": row["loss_mask"].bool()})


def test_what_is_no_trajectory_is_told_so() -> None:
    """No dict, a key too few, several rows for one, none at all."""
    with pytest.raises(ValueError, match="not a list"):
        check([])
    with pytest.raises(ValueError, match="lacks 'versions'"):
        check({key: value for key, value in built().items() if key != "versions"})
    two = concat_padded([built(), built()])
    with pytest.raises(ValueError, match="has 2 rows; expected 1"):
        check(two)
    check(two, rows=None)
    with pytest.raises(ValueError, match="empty"):
        check({key: value[:, :0] if value.ndim == 2 else value for key, value in built().items()})


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.float32, torch.int8])
def test_the_oldest_version_is_that_of_a_token_of_the_models(dtype: torch.dtype) -> None:
    """Tokens that it did not write have none, whatever the type is."""
    for versions, oldest in (([[-1, 7, 3, -1]], 3), ([[0, 5], [-1, 4]], 0), ([[-1, -1]], None), ([[]], None)):
        tensor = torch.tensor(versions, dtype=dtype)
        assert oldest_version({"versions": tensor}) == oldest
        assert oldest_version({"versions": tensor.repeat(1, 100)}) == oldest
    assert oldest_version({}) is None

"""Trajectories: what a rollout gives the trainer, as a dictionary of tensors."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from typing import Any, Final, TypeAlias

import numpy as np
import torch

from .requests import ModelResponse

Trajectory: TypeAlias = dict[str, Any]
"""Rows of token sequences, padded on the right; `batch` rows, `length` tokens.

| key | shape | dtype |
|---|---|---|
| `input_ids` | [batch, length] | int64 |
| `attention_mask` | [batch, length] | bool: true where there is a token |
| `loss_mask` | [batch, length] | float32: 1 where the model itself wrote it |
| `logprobs` | [batch, length] | float32: 0 where the model did not write |
| `versions` | [batch, length] | int32: of the weights that wrote it, -1 where the model did not |
| `rewards` | [batch] | float32 |

Other keys are the workflow's own: tensors whose first axis is the batch, or lists with an item for each row.
"""

NOT_WRITTEN: Final = -1
"""Version of a token that the model did not write."""

_FEW: Final = 128
"""So many numbers are looked at sooner one by one than as an array."""

_ALSO: Final = {
    "input_ids": (torch.int32,),
    "loss_mask": (torch.int32, torch.bool),
}
"""What a user's trajectory may have besides."""

_OF_TOKENS: Final = {
    "input_ids": torch.int64,
    "attention_mask": torch.bool,
    "loss_mask": torch.float32,
    "logprobs": torch.float32,
    "versions": torch.int32,
}


class TrajectoryBuilder:
    """The tokens of one rollout as they come: what it was given, and what the model wrote."""

    def __init__(self) -> None:
        self.input_ids: list[int] = []
        self._loss_mask: list[float] = []
        self._logprobs: list[float] = []
        self._versions: list[int] = []

    def __len__(self) -> int:
        return len(self.input_ids)

    def append(self, tokens: Sequence[int]) -> None:
        """Add tokens that the model did not write: a prompt, a tool's answer. Raises ValueError for no token ids."""
        ids = _token_ids(tokens)
        self._extend(ids, 0.0, [0.0] * len(ids), [NOT_WRITTEN] * len(ids))

    def append_response(self, response: ModelResponse) -> None:
        """Add an answer's own tokens.

        Raises ValueError where they are not as many as its logprobs and versions, and for no token ids.
        """
        lengths = [
            len(part) for part in (response.output_tokens, response.output_logprobs, response.output_versions)
        ]
        if len(set(lengths)) > 1:
            tokens, logprobs, versions = lengths
            raise ValueError(
                f"the engine's answer has {tokens} tokens, {logprobs} logprobs and {versions} versions; "
                "expected as many of each"
            )
        ids = _token_ids(response.output_tokens)
        self._extend(ids, 1.0, response.output_logprobs, response.output_versions)

    def _extend(
        self, tokens: array[int], loss: float, logprobs: Sequence[float], versions: Sequence[int]
    ) -> None:
        self.input_ids += tokens
        self._loss_mask += [loss] * len(tokens)
        self._logprobs += logprobs
        self._versions += versions

    def trajectory(self, reward: float, **others: Any) -> Trajectory:
        """One row: shapes [1, length], and [1] for the reward; `others` are further keys, as they are.

        Raises ValueError where there are no tokens, and for what is no number where one has to be.
        """
        if not self.input_ids:
            raise ValueError(
                "there are no tokens to make a trajectory of; expected append() or append_response() before"
            )
        columns: dict[str, Sequence[Any]] = {
            "input_ids": self.input_ids,
            "attention_mask": [True] * len(self),
            "loss_mask": self._loss_mask,
            "logprobs": self._logprobs,
            "versions": self._versions,
        }
        rows = {key: _row(key, column) for key, column in columns.items()}
        return {**rows, "rewards": _reward(reward), **others}


def _token_ids(tokens: Any) -> array[int]:
    """As whole numbers of 64 bits: each is looked at, but not by the interpreter."""
    if isinstance(tokens, (str, bytes, bytearray)) or not hasattr(tokens, "__iter__"):
        raise ValueError(f"tokens is {tokens!r}; expected a list of token ids")
    given = tokens if isinstance(tokens, list) else list(tokens)
    try:
        return array("q", given)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        number, token = next(pair for pair in enumerate(given) if not _is_token_id(pair[1]))
        raise ValueError(
            f"token {number} of {len(given)} is {token!r}; expected a token id, a whole number of 64 bits"
        ) from None


def _is_token_id(token: Any) -> bool:
    try:
        array("q", [token])
    except (TypeError, ValueError, OverflowError, RuntimeError):
        return False
    return True


def _row(key: str, column: Sequence[Any]) -> torch.Tensor:
    dtype = _OF_TOKENS[key]
    try:
        return torch.tensor([column], dtype=dtype)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise ValueError(f"{key!r} cannot be a tensor of {dtype} [1, length]: {error}") from error


def _reward(reward: Any) -> torch.Tensor:
    try:
        made = torch.tensor([reward], dtype=torch.float32)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        made = None
    if made is None or made.ndim != 1:
        raise ValueError(f"the reward is {reward!r}; expected a number")
    return made


def concat_padded(trajectories: Sequence[Trajectory]) -> Trajectory:
    """The rows of all of them, in order: shapes [sum of batches, longest length].

    Tensors are padded on the right of their second axis: `versions` with -1, `attention_mask` with False, all others
    with 0. Lists are joined. Raises ValueError for no trajectory at all, for what is none, and for those that differ in
    their keys, or in the type or the further axes of one key.
    """
    if not trajectories:
        raise ValueError("there are no trajectories to concatenate; expected at least one")
    for number, trajectory in enumerate(trajectories):
        if not isinstance(trajectory, dict):
            raise ValueError(
                f"trajectory {number} is a {type(trajectory).__name__}; expected a dict of tensors, and several in a list"
            )
    first = trajectories[0]
    for number, trajectory in enumerate(trajectories):
        if trajectory.keys() != first.keys():
            raise ValueError(
                f"trajectory {number} has the keys {sorted(trajectory)}, the first one {sorted(first)}; "
                "expected the same in all"
            )
    return {key: _joined(key, [trajectory[key] for trajectory in trajectories]) for key in first}


def _joined(key: str, values: Sequence[Any]) -> Any:
    if all(isinstance(value, list) for value in values):
        return [item for value in values for item in value]
    forms = [_form(value) for value in values]
    for number, form in enumerate(forms):
        if form is None:
            raise ValueError(
                f"{key!r} of trajectory {number} is a {type(values[number]).__name__}; expected a tensor with an axis "
                "of rows, or a list in all trajectories"
            )
        if form != forms[0]:
            raise ValueError(
                f"{key!r} of trajectory {number} is {_describe(values[number])}, of the first one "
                f"{_describe(values[0])}; expected the same type, device, and axes from the third on"
            )
    if values[0].ndim == 1:
        return torch.cat(list(values))
    length = max(value.shape[1] for value in values)
    padding = NOT_WRITTEN if key == "versions" else 0
    return torch.cat([_padded(value, length, padding) for value in values])


def _form(value: Any) -> tuple[Any, ...] | None:
    """What has to be the same in tensors that are joined."""
    if not isinstance(value, torch.Tensor) or value.ndim == 0:
        return None
    return value.dtype, value.device, value.ndim, value.shape[2:]


def _padded(value: torch.Tensor, length: int, padding: int) -> torch.Tensor:
    missing = length - value.shape[1]
    if not missing:
        return value
    shape = (value.shape[0], missing, *value.shape[2:])
    return torch.cat([value, value.new_full(shape, padding)], dim=1)


def _describe(value: torch.Tensor) -> str:
    return f"{value.dtype} {list(value.shape)} on {value.device}"


def check(trajectory: Any, *, rows: int | None = 1) -> None:
    """Raise ValueError, with what is wrong, unless this is a `Trajectory` of that many rows (None: of any number)."""
    if not isinstance(trajectory, dict):
        raise ValueError(f"a trajectory is a dict of tensors, not a {type(trajectory).__name__}")
    missing = [key for key in (*_OF_TOKENS, "rewards") if key not in trajectory]
    if missing:
        raise ValueError(f"the trajectory lacks {', '.join(map(repr, missing))}; it has {sorted(trajectory)}")
    for key, dtype in _OF_TOKENS.items():
        _check_tensor(key, trajectory[key], dtype, ("batch", "length"))
    _check_tensor("rewards", trajectory["rewards"], torch.float32, ("batch",))
    _check_shapes(trajectory, rows)
    _check_contents(trajectory)


def _check_tensor(key: str, value: Any, dtype: torch.dtype, axes: Sequence[str]) -> None:
    if not isinstance(value, torch.Tensor):
        found = f"a {type(value).__name__}"
    elif (value.dtype != dtype and value.dtype not in _ALSO.get(key, ())) or value.ndim != len(axes):
        found = _describe(value)
    else:
        return
    raise ValueError(f"{key!r} is {found}; expected a tensor of {dtype} [{', '.join(axes)}]")


def _check_shapes(trajectory: Trajectory, rows: int | None) -> None:
    batch, length = shape = trajectory["input_ids"].shape
    for key in _OF_TOKENS:
        if trajectory[key].shape != shape:
            raise ValueError(
                f"{key!r} has the shape {list(trajectory[key].shape)}, 'input_ids' {list(shape)}; "
                "expected the same"
            )
    if rows is not None and batch != rows:
        raise ValueError(f"the trajectory has {batch} rows; expected {rows}")
    if not batch or not length:
        raise ValueError(f"the trajectory is empty: 'input_ids' has the shape {list(shape)}")
    for key, value in trajectory.items():
        if key in _OF_TOKENS:
            continue
        if isinstance(value, torch.Tensor) and value.ndim:
            found = value.shape[0]
        elif isinstance(value, list):
            found = len(value)
        else:
            raise ValueError(
                f"{key!r} is a {type(value).__name__}; expected a tensor with an axis of rows, or a list"
            )
        if found != batch:
            raise ValueError(f"{key!r} has {found} rows, 'input_ids' {batch}; expected as many")


def _check_contents(trajectory: Trajectory) -> None:
    if not _least(_numbers(trajectory["attention_mask"])):
        _check_padding(_array(trajectory["attention_mask"]), _array(trajectory["loss_mask"]))
    for key in ("loss_mask", "logprobs", "rewards"):
        numbers = _numbers(trajectory[key])
        if key == "loss_mask" and not (_least(numbers) >= 0 and _most(numbers) <= 1):
            raise ValueError("'loss_mask' has values outside of 0 to 1")
        # A sum is finite where all are, and those that could overflow are no logprobs and no rewards.
        if not math.isfinite(_total(numbers)):
            raise ValueError(f"{key!r} has values that are not finite")


def _check_padding(attended: Any, loss: Any) -> None:
    if (attended[:, 1:] > attended[:, :-1]).any():
        raise ValueError("'attention_mask' has tokens behind padding; expected padding on the right alone")
    if not attended[:, 0].all():
        raise ValueError("'attention_mask' has a row without a token; expected at least one in each")
    if loss[~attended].any():
        raise ValueError("'loss_mask' is not 0 where 'attention_mask' is false; expected no loss on padding")


def oldest_version(trajectory: Trajectory) -> int | None:
    """The oldest version of the weights that wrote any of it; None where it does not say."""
    versions = trajectory.get("versions")
    if versions is None or not versions.numel():
        return None
    numbers = _numbers(versions)
    if isinstance(numbers, list):
        written = [version for version in set(numbers) if version > NOT_WRITTEN]  # few: most are the same
        return int(min(written)) if written else None
    if numbers.dtype.kind != "i":
        numbers = numbers.astype(np.int64)
    # Without their sign, tokens that the model did not write are the youngest of all.
    size = numbers.dtype.itemsize
    oldest = int(numbers.view(f"u{size}").min())
    return None if oldest >> (8 * size - 1) else oldest


def _numbers(tensor: torch.Tensor) -> Any:
    """All numbers of a tensor: a plain list where they are few, else an array."""
    if tensor.numel() > _FEW:
        return _array(tensor)
    numbers = tensor.tolist()
    if tensor.ndim == 2 and len(numbers) == 1:  # a single row, as most are
        return numbers[0]
    return numbers if tensor.ndim == 1 else tensor.flatten().tolist()


def _least(numbers: Any) -> float:
    return float(min(numbers) if isinstance(numbers, list) else numbers.min())


def _most(numbers: Any) -> float:
    return float(max(numbers) if isinstance(numbers, list) else numbers.max())


def _total(numbers: Any) -> float:
    return float(sum(numbers) if isinstance(numbers, list) else numbers.sum(dtype=np.float64))


def _array(tensor: torch.Tensor) -> Any:
    """The same as an array: one row is little work, and torch's calls cost several times as much as numpy's."""
    return tensor.numpy(force=True)

"""Trajectories: what a rollout gives the trainer, as a dictionary of tensors."""

from __future__ import annotations

from typing import Any, Final, TypeAlias

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

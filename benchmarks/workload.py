"""The rollout that every contender traces: a root, in it an execution, in that a generate and a reward.

Seventeen attributes are set while it runs: ten on the root, six on generate, one on reward. Everybody is given
the same values, ready before the clock starts.
"""

from __future__ import annotations

from typing import NamedTuple

SPANS = 4
ATTRIBUTES = 17

WORKFLOW = "math"
MODEL = "tiny"
PROVIDER = "sglang"
FINISH_REASON = "stop"


class Rollout(NamedTuple):
    """The values of one session; `number` counts the sessions of a contender."""

    number: int
    group: str
    input_tokens: int
    output_tokens: int
    score: float


def rollouts(first: int, count: int) -> list[Rollout]:
    """Sessions that no earlier round had, so that nothing a contender has cached fits more than it would in life."""
    return [
        Rollout(n, str(n // 8), 400 + n % 97, 200 + n % 89, n % 11 / 7) for n in range(first, first + count)
    ]

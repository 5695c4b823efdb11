"""`reward`: the call of a reward function, with what AReaL waits for and tries again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import rollspan
from rollspan import context, semconv, switch
from rollspan.instrumentation.patches import Patches

from . import session_events


def wrap(patches: Patches, wrapper: type) -> None:
    """Follow `AsyncRewardWrapper.__call__`."""

    def call(inside: Callable[..., Any]) -> Callable[..., Any]:
        async def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N807
            if switch.runtime() is None or context.current() is None:
                return await inside(self, *args, **kwargs)
            session_events.made(semconv.REWARD)
            with rollspan.phase(semconv.REWARD):
                score = await inside(self, *args, **kwargs)
                rollspan.record_reward(score, getattr(self.reward_fn, "__name__", None))
                return score

        return __call__

    patches.wrap(wrapper, "__call__", call)

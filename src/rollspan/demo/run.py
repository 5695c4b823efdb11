"""Puts the parts together: the server's process, rewards, the executor, the trainer; and takes them down again."""

from __future__ import annotations

import contextlib
import logging
import signal
from collections.abc import Callable, Iterator
from typing import Any

import torch

from rollspan.demo.config import DemoConfig
from rollspan.demo.serving import serving
from rollspan.demo.task import score
from rollspan.demo.trainer import StepReport, train
from rollspan.demo.workflow import SortWorkflow
from rollspan.rollout import AsyncReward, RolloutExecutor, SGLangEngine

MODEL = "rollspan-demo"


def run(config: DemoConfig, report: Callable[[StepReport], None]) -> bool:
    """Run the whole demo. False when a signal (Ctrl-C, SIGTERM) ended it early; all is taken down either way."""
    torch.set_num_threads(1)
    logging.getLogger("rollspan.rollout").setLevel(
        logging.ERROR
    )  # that some rollouts fail is part of the show
    policy = {"hidden_size": config.hidden_size, "seed": config.seed}
    with _interrupted_by(signal.SIGTERM):
        try:
            with (
                serving(config=policy, seed=config.seed) as url,
                AsyncReward(score, workers=config.reward_workers, name="sorted") as reward,
                RolloutExecutor(
                    SGLangEngine(url, model=MODEL),
                    consumer_batch_size=config.groups_per_step,
                    max_staleness=config.max_staleness,
                    max_concurrent_rollouts=config.runners,
                    queue_size=config.queue_size,
                    when_full="drop",
                    rollout_timeout=config.rollout_timeout_s,
                    min_group_size=config.smallest_group,
                    max_consecutive_failures=500,  # a slow machine's rollouts may all take too long for a while
                ) as executor,
            ):
                train(config, executor, SortWorkflow(config, reward), report)
        except KeyboardInterrupt:
            return False
    return True


@contextlib.contextmanager
def _interrupted_by(number: signal.Signals) -> Iterator[None]:
    """Be interrupted by this signal as by Ctrl-C."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(number, interrupt)
    except ValueError:  # not in the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(number, before)

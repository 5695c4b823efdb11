"""AReaL, traced where its own classes meet: dispatcher, executor, engine, reward and HTTP client."""

from __future__ import annotations

import importlib
import os
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from rollspan.instrumentation.patches import DidNotEnable, Patches

from . import generation, requests, rewards, scopes, submissions

VERSIONS: Final = ("1.0.4",)
"""Those that were tested."""

_patches = Patches()
_enabled = False


def enable() -> None:
    """Wrap AReaL's functions, once. Raises DidNotEnable, and then nothing is wrapped."""
    global _enabled  # noqa: PLW0603 - a module is there once
    if _enabled:
        return
    _check_version()
    try:
        _wrap()
    except BaseException:
        _patches.undo()
        raise
    os.environ.setdefault("ROLLSPAN_SYSTEM", "areal")
    _enabled = True


def disable() -> None:
    """Put AReaL's own functions back."""
    global _enabled  # noqa: PLW0603
    _patches.undo()
    _enabled = False


def _check_version() -> None:
    try:
        found = version("areal")
    except PackageNotFoundError:
        raise DidNotEnable("the package areal is not installed") from None
    if found not in VERSIONS:
        raise DidNotEnable(f"areal {found} is not known here; known are {', '.join(VERSIONS)}")


def _wrap() -> None:
    try:
        executor, engine, reward, tracer = (
            importlib.import_module(f"areal.{name}")
            for name in (
                "infra.workflow_executor",
                "infra.remote_inf_engine",
                "api.reward_api",
                "utils.perf_tracer",
            )
        )
        aiohttp = importlib.import_module("aiohttp")
        submissions.wrap(
            _patches,
            executor,
            executor.BatchTaskDispatcher,
            executor.WorkflowExecutor,
            engine.GroupedRolloutWorkflow,
        )
        generation.wrap(_patches, engine, engine.RemoteInfEngine)
        rewards.wrap(_patches, reward.AsyncRewardWrapper)
        requests.wrap(_patches, aiohttp.ClientSession)
        scopes.wrap(_patches, tracer)
    except (ImportError, AttributeError) as why:
        raise DidNotEnable(f"areal is not as expected: {why}") from why

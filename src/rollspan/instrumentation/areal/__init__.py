"""AReaL, traced where its own classes meet: dispatcher, executor, engine, reward and HTTP client."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from rollspan.instrumentation import FRAMEWORKS
from rollspan.instrumentation.patches import DidNotEnable, Patches

from . import engines, generation, requests, rewards, scopes, session_events, submissions

VERSIONS: Final = ("1.0.4",)
"""Those that were tested."""

_TRACER, _ROLLOUTS, *_ENGINES = FRAMEWORKS["areal"]

_patches = Patches()
_done: set[str] = set()


def enable(*modules: str) -> None:
    """Wrap what these modules of AReaL have, once; without any the tracer, rollouts, and engines that are imported.

    Raises DidNotEnable, and then nothing is wrapped, of the others either.
    """
    for module in modules or (_TRACER, _ROLLOUTS, *(name for name in _ENGINES if name in sys.modules)):
        if module in _done:
            continue
        try:
            _check_version()
            PARTS[module]()
        except BaseException as why:
            disable()
            if isinstance(why, ImportError | AttributeError):
                raise DidNotEnable(f"areal is not as expected: {why}") from why
            raise
        _done.add(module)
        os.environ.setdefault("ROLLSPAN_SYSTEM", "areal")


def is_enabled() -> bool:
    """Whether anything is wrapped."""
    return _patches.active


def disable() -> None:
    """Put AReaL's own functions back."""
    _patches.undo()
    _done.clear()


def _check_version() -> None:
    try:
        found = version("areal")
    except PackageNotFoundError:
        raise DidNotEnable("the package areal is not installed") from None
    if found not in VERSIONS:
        raise DidNotEnable(f"areal {found} is not known here; known are {', '.join(VERSIONS)}")


def _wrap_tracer() -> None:
    tracer = importlib.import_module(_TRACER)
    if tracer.__name__ != _TRACER:  # ours, put there by `rollspan.compat.areal.install`
        return
    session_events.wrap(_patches, tracer)
    scopes.wrap(_patches, tracer)


def _wrap_rollouts() -> None:
    executor = importlib.import_module("areal.infra.workflow_executor")
    engine = importlib.import_module(_ROLLOUTS)
    submissions.wrap(
        _patches,
        executor,
        executor.BatchTaskDispatcher,
        executor.WorkflowExecutor,
        engine.GroupedRolloutWorkflow,
    )
    generation.wrap(_patches, engine, engine.RemoteInfEngine)
    engines.wrap_inference(_patches, engine.RemoteInfEngine)
    rewards.wrap(_patches, importlib.import_module("areal.api.reward_api").AsyncRewardWrapper)
    requests.wrap(_patches, importlib.import_module("aiohttp").ClientSession)


def _wrap_engine(module: str) -> None:
    engines.wrap(_patches, getattr(importlib.import_module(module), engines.ENGINES[module]), module)


PARTS: Final[dict[str, Callable[[], None]]] = {
    _TRACER: _wrap_tracer,
    _ROLLOUTS: _wrap_rollouts,
    **{module: partial(_wrap_engine, module) for module in _ENGINES},
}
"""By the module after which it can be done. The tracer's functions first: others copy them."""

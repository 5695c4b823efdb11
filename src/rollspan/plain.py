"""Attributes that may stand in the journal as they were given: whoever reads it describes them.

They are texts, numbers and flags under names that hold no content. Everything else is brought into its form at once
(`describe.put_described`): it may change, or must not be kept.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, Final, TypeAlias

from . import describe, native
from .attributes import MAX_ATTRIBUTES

Kinds: TypeAlias = dict[Any, frozenset[type]]
"""By a name that was met before, the types that it may have."""

MOST: Final = MAX_ATTRIBUTES // 2
"""So many names a phase may have; attributes that it has otherwise go the long way. Twice as many fit on a span."""

_MOST_PHASES: Final = 4096

_kinds: dict[str | None, Kinds] = {}


def kinds_of(phase: str | None) -> Kinds:
    """The names that a phase is known to have."""
    if len(_kinds) >= _MOST_PHASES:
        return _kinds.get(phase, {})
    return _kinds.setdefault(phase, {})


def are_plain(kinds: Kinds, given: Mapping[Any, Any]) -> bool:
    """Whether all of it may stay as it is, as far as these names are known."""
    try:
        for name, value in given.items():
            kind = type(value)
            if kind not in kinds[name] or (
                kind is float and value - value != 0
            ):  # JSON has only finite numbers
                return False
    except KeyError:
        return False
    return True


def put(target: dict[str, Any], phase: str | None, given: Mapping[Any, Any], limits: describe.Limits) -> None:
    """Put what was given to a phase into its attributes `target`: as it is where it may, else described."""
    kinds = kinds_of(phase)
    if len(target) < MOST:
        if are_plain(kinds, given):
            target.update(given)
            return
        for name in given:
            if name not in kinds and len(kinds) < MOST:
                kinds[name] = describe.kinds(phase, name)
        if are_plain(kinds, given):
            target.update(given)
            return
    describe.put_described(target, phase, given, limits)


native.works_with(most=MOST)
native.stands_for("are_plain", sys.modules[__name__], "are_plain")

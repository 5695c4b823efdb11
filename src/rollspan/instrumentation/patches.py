"""Functions of somebody else's, wrapped, and put back as they were."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Final

_ABSENT: Final = object()


class DidNotEnable(Exception):  # noqa: N818 - as other instrumentations call it
    """Nothing was changed: the framework's version is unknown, or something in it is not as expected."""


class Patches:
    """What was put where; all of it or nothing."""

    def __init__(self) -> None:
        self._before: list[tuple[Any, str, Any]] = []

    def wrap(
        self, owner: Any, name: str, wrapper: Callable[[Callable[..., Any]], Callable[..., Any]]
    ) -> None:
        """Put `wrapper(what stands there)` in the place of `owner.name`. Raises DidNotEnable where nothing does."""
        inside = getattr(owner, name, None)
        if not callable(inside):
            raise DidNotEnable(f"{getattr(owner, '__qualname__', owner.__name__)} has no function {name}()")
        wrapped = wrapper(inside)
        functools.update_wrapper(wrapped, inside)
        self._before.append((owner, name, vars(owner).get(name, _ABSENT)))
        setattr(owner, name, wrapped)

    @property
    def active(self) -> bool:
        """Whether anything is wrapped. Copies that others have made of a wrapped function stay theirs."""
        return bool(self._before)

    def undo(self) -> None:
        """Put everything back, the last one first."""
        while self._before:
            owner, name, before = self._before.pop()
            if before is _ABSENT:
                delattr(owner, name)
            else:
                setattr(owner, name, before)

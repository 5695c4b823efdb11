"""Calls something once a module has been imported, whoever imports it: what it is about may never be."""

from __future__ import annotations

import contextlib
import sys

TYPE_CHECKING = False  # this is loaded at every start of an interpreter in a job
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

_waiting: dict[str, Callable[[], None]] = {}


def after(module: str, call: Callable[[], None]) -> None:
    """Call `call` after `module` was imported, at once where it has been; it must not raise."""
    if module in sys.modules:
        call()
        return
    _waiting[module] = call
    if _FINDER not in sys.meta_path:
        sys.meta_path.insert(0, _FINDER)


def never_mind(module: str) -> None:
    """Take an `after` back."""
    _waiting.pop(module, None)
    if not _waiting:
        with contextlib.suppress(ValueError):
            sys.meta_path.remove(_FINDER)


class _Finder:
    """Finds a module that is waited for as the others do, and has its loader say when it is done."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in _waiting:
            return None
        for finder in sys.meta_path:
            if finder is self or not hasattr(finder, "find_spec"):
                continue
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                if hasattr(spec.loader, "exec_module"):
                    spec.loader = _Loader(spec.loader)  # type: ignore[assignment]
                return spec
        return None


class _Loader:
    """A module's own loader, which calls what waits when the module is there."""

    def __init__(self, loader: object) -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> object:
        return getattr(self._loader, name)

    def exec_module(self, module: ModuleType) -> None:
        spec = module.__spec__
        if spec is not None:
            spec.loader = module.__loader__ = self._loader  # type: ignore[assignment]
        self._loader.exec_module(module)  # type: ignore[attr-defined]
        call = _waiting.get(module.__name__)
        never_mind(module.__name__)
        if call is not None:
            call()


_FINDER = _Finder()

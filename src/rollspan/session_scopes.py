"""What a session hands out to be entered: its phases, its execution, and itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from . import native, semconv
from .attributes import fit_name
from .scope import Scope

if TYPE_CHECKING:
    from .span import RolloutSpan


class SessionPhase(Scope):
    __slots__ = ("_attributes", "_entered", "_name", "_session")

    def __init__(self, session: Any, name: str, attributes: Mapping[str, Any]) -> None:
        self._entered = None
        self._session = session
        self._name = name
        self._attributes = attributes

    def _again(self) -> Scope:
        return type(self)(self._session, self._name, self._attributes)

    def _start(self) -> RolloutSpan | None:
        return self._session.start_phase(self._name, self._attributes)  # type: ignore[no-any-return]

    def _finish(self, span: RolloutSpan, exc: BaseException | None) -> None:
        if exc is not None:
            span.fail(exc)
        span.end()


class Execution(SessionPhase):
    __slots__ = ()

    def _start(self) -> RolloutSpan | None:
        return self._session.start_execution(self._attributes)  # type: ignore[no-any-return]


class Activation(Scope):
    __slots__ = ("_entered", "_session")

    def __init__(self, session: Any) -> None:
        super().__init__()
        self._session = session

    def _again(self) -> Scope:
        return Activation(self._session)

    def _start(self) -> RolloutSpan | None:
        return self._session if not self._session.ended and not self._session.abandoned else None

    def _finish(self, span: RolloutSpan, exc: BaseException | None) -> None:
        pass


class Life(Activation):
    """The session is current in the block and over with it."""

    __slots__ = ()

    def _given(self, span: RolloutSpan) -> Any:
        return self._session

    def _finish(self, span: RolloutSpan, exc: BaseException | None) -> None:
        self._session.finish(exc)


class Block:
    """What a session can be entered by: its execution, a phase, and itself, as a block of its own.

    That is `with rollspan.start_session()`, sync or async.
    """

    __slots__ = ()

    _life: Scope

    def execution(self, **attributes: Any) -> Scope:
        """The workflow runs: a context manager, sync or async. Ends the wait before it."""
        return Execution(self, semconv.EXECUTION, attributes)

    def phase(self, name: str, /, **attributes: Any) -> Scope:
        """A phase of this session, whatever session is current; else as `rollspan.phase`."""
        return SessionPhase(self, fit_name(name), attributes)

    def activate(self) -> Scope:
        """Make this session current in this thread or task, without a phase."""
        return Activation(self)

    def __enter__(self) -> Any:
        if not hasattr(self, "_life"):
            self._life = Life(self)  # type: ignore[misc]  # whoever is one has the slot
        return self._life.__enter__()

    def __exit__(self, kind: object, exc: BaseException | None, traceback: object) -> None:
        self._life.__exit__(kind, exc, traceback)

    async def __aenter__(self) -> Any:
        return self.__enter__()

    async def __aexit__(self, kind: object, exc: BaseException | None, traceback: object) -> None:
        self.__exit__(kind, exc, traceback)


native.works_with(scope=Execution)
native.stands_for("scope_enter", Execution, "__enter__")
native.stands_for("scope_exit", Execution, "__exit__")

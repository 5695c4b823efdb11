"""On or off: decided at the first call of the API, or by `configure`. Imports nothing heavy."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from . import config, health, loading, native

if TYPE_CHECKING:
    from .runtime import Runtime

_KNOWN = frozenset(name for variable in config.VARIABLES.values() for name in variable.environment)
_decided = False
_deciding = False
_told = False  # by the program, and not by the environment
_runtime: Runtime | None = None

# What the API works with where rollspan is on; not loaded before.
context: Any = None
Session: Any = None


def runtime() -> Runtime | None:
    """The running machinery, or None while rollspan is off."""
    return _runtime if _decided else _decide()


def is_open() -> bool:
    """Whether nobody has said that rollspan is to be on or off, neither the program nor the environment."""
    return _runtime is None and not _told and not os.environ.get("ROLLSPAN_ENABLED", "").strip()


def _decide() -> Runtime | None:
    global _deciding  # noqa: PLW0603
    with loading.lock:
        if (
            not _decided and not _deciding
        ):  # else a signal's handler is in the middle of this, and records nothing
            _deciding = True
            try:
                _start(config.resolve())
            except Exception:  # noqa: BLE001
                _set(None)
                health.internal_error("switch.decide")
            finally:
                _deciding = False
        return _runtime


def _start(resolved: config.Resolved) -> None:
    settings = resolved.settings
    if not settings.active:
        _set(None)
        # A job whose switch is misspelt, or of no use, must not just run untraced.
        why = [
            p for p in resolved.problems if p.variable.startswith("ROLLSPAN_") and p.variable not in _KNOWN
        ]
        if settings.enabled:
            why.append(config.SWITCHED_OFF)
        if why:
            config.report(config.Resolved(settings, resolved.sources, tuple(why)))
        return
    config.report(resolved)
    _set(_made(settings))


def _made(settings: config.Settings) -> Runtime:
    # These load OpenTelemetry, and much else: all that sessions will need, while no fork can come in between.
    global Session, context
    from . import carriers, instrumentation, lifecycle, processor, steps, stretches  # noqa: F401, PLC0415
    from . import context as loaded  # noqa: PLC0415
    from .runtime import Runtime  # noqa: PLC0415
    from .sessions import Session as Loaded  # noqa: PLC0415

    context, Session = loaded, Loaded

    native.use(settings.native)
    instrumentation.arm(*(["torch"] if settings.torch_scopes else []))
    lifecycle.register(
        before_exit=wait_until_built, at_exit=lambda: shutdown(None), after_fork=_renew_after_fork
    )
    return Runtime(settings)


def _set(new: Runtime | None) -> None:
    global _decided, _runtime  # noqa: PLW0603
    _runtime = new
    _decided = True


def configure(**arguments: Any) -> None:
    """Turn rollspan on with these settings; see `rollspan.configure`."""
    global _told  # noqa: PLW0603
    resolved = config.resolve(
        **{"enabled": True, **arguments}
    )  # an unknown name is a TypeError, as in any call
    _told = True
    try:
        with loading.lock:
            shutdown(None)
            _start(resolved)
    except Exception:  # noqa: BLE001
        _set(None)
        health.internal_error("configure")


def wait_until_built() -> None:
    """A program that ends right after its first session waits here for what that session's delivery loads."""
    if _runtime is not None:
        _runtime.wait_until_built()


def flush(timeout: float | None) -> bool:
    """See `rollspan.flush`."""
    return _runtime.flush(timeout) if _runtime is not None else True


def shutdown(timeout: float | None) -> bool:
    """See `rollspan.shutdown`."""
    global _told  # noqa: PLW0603
    with loading.lock:
        _told = _told or _runtime is not None
        old = _runtime
        _set(None)
    return old.close(timeout) if old is not None else True


def _renew_after_fork() -> None:
    """In a forked child: the parent's machinery is not ours; one like it is made when it is needed."""
    global _deciding  # noqa: PLW0603
    from . import ids  # noqa: PLC0415

    _deciding = False
    health.after_fork()
    ids.forget()
    if _runtime is not None:
        _set(_runtime.forked())


def undecide() -> None:
    """Forget the decision, so that the environment counts again (tests)."""
    global _decided, _told  # noqa: PLW0603
    shutdown(None)
    _decided = _told = False


def lent(settings: config.Settings) -> Runtime:
    """In a pool's process: the machinery, made like the caller's where this process has none."""
    with loading.lock:
        found = runtime()
        if found is None:
            found = _made(settings)
            _set(found)
        return found


native.works_with(switch=globals())

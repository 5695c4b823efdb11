"""What Python's start-up (rollspan.pth, rollspan.start) and `opentelemetry-instrument` call.

Start-up comes before any line of the job: nothing here loads OpenTelemetry, writes a file or starts a
thread. The settings take effect at the first call of rollspan's API.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False  # `typing` itself would double the time that a child's start-up takes
if TYPE_CHECKING:
    from collections.abc import Mapping

    from .config import Resolved

_OFF = frozenset({"", "0", "false", "no", "off"})

resolved: Resolved | None = None
"""What start-up found, before it put the run's name and folders into the environment; None if it did not."""


def start() -> None:
    """Give the run its name and its folders, for this process and all of its children, if turned on.

    Reports wrong values in the environment. Never raises.
    """
    global resolved  # noqa: PLW0603 - told to `rollspan doctor`
    try:
        environ = os.environ
        if environ.get("ROLLSPAN_ENABLED", "").strip().lower() in _OFF:
            return
        from . import instrumentation  # noqa: PLC0415 - start-up loads what it needs and no more

        instrumentation.arm()
        if _is_child(environ):
            return
        from . import config  # noqa: PLC0415 - start-up loads what it needs and no more

        found = config.resolve(environ)
        if not found.settings.enabled:
            wrong = tuple(problem for problem in found.problems if problem.variable == "ROLLSPAN_ENABLED")
            config.report(config.Resolved(found.settings, found.sources, wrong), environ)
            return
        given = tuple(problem for problem in found.problems if not problem.is_lack)
        config.report(config.Resolved(found.settings, found.sources, given), environ)
        config.hand_on(found.settings, environ)
        resolved = found
    except Exception:  # noqa: BLE001
        _failed()


def _is_child(environ: Mapping[str, str]) -> bool:
    """Whether an ancestor has done all of this: then start-up costs next to nothing."""
    return bool(
        environ.get("ROLLSPAN_REPORTED")
        and environ.get("ROLLSPAN_RUN_ID")
        and os.path.isabs(environ.get("ROLLSPAN_DIR", ""))  # noqa: PTH117 - pathlib is not loaded yet
    )


def _failed() -> None:
    try:
        from . import health  # noqa: PLC0415 - start-up loads what it needs and no more

        health.internal_error("autostart")
    except Exception:  # noqa: BLE001 - start-up must go on, whatever is left of rollspan
        return

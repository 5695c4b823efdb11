"""While an exporter works: nothing it does is traced, and what OpenTelemetry logs becomes our reason.

The stock exporters log every failure. Ours return it as a reason, and the worker says it once.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator

from opentelemetry import context

# The second is for instrumentations of old; the others are keys that only OpenTelemetry's own modules know.
_KEYS = [
    getattr(context, "_SUPPRESS_INSTRUMENTATION_KEY", None),
    "suppress_instrumentation",
    getattr(context, "_SUPPRESS_HTTP_INSTRUMENTATION_KEY", None),
]
_active = threading.local()


class _Catch(logging.Filter):
    """Takes what is logged by a thread that is within `caught_logs`, and lets everything else pass."""

    def filter(self, record: logging.LogRecord) -> bool:
        said: list[str] | None = getattr(_active, "said", None)
        if said is None or record.levelno < logging.WARNING:
            return True
        said.append(record.getMessage())
        return False


_catch = _Catch()


@contextlib.contextmanager
def untraced() -> Iterator[None]:
    """Nothing done within is instrumented: exporting a span must not make spans."""
    inner = context.get_current()
    for key in _KEYS:
        if key is not None:
            inner = context.set_value(key, True, inner)
    token = context.attach(inner)
    try:
        yield
    finally:
        context.detach(token)


@contextlib.contextmanager
def caught_logs() -> Iterator[list[str]]:
    """Warnings and errors that OpenTelemetry's loggers are given by this thread, instead of being logged."""
    for name, logger in list(logging.root.manager.loggerDict.items()):
        if not name.startswith("opentelemetry.") or not isinstance(logger, logging.Logger):
            continue
        if _catch not in logger.filters:
            logger.filters.insert(0, _catch)
    said: list[str] = []
    _active.said = said
    try:
        yield said
    finally:
        _active.said = None

"""What a span says of the thread that began it."""

from __future__ import annotations

import os
import threading
from typing import Any

from . import semconv


class Here(threading.local):
    """This thread, as it was when first asked for."""

    def __init__(self) -> None:
        # The system's number of it, not Python's: profilers say that one too.
        self.about: dict[str, Any] = {
            semconv.THREAD_ID: threading.get_native_id(),
            semconv.THREAD_NAME: threading.current_thread().name,
        }
        self.with_category: dict[Any, dict[str, Any]] = {}
        """The same with a scope's category, by what the category was given as."""


here = Here()


def _forked() -> None:
    global here  # noqa: PLW0603 - the one thread of a child has another number
    here = Here()


os.register_at_fork(after_in_child=_forked)

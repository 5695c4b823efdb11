"""Time: one anchor per session, every later stamp from the monotonic clock."""

from __future__ import annotations

import time

from . import native

time_ns = time.time_ns
monotonic_ns = time.monotonic_ns

native.works_with(clock=globals())

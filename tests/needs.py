"""What a test needs and a machine may lack: skipped with the reason, or failed where skipping is forbidden."""

from __future__ import annotations

import os

import pytest

FORBIDS_SKIPPING = os.environ.get("REQUIRE_ALL") == "1"


def need(there: object, reason: str) -> None:
    """Skip the test where `there` is false; with REQUIRE_ALL=1 fail it."""
    if there:
        return
    if FORBIDS_SKIPPING:
        pytest.fail(f"{reason} (REQUIRE_ALL=1 forbids to skip)")
    pytest.skip(reason)

"""The drop-in for AReaL's tracer: configurations that it cannot take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rollspan.compat.areal import perf_tracer
from tests.compat.configured import config


@pytest.mark.parametrize(
    ("wrong", "error", "said"),
    [
        ({"save_interval": None}, TypeError, "save_interval=None .*: expected a whole number of steps"),
        ({"trial_name": None}, TypeError, "trial_name=None .*: expected a text"),
        ({"fileroot": 3}, TypeError, "fileroot=3 .*: expected a text"),
        ({"rank": "0"}, TypeError, "rank='0': expected an int"),
        ({"rank": None}, TypeError, "rank=None: expected an int"),
        ({"rank": -1}, ValueError, "rank=-1: expected 0 or more"),
        ({"role": 3}, TypeError, "role=3: expected a text such as 'actor'"),
    ],
)
def test_a_wrong_configuration_is_explained(
    tmp_path: Path, wrong: dict[str, Any], error: type[Exception], said: str
) -> None:
    """The exception is the one that Python would raise, with the field, its value and what was expected."""
    arguments = {"rank": 0, **{name: wrong[name] for name in wrong if name in ("rank", "role")}}
    fields = {name: wrong[name] for name in wrong if name not in arguments}
    with pytest.raises(error, match=said):
        perf_tracer.configure(config(tmp_path, **fields), **arguments)
    assert not perf_tracer.is_configured()
    perf_tracer.configure(config(tmp_path), rank=0)


@pytest.mark.parametrize("given", [None, {"enabled": True}])
def test_what_is_no_configuration_is_explained(given: Any) -> None:
    """Nothing, or a dict, has not the fields of AReaL's."""
    needed = (
        "has no field 'experiment_name': expected AReaL's PerfTracerConfig, or an object with the fields "
    )
    with pytest.raises(AttributeError, match=f"of type {type(given).__name__}, {needed}"):
        perf_tracer.configure(given, rank=0)


def test_sessions_that_are_asked_for_wrongly_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A dict in the place of SessionTracerConfig turns nothing on, which is logged."""
    perf_tracer.configure(config(tmp_path, session_tracer={"enabled": True}), rank=0)
    assert perf_tracer.get_session_tracer() is None
    assert "session_tracer={'enabled': True} in the tracer's configuration: expected" in caplog.text

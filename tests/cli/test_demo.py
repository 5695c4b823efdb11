"""What `rollspan demo` tells to do next; the demo itself is tested in tests/demo."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from rollspan.cli.demo import started_as, what_next


def a_program(path: Path) -> Path:
    """An executable file."""
    path.parent.mkdir(parents=True)
    path.write_text("")
    path.chmod(0o755)
    return path


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A `rollspan` below the current directory that was started by its path, as `make demo` does."""
    made = a_program(tmp_path / "a checkout" / ".venv" / "bin" / "rollspan")
    monkeypatch.chdir(tmp_path / "a checkout")
    monkeypatch.setattr(sys, "argv", [".venv/bin/rollspan", "demo"])
    monkeypatch.setenv("PATH", "/usr/bin")
    return made


def test_what_is_printed_can_be_called(script: Path) -> None:
    """The commands to look again and to send begin with the program that is there, and name the folder whole."""
    text = what_next(Path("my demo"), "ab12", delivered=True).plain
    for command in (
        "show 'my demo' --slowest 5",
        "show 'my demo' --session ab12",
        "replay 'my demo' --endpoint",
    ):
        assert f"\n  .venv/bin/rollspan {command}" in text


def test_elsewhere_it_is_the_whole_path(
    script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a directory that the program is not below, or lies in itself, only its full path calls it."""
    monkeypatch.setattr(sys, "argv", [str(script), "demo"])
    for folder in (tmp_path / "elsewhere", script.parent):
        folder.mkdir(exist_ok=True)
        monkeypatch.chdir(folder)
        assert started_as() == f"'{script}'"


def test_on_the_path_it_is_its_name(script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The short name is told where a shell finds this very program by it, and not where it finds another."""
    another = a_program(tmp_path / "other" / "rollspan")
    monkeypatch.setenv("PATH", f"{script.parent}:{another.parent}")
    assert started_as() == "rollspan"
    monkeypatch.setenv("PATH", f"{another.parent}:{script.parent}")
    assert started_as() == ".venv/bin/rollspan"


def test_started_as_a_module_it_is_the_module(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`python -m rollspan` is told with the Python that has it."""
    monkeypatch.setattr(sys, "argv", ["/somewhere/rollspan/__main__.py", "demo"])
    monkeypatch.setattr(sys, "executable", str(a_program(script.parents[2] / "env" / "python")))
    assert started_as() == "env/python -m rollspan"

"""The reward curve in the terminal."""

from __future__ import annotations

import pytest

from rollspan.demo.report import HEIGHT, fit, reward_chart


def test_higher_rewards_have_higher_columns() -> None:
    """The highest reward fills its column, half of it half the column, nothing none."""
    lines = reward_chart([0.0, 0.5, 1.0], 80).plain.splitlines()
    chart = [line[6:].ljust(3) for line in lines[1 : 1 + HEIGHT]]
    heights = [sum(row[column] == "█" for row in chart) for column in range(3)]
    assert heights == [0, HEIGHT // 2, HEIGHT]
    assert lines[-1].strip() == "step 0 to 2: from 0.00 to 1.00"


@pytest.mark.parametrize("steps", [1, 39, 40, 1000])
def test_the_chart_keeps_to_its_width(steps: int) -> None:
    """However many steps there are, no line is wider than asked for."""
    chart = reward_chart([step / steps for step in range(steps)], 40).plain
    assert max(map(len, chart.splitlines())) <= 40


def test_a_terminal_of_ascii_gets_ascii() -> None:
    """Where blocks cannot be printed, the chart is of ASCII."""
    assert reward_chart([0.1, 0.2, 0.9], 40, ascii_only=True).plain.isascii()


def test_many_steps_are_averaged() -> None:
    """Neighbours that share a column are averaged."""
    assert fit([1, 3, 5, 7, 9], 3) == [2, 6, 9]

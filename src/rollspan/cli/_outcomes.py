"""What recovery and replay have to say."""

from __future__ import annotations

from collections.abc import Sequence

import click

from rollspan.recovery import Outcome


def report(outcomes: Sequence[Outcome]) -> int:
    """Print a line for each journal; 1 where something is left, else 0."""
    for outcome in outcomes:
        done = ", ".join(f"{n} to {name}" for name, n in outcome.delivered.items()) or "nothing to deliver"
        click.echo(f"{outcome.name}: {done}")
        if outcome.left_because:
            click.echo(f"{outcome.name}: something stays in the journal: {outcome.left_because}", err=True)
    return int(any(outcome.left_because for outcome in outcomes))

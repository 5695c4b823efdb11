"""The `rollspan` command. A subcommand's module is loaded when that one is called, so help comes at once."""

from __future__ import annotations

import difflib
import errno
import importlib
from typing import Any, Final

import click

from rollspan import __version__

COMMANDS: Final[dict[str, str]] = {
    "demo": "Train a tiny policy over real HTTP, and see every rollout traced.",
    "show": "Show a run's records: the table, and the waterfall of a rollout.",
    "timeline": "Put all ranks' scopes, profiles and rollouts into one file for Perfetto.",
    "fold": "Turn the Collector's OTLP/JSON lines into records.",
    "recover": "Deliver what dead processes left behind.",
    "replay": "Send a kept journal to an endpoint.",
    "env": "Print what to put into a shell, a Ray runtime_env, a pod or an sbatch file.",
    "doctor": "Say how rollspan is set up here, and what is wrong with it.",
    "version": "Print the versions of rollspan and of what it runs on.",
}

INTERRUPTED: Final = 130
_OUTPUT_IS_OVER: Final = frozenset({errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})
"""Errors of writing. Files are written by who knows their names, and says them."""


class Commands(click.Group):
    """A group that knows its subcommands by name and loads one when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, in the order in which one meets them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name, or None."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"rollspan.cli.{cmd_name}")
        command: click.Command = module.command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As in any group; a mistyped name is answered with the nearest one."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], COMMANDS, 1)
            hint = f" Did you mean {near[0]}?" if near else f" The commands are: {', '.join(COMMANDS)}."
            ctx.fail(f"No such command: {args[0]}.{hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The table of commands, without loading any."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> Any:
        """Run the subcommand; Ctrl-C, and an output that takes no more, end it without a traceback."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("rollspan: interrupted", err=True)
            ctx.exit(INTERRUPTED)
        except OSError as error:
            if error.errno not in _OUTPUT_IS_OVER or error.filename is not None:
                raise
            from rollspan.cli._output import leave  # noqa: PLC0415 - loads rich

            leave(error)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="rollspan", message="%(prog)s %(version)s")
def main() -> None:
    """One trace and one record for every rollout of a reinforcement-learning run.

    Exit codes: 0 all is well, 1 a problem was found, 2 wrong use.
    """


if __name__ == "__main__":
    main()

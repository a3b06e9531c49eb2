"""Groups of commands: abbreviations, suggestions for typos, and loading of only what is used."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from typing import Any

import click

from cortex.session import Session


class CommandGroup(click.Group):
    """A group whose commands may be abbreviated to a unique prefix; without a command it prints its help."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**{"invoke_without_command": True, "callback": print_help, **attributes})

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        word = args[0]
        names = self.list_commands(ctx)
        matches = [word] if word in names else [name for name in names if name.startswith(word)]
        if len(matches) == 1:
            return matches[0], self.get_command(ctx, matches[0]), args[1:]
        if word.startswith("-") or ctx.resilient_parsing:
            return super().resolve_command(ctx, args)
        raise click.UsageError(_not_a_command(word, matches, names), ctx)


class LazyGroup(CommandGroup):
    """A group whose commands are modules with a `command`, imported when they are used.

    Args:
        package: where the modules are.
        summaries: one line for each command, in the order of the help.
    """

    def __init__(self, *, package: str, summaries: Mapping[str, str], **attributes: Any) -> None:
        super().__init__(**attributes)
        self._package = package
        self._summaries = summaries

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  # click's signature
        return list(self._summaries)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002  # as above
        if cmd_name not in self._summaries:
            return None
        command = importlib.import_module(f"{self._package}.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl(list(self._summaries.items()))


@click.pass_context
def print_help(context: click.Context) -> None:
    """What a group does when it is called without a command."""
    session = context.find_object(Session)
    if context.invoked_subcommand is None and session is not None:
        session.console.result(context.get_help())


def _not_a_command(word: str, matches: list[str], names: list[str]) -> str:
    if matches:
        return f"'{word}' may mean {' or '.join(matches)}"
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    return f"there is no command '{word}'" + (f"; did you mean '{close[0]}'?" if close else "")

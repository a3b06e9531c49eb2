"""Options and arguments that several commands share, spelled and explained the same everywhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from cortex.completions import complete_api, complete_environment
from cortex.session import Session

Function = TypeVar("Function", bound=Callable[..., Any])
Decorator = Callable[[Function], Function]


def _choose_output(context: click.Context, _: click.Parameter, value: Any) -> None:
    """The console knows, so that errors are printed as JSON too, wherever they are raised."""
    session = context.find_object(Session)
    if session is not None:
        session.console.output = value


env = click.option(
    "-e", "--env", metavar="NAME", shell_complete=complete_environment,
    help="Environment to use instead of the default one; see: cortex env list.",
)  # fmt: skip
output = click.option(
    "-o", "--output", type=click.Choice(["pretty", "json"]), default="pretty", show_default=True,
    callback=_choose_output, is_eager=True, expose_value=False, help="How results are printed on stdout.",
)  # fmt: skip
force = click.option("-f", "--force", is_flag=True, help="Take over from an update that is in progress.")
yes = click.option("-y", "--yes", is_flag=True, help="Answer every question with yes.")
wait = click.option(
    "--wait/--no-wait", default=True, show_default=True,
    help="Return when the API is live or has failed, or at once.",
)  # fmt: skip
timeout = click.option(
    "--timeout", type=click.FloatRange(min=0, min_open=True), default=1200, show_default=True,
    metavar="SECONDS", help="How long to wait; exit code 5 when it takes longer (it goes on).",
)  # fmt: skip
api = click.argument("api", shell_complete=complete_api)
file = click.argument("file", required=False, type=click.Path(path_type=Path))

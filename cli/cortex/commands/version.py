"""`cortex version`."""

from __future__ import annotations

import click

from cortex import options
from cortex.session import Session
from cortex_core.version import __version__


@click.command(name="version")
@options.env
@options.output
@click.pass_obj
def command(session: Session, env: str | None) -> None:
    """Print the version of this program and, where one answers, of the environment's operator.

    Starts nothing.
    """
    operator = session.operator_version(session.environments.choose(env))
    if session.console.output == "json":
        session.console.result_json({"client": __version__, "operator": operator})
    else:
        session.console.result(f"client: {__version__}\noperator: {operator or 'not running'}")

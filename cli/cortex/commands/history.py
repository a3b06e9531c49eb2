"""`cortex history`."""

from __future__ import annotations

import time

import click

from cortex import options
from cortex.session import Session


@click.command(name="history")
@options.api
@options.env
@options.output
@click.pass_obj
def command(session: Session, api: str, env: str | None) -> None:
    """List the releases of API that are kept, newest first. `cortex rollback` goes back to one.

    \b
    Example:
      cortex history iris
    """
    from cortex import tables

    with session.operator(session.environment(env)) as client:
        entries = client.history(api)
    if session.console.output == "json":
        session.console.result_json(entries)
    else:
        session.console.table(*tables.history(entries, now=time.time()))

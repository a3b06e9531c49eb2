"""`cortex delete`."""

from __future__ import annotations

import click

from cortex import options
from cortex.session import Session


@click.command(name="delete")
@options.api
@options.env
@click.option("-f", "--force", is_flag=True, help="Do not ask.")
@click.option("-c", "--keep-cache", is_flag=True, help="Keep its stored releases, projects and logs.")
@options.output
@click.pass_obj
def command(session: Session, api: str, env: str | None, force: bool, keep_cache: bool) -> None:
    """Stop API and remove it. Returns when its replicas and its route are gone.

    Asks first when more than two replicas are ready.

    \b
    Example:
      cortex delete iris
    """
    from cortex import deleting

    with session.operator(session.environment(env)) as client:
        message = deleting.delete(client, api, force=force, keep_cache=keep_cache, console=session.console)
    if session.console.output == "json":
        session.console.result_json(message)
    else:
        session.console.result(message.message)

"""`cortex get`."""

from __future__ import annotations

import click

from cortex import options
from cortex.completions import complete_api
from cortex.session import Session


@click.command(name="get")
@click.argument("api", required=False, shell_complete=complete_api)
@options.env
@click.option("-w", "--watch", is_flag=True, help="Redraw every two seconds until interrupted.")
@click.option("-v", "--verbose", is_flag=True, help="Add the full configuration, with every default.")
@options.output
@click.pass_obj
def command(session: Session, api: str | None, env: str | None, watch: bool, verbose: bool) -> None:
    """Show what is deployed, or API in detail: status, endpoint, replicas, models, releases.

    Without --env, the APIs of all environments are listed.

    \b
    Examples:
      cortex get
      cortex get iris --watch
      cortex get iris -o json
    """
    from cortex import getting

    if watch and session.console.output == "json":
        raise click.UsageError("--watch and -o json exclude each other")
    getting.show(session, api=api, env=env, watch=watch, verbose=verbose)

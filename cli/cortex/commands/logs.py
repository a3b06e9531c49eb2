"""`cortex logs`."""

from __future__ import annotations

import click

from cortex import options
from cortex.session import Session


@click.command(name="logs")
@options.api
@options.env
@click.option("-f", "--follow", is_flag=True, help="Go on printing new lines until interrupted.")
@click.option("--tail", type=click.IntRange(min=0), metavar="N", help="Only the newest N lines.")
@click.option("--since", metavar="DURATION", help="Only lines of the last DURATION, e.g. 30s, 10m, 2h.")
@click.option("--replica", metavar="ID", help="Only lines of one replica; see: cortex get API.")
@click.option("-y", "--yes", is_flag=True, hidden=True, expose_value=False)  # of 0.35: nothing is asked now
@options.output
@click.pass_obj
def command(
    session: Session,
    api: str,
    env: str | None,
    follow: bool,
    tail: int | None,
    since: str | None,
    replica: str | None,
) -> None:
    """Print the log of API, of all its replicas, also of those that are gone.

    Shows time, message and traceback, with the replica in front when there is more than one. With -o json, every
    line is the JSON object as the replica wrote it.

    \b
    Examples:
      cortex logs iris
      cortex logs iris -f --tail 20
      cortex logs iris --since 10m -o json
    """
    from cortex import logs

    try:
        moment = logs.seconds_ago(since)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    query = logs.Query(tail=tail, since=moment, replica=replica, follow=follow)
    with session.operator(session.environment(env)) as client:
        logs.show(client, api, query, console=session.console)

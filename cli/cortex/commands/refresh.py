"""`cortex refresh`."""

from __future__ import annotations

import click

from cortex import options
from cortex.session import Session


@click.command(name="refresh")
@options.api
@options.env
@options.force
@options.wait
@options.timeout
@options.output
@click.pass_context
def command(
    context: click.Context, api: str, env: str | None, force: bool, wait: bool, timeout: float
) -> None:
    """Replace the replicas of API by new ones of the same release, without losing a request.

    \b
    Example:
      cortex refresh iris
    """
    from cortex.deploy_conclusion import Conclusion
    from cortex.deploying import Outcome

    session: Session = context.obj
    environment = session.environment(env)
    with session.operator(environment) as client:
        conclusion = Conclusion(
            session=session, environment=environment, client=client, wait=wait, timeout=timeout
        )
        context.exit(conclusion.conclude([Outcome(result=client.refresh(api, force=force))]))

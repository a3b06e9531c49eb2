"""`cortex rollback`."""

from __future__ import annotations

import click

from cortex import options
from cortex.session import Session


@click.command(name="rollback")
@options.api
@click.argument("release", required=False)
@options.env
@options.wait
@options.timeout
@options.output
@click.pass_context
def command(
    context: click.Context,
    api: str,
    release: str | None,
    env: str | None,
    wait: bool,
    timeout: float,
) -> None:
    """Deploy an earlier release of API again: RELEASE, or the one before the current one.

    `cortex history API` lists the releases that are kept.

    \b
    Examples:
      cortex rollback iris
      cortex rollback iris 3f2a9c01d4e5b678
    """
    from cortex.deploy_conclusion import Conclusion
    from cortex.deploying import Outcome

    session: Session = context.obj
    environment = session.environment(env)
    with session.operator(environment) as client:
        conclusion = Conclusion(
            session=session, environment=environment, client=client, wait=wait, timeout=timeout
        )
        context.exit(conclusion.conclude([Outcome(result=client.rollback(api, release_id=release))]))

"""`cortex patch`."""

from __future__ import annotations

from pathlib import Path

import click

from cortex import options
from cortex.session import Session


@click.command(name="patch")
@options.file
@options.env
@options.force
@options.wait
@options.timeout
@options.output
@click.pass_context
def command(
    context: click.Context,
    file: Path | None,
    env: str | None,
    force: bool,
    wait: bool,
    timeout: float,
) -> None:
    """Change deployed APIs to what FILE (default: ./cortex.yaml) says, without shipping the project again.

    Each API keeps the code it was deployed with. Use it to change scaling, compute or configuration.

    \b
    Example:
      cortex patch cortex.yaml
    """
    from cortex import deploying, deployment_report
    from cortex.deploy_conclusion import Conclusion

    session: Session = context.obj
    session.console.error_document = deployment_report.error_document
    document = deploying.read(deploying.find(file), with_project=False)
    environment = session.environment(env)
    with session.operator(environment) as client:
        conclusion = Conclusion(
            session=session, environment=environment, client=client, wait=wait, timeout=timeout
        )
        context.exit(conclusion.deploy(document, None, force=force))

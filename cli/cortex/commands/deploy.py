"""`cortex deploy`."""

from __future__ import annotations

from pathlib import Path

import click

from cortex import options
from cortex.session import Session


@click.command(name="deploy")
@options.file
@options.env
@options.yes
@options.force
@click.option("--dry-run", is_flag=True, help="Print what would change and do nothing.")
@options.wait
@options.timeout
@options.output
@click.pass_context
def command(
    context: click.Context,
    file: Path | None,
    env: str | None,
    yes: bool,
    force: bool,
    dry_run: bool,
    wait: bool,
    timeout: float,
) -> None:
    """Make the APIs of FILE (default: ./cortex.yaml) live.

    Checks the file, packs the folder it lies in, shows what will change, and waits until every API answers.
    New replicas start beside the old ones and take over when they are ready, so no request is lost. When the
    new release does not start, this fails with the end of its log and the old one goes on serving.

    \b
    Examples:
      cortex deploy
      cortex deploy my-project/cortex.yaml --env production --yes
      cortex deploy --dry-run
    """
    from cortex import deploying, deployment_report
    from cortex.deploy_conclusion import Conclusion, TerminalQuestions

    session: Session = context.obj
    session.console.error_document = deployment_report.error_document
    questions = TerminalQuestions(console=session.console, yes=yes)
    document = deploying.read(deploying.find(file), questions=questions)
    assert document.project is not None
    environment = session.environment(env)
    with (
        deploying.package(document.project, questions=questions) as package,
        session.operator(environment) as client,
    ):
        conclusion = Conclusion(
            session=session, environment=environment, client=client, wait=wait, timeout=timeout
        )
        action = conclusion.only_plan if dry_run else conclusion.deploy
        context.exit(action(document, package, force=force))

"""`cortex doctor`."""

from __future__ import annotations

import click

from cortex import options
from cortex.session import Session


@click.command(name="doctor")
@options.output
@click.pass_context
def command(context: click.Context) -> None:
    """Check this machine: Python, folders, ports, programs, limits, locks, configuration.

    Says what to do about each problem, changes nothing. Exit code 1 when a check fails.
    """
    from cortex import doctor

    session: Session = context.obj
    findings = doctor.examine(session)
    if session.console.output == "json":
        session.console.result_json(findings)
    else:
        rows = [[each.state, each.check, each.message] for each in findings]
        session.console.table(["", "check", "found"], rows)
        for each in findings:
            if each.fix:
                session.console.note(f"{each.check}: {each.fix}")
    context.exit(1 if any(each.state == "failed" for each in findings) else 0)

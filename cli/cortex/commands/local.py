"""`cortex local`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from cortex import options
from cortex.command_group import CommandGroup
from cortex.session import Session

if TYPE_CHECKING:
    from cortex.local_operator import LocalStatus

command = CommandGroup(
    name="local",
    help="""Start, stop and look at the operator of this machine.

Other commands start it when they need it. It keeps running, as do the APIs, until `cortex local down`.""",
)


@command.command()
@options.output
@click.pass_obj
def up(session: Session) -> None:
    """Start the operator and its gateway; does nothing when they run."""
    local = session.local_operator()
    local.ensure()
    _print(session, local.status())


@command.command()
@options.output
@click.pass_obj
def down(session: Session) -> None:
    """Stop all replicas, the gateway and the operator; returns when no process is left.

    What is deployed is remembered: `cortex local up` brings it back. To remove an API, use `cortex delete`.
    """
    stopped = session.local_operator().down()
    if session.console.output == "json":
        session.console.result_json({"stopped": stopped})
    else:
        session.console.result("stopped" if stopped else "nothing was running")


@command.command()
@options.output
@click.pass_obj
def status(session: Session) -> None:
    """Say whether the operator runs, and where it keeps its things. Starts nothing."""
    _print(session, session.local_operator().status())


def _print(session: Session, found: LocalStatus) -> None:
    if session.console.output == "json":
        session.console.result_json(found)
        return
    for key, value in vars(found).items():
        if value is not None:
            session.console.result(f"{key.replace('_', ' ')}: {_word(value)}")


def _word(value: object) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)

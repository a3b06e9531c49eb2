"""`cortex env`."""

from __future__ import annotations

import click

from cortex import options
from cortex.command_group import CommandGroup
from cortex.completions import complete_environment
from cortex.session import Session

_name = click.argument("name", shell_complete=complete_environment)


command = CommandGroup(
    name="env",
    help="""Choose and configure the operators that commands talk to.

The environment `local`, this machine, always exists. Others are kept in cli.yaml in ~/.cortex, or in
CORTEX_CLI_CONFIG_DIR.""",
)


@command.command()
@_name
@click.option(
    "-o",
    "--operator-endpoint",
    metavar="URL",
    help="Where the operator answers, e.g. https://cortex.example.com.",
)
@click.option("--token", metavar="TOKEN", help="The operator's shared secret; - reads it from stdin.")
@click.pass_obj
def configure(session: Session, name: str, operator_endpoint: str | None, token: str | None) -> None:
    """Add the environment NAME or change it. Checks that an operator answers there.

    \b
    Example:
      cortex env configure production --operator-endpoint https://cortex.example.com --token - < token.txt
    """
    from cortex import configuring

    configuring.configure(session, name, endpoint=operator_endpoint, token=token)
    session.console.result(f"configured {name}")
    if session.environments.default != name:
        session.console.note(f"make it the default with: cortex env default {name}")


@command.command(name="list")
@options.output
@click.pass_obj
def list_environments(session: Session) -> None:
    """List the environments; tokens are not shown."""
    environments = session.environments
    default = environments.default
    if session.console.output == "json":
        session.console.result_json([
            {"name": each.name, "operator_endpoint": each.operator_endpoint, "default": each.name == default}
            for each in environments.all()
        ])  # fmt: skip
    else:
        session.console.table(
            ["name", "operator endpoint", ""],
            [
                [each.name, each.operator_endpoint, "default" if each.name == default else ""]
                for each in environments.all()
            ],
        )


@command.command()
@click.argument("name", required=False, shell_complete=complete_environment)
@options.output
@click.pass_obj
def default(session: Session, name: str | None) -> None:
    """Make NAME the environment that commands use; without NAME, print which one that is."""
    if name is not None:
        session.environments.make_default(name)
    chosen = session.environments.default
    if session.console.output == "json":
        session.console.result_json({"default": chosen})
    else:
        session.console.result(chosen)


@command.command()
@click.argument("old", shell_complete=complete_environment)
@click.argument("new")
@click.pass_obj
def rename(session: Session, old: str, new: str) -> None:
    """Give the environment OLD the name NEW."""
    session.environments.rename(old, new)
    session.console.result(f"renamed {old} to {new}")


@command.command()
@_name
@click.pass_obj
def delete(session: Session, name: str) -> None:
    """Forget the environment NAME. What runs there goes on running."""
    session.environments.delete(name)
    session.console.result(f"deleted {name}")

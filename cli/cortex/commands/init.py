"""`cortex init`."""

from __future__ import annotations

from pathlib import Path

import click

from cortex.session import Session


@click.command(name="init")
@click.argument("directory", metavar="[DIR]", default=".", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "-t", "--template", metavar="NAME", default="python", show_default=True, help="What to begin with."
)
@click.option("-l", "--list", "list_templates", is_flag=True, help="List the templates and write nothing.")
@click.pass_obj
def command(session: Session, directory: Path, template: str, list_templates: bool) -> None:
    """Write a new project into DIR (default: here): cortex.yaml, handler.py and requirements.txt.

    It can be deployed as it is. Files that exist are never overwritten.

    \b
    Examples:
      cortex init hello
      cortex init hello --template async
    """
    from cortex import templates

    console = session.console
    if list_templates:
        console.table(
            ["template", "what it is"], [[name, text] for name, text in templates.TEMPLATES.items()]
        )
        return
    for path in templates.write(directory, template):
        console.result(str(path))
    console.note(f"deploy it with: cortex deploy {directory / 'cortex.yaml'}")

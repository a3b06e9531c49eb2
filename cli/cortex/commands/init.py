"""`cortex init`."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path

import click

from cortex import options
from cortex.console import Console
from cortex.session import Session


@click.command(name="init")
@click.argument("directory", metavar="[DIR]", default=".", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "-t", "--template", metavar="NAME", default="python", show_default=True, help="What to begin with."
)
@click.option("-l", "--list", "list_templates", is_flag=True, help="List the templates and write nothing.")
@options.output
@click.pass_obj
def command(session: Session, directory: Path, template: str, list_templates: bool) -> None:
    """Write a new project into DIR (default: here): cortex.yaml, handler.py and requirements.txt.

    It can be deployed as it is; the API is named after DIR. Files that exist are never overwritten.

    \b
    Examples:
      cortex init hello
      cortex init hello --template async
    """
    from cortex import templates

    console = session.console
    if list_templates:
        _print_templates(console, templates.TEMPLATES)
        return
    written = templates.write(directory, template)
    if console.output == "json":
        console.result_json({"files": [str(path) for path in written]})
        return
    for path in written:
        console.result(str(path))
    console.note(f"deploy it with: cortex deploy {shlex.quote(str(directory / 'cortex.yaml'))}")


def _print_templates(console: Console, summaries: Mapping[str, str]) -> None:
    if console.output == "json":
        console.result_json([{"template": name, "summary": text} for name, text in summaries.items()])
    else:
        console.table(["template", "what it is"], [list(each) for each in summaries.items()])

"""`cortex validate`."""

from __future__ import annotations

from pathlib import Path

import click

from cortex import options
from cortex.session import Session


@click.command(name="validate")
@options.file
@options.output
@click.pass_obj
def command(session: Session, file: Path | None) -> None:
    """Check FILE (default: ./cortex.yaml) and the folder around it, and say everything that is wrong.

    Needs no operator and changes nothing. Exit code 1 when there is a problem.

    \b
    Examples:
      cortex validate
      cortex validate my-project/cortex.yaml -o json
    """
    from cortex import validating

    session.console.error_document = validating.error_document
    path, apis = validating.validate(file)
    if session.console.output == "json":
        session.console.result_json(validating.as_json(apis))
    else:
        session.console.result(f"{path} is valid: {', '.join(api.name for api in apis)}")

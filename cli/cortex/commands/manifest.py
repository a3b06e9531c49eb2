"""`cortex manifest`."""

from __future__ import annotations

from pathlib import Path

import click

from cortex import options
from cortex.session import Session


@click.command(name="manifest")
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@options.output
@click.pass_obj
def command(session: Session, directory: Path) -> None:
    """Write cortex-manifest.json into DIR, the directory of one version of a model.

    It names each file with its size and SHA-256. A version that has one is loaded as soon as all files it names are
    there, and never before, in whatever order they are uploaded. Write it when all other files are there.

    \b
    Example:
      cortex manifest models/iris/7
    """
    from cortex_core.models import manifest

    path = manifest.write(directory)
    files = manifest.parse(path.read_bytes()).files
    size = sum(file.size for file in files.values())
    if session.console.output == "json":
        session.console.result_json({"manifest": str(path), "files": len(files), "bytes": size})
    else:
        session.console.result(
            f"{path}: {len(files)} {'file' if len(files) == 1 else 'files'}, {size:,} bytes"
        )

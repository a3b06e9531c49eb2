"""Small handler projects that tests deploy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support.installation import Installation

VERSIONED = """
class Handler:
    def __init__(self, config):
        self.version = config["version"]

    def handle_post(self, payload):
        return {"n": payload["n"], "version": self.version}
"""


def write_api(
    folder: Path, handler: str, *, name: str, processes: int = 1, threads: int = 4, more: str = ""
) -> None:
    """A project of one API and its handler.

    Args:
        more: further lines of its section `handler`, and what comes after that.
    """
    (folder / "handler.py").write_text(handler)
    (folder / "cortex.yaml").write_text(f"""\
- name: {name}
  kind: RealtimeAPI
  handler:
    type: python
    path: handler.py
    processes_per_replica: {processes}
    threads_per_process: {threads}
{more}""")


def write_versioned(
    folder: Path, *, version: str, name: str = "counted", processes: int = 1, extra: str = ""
) -> None:
    """An API that repeats the request's number and says which version answered."""
    config = f'    config: {{version: "{version}"}}\n'
    write_api(folder, VERSIONED + extra, name=name, processes=processes, more=config)


@contextmanager
def deployed(folder: Path, handler: str, **api: Any) -> Iterator[Installation]:
    """An API in a home of its own below a folder that exists, until the block ends.

    Args:
        api: what else `write_api` takes.
    """
    project = folder / "project"
    project.mkdir()
    write_api(project, handler, **api)
    cortex = Installation(folder)
    try:
        cortex.run("deploy", "--yes", cwd=project)
        yield cortex
    finally:
        cortex.down()

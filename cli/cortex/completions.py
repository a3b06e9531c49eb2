"""Completion in the shell. Names of APIs come from a small file that `get` keeps: no network, no waiting."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from cortex.environments import Environments, configuration_folder
from cortex.session import Session
from cortex_core.errors import CortexError

SHELLS = ("bash", "zsh", "fish")
PROGRAMS = ("cortex", "cx")
_MOST_NAMES = 1000


def script(shell: str) -> str:
    """What a shell has to read to complete `cortex` and `cx`."""
    from click.shell_completion import ShellComplete, get_completion_class

    found = get_completion_class(shell)
    assert found is not None, f"click knows {shell}"
    group = click.Group()
    return "\n".join(
        # the base class: click's own for bash would start one to ask for its version
        ShellComplete.source(found(group, {}, program, f"_{program.upper()}_COMPLETE"))
        for program in PROGRAMS
    )


def remember_apis(folder: Path, environment: str, names: Iterable[str]) -> None:
    """Keep the names of an environment's APIs for the next completion; does nothing where it cannot write."""
    path = _names_file(folder, environment)
    wanted = json.dumps(sorted(names)[:_MOST_NAMES])
    try:
        if path.exists() and path.read_text() == wanted:
            return
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}")
        temporary.write_text(wanted)
        temporary.replace(path)
    except OSError:
        return


def complete_api(context: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Known names of APIs that begin with what was typed."""
    environ = _environ(context)
    folder = configuration_folder(environ)
    try:
        environment = context.params.get("env") or Environments(folder, local_endpoint="").default
        names = json.loads(_names_file(folder, environment).read_text())
    except (OSError, ValueError, CortexError):
        return []
    return [name for name in names if isinstance(name, str) and name.startswith(incomplete)]


def complete_environment(context: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Names of environments that begin with what was typed."""
    environments = Environments(configuration_folder(_environ(context)), local_endpoint="")
    try:
        return [each.name for each in environments.all() if each.name.startswith(incomplete)]
    except CortexError:
        return []


def _environ(context: click.Context) -> Any:
    session = context.find_object(Session)
    return {} if session is None else session.environ


def _names_file(folder: Path, environment: str) -> Path:
    return folder / "completion" / f"{environment}.json"

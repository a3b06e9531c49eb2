"""`.env` of a project: sourced by bash with every variable exported.

Shell quoting and expansion apply, so reading it runs it; it can do what the handler can.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cortex_core.errors import InvalidProject

_SCRIPT = """
"$2" -0 || exit
printf '\\0'
set -e -a
. "$1" >&2
"$2" -0
"""
"""The environment before, an empty entry, the environment after."""

_OF_THE_SHELL = frozenset({"_", "PWD", "OLDPWD", "SHLVL"})
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SHOWN_CHARACTERS = 2000


@dataclass(frozen=True, kw_only=True)
class Finished:
    """How a command ended; `status` is None when it ran into the deadline and was killed."""

    status: int | None
    stdout: bytes
    stderr: bytes


Runner = Callable[[Sequence[str], Path, Mapping[str, str], float], Finished]
"""Runs argv in a folder with exactly this environment for at most so many seconds."""


def run(argv: Sequence[str], folder: Path, environ: Mapping[str, str], deadline: float) -> Finished:
    """Run a command in its own process group; what it started and left behind is killed with it."""
    process = subprocess.Popen(
        argv,
        cwd=folder,
        env=dict(environ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    status: int | None = None
    try:
        stdout, stderr = process.communicate(timeout=deadline)
        status = process.returncode
    except subprocess.TimeoutExpired:
        _kill_group(process.pid)
        stdout, stderr = process.communicate()
    finally:
        _kill_group(process.pid)
    return Finished(status=status, stdout=stdout, stderr=stderr)


def read(
    path: Path, environ: Mapping[str, str], *, run: Runner = run, deadline: float = 30.0
) -> dict[str, str]:
    """The variables that a `.env` file sets or changes.

    Args:
        path: the file; its folder is the working directory. Without it, nothing is set.
        environ: what it sees and may expand.
        run: starts bash.
        deadline: seconds it may take.

    Raises:
        InvalidProject: it failed or took too long, or there is no bash; with its output.
    """
    if not path.is_file():
        return {}
    search = environ.get("PATH", os.defpath)
    bash, env = shutil.which("bash", path=search), shutil.which("env", path=search)
    if bash is None or env is None:
        raise InvalidProject(f"{path.name} cannot be read without bash, which is not on the PATH")
    argv = [bash, "--noprofile", "--norc", "-c", _SCRIPT, "bash", f"./{path.name}", env]
    finished = run(argv, path.parent, environ, deadline)
    if finished.status is None:
        raise InvalidProject(_failure(path, f"did not finish within {deadline:g} s", finished))
    if finished.status != 0:
        raise InvalidProject(_failure(path, f"failed with status {finished.status}", finished))
    before, complete, after = finished.stdout.partition(b"\0\0")
    if not complete or not after:
        raise InvalidProject(_failure(path, "ended the shell before its last line ('exit'?)", finished))
    inherited = _variables(before)
    return {name: value for name, value in _variables(after).items() if inherited.get(name) != value}


def _variables(output: bytes) -> dict[str, str]:
    pairs = (os.fsdecode(entry).partition("=") for entry in output.split(b"\0") if entry)
    return {
        name: value for name, _, value in pairs if _NAME.fullmatch(name) and name not in _OF_THE_SHELL
    }  # functions are exported too, under names no variable can have


def _failure(path: Path, what: str, finished: Finished) -> str:
    output = finished.stderr.decode(errors="replace").strip()[-_SHOWN_CHARACTERS:]
    return f"{path.name} {what}" + (f":\n{output}" if output else "")


def _kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        return

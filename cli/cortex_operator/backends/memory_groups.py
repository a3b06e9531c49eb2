"""Memory limits by the kernel's control groups, version 1 and 2, where we may make such groups.

Ours are made below the group we run in, so that its limits hold for replicas too; with version 2, where only
groups without processes can have limited children, below the nearest one above that allows it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

PREFIX = "cortex-"

_REMOVE_DEADLINE = 2.0
_POLL = 0.02


@dataclass(frozen=True, kw_only=True)
class _Files:
    """What the files of a group are called; `swap` is the limit that keeps it from swapping instead."""

    limit: str
    swap: str
    peak: str
    events: str


_VERSION_1 = _Files(
    limit="memory.limit_in_bytes",
    swap="memory.memsw.limit_in_bytes",
    peak="memory.max_usage_in_bytes",
    events="memory.oom_control",
)
_VERSION_2 = _Files(limit="memory.max", swap="memory.swap.max", peak="memory.peak", events="memory.events")


@dataclass(frozen=True, kw_only=True)
class MemoryGroup:
    """One group of processes that share a memory limit."""

    path: Path
    files: _Files

    @classmethod
    def of(cls, pid: int, proc: Path = Path("/proc")) -> MemoryGroup | None:
        """The group of ours that a process is in, whoever made it."""
        for mount, own, files in _hierarchies(proc, str(pid)):
            if own.name.startswith(PREFIX):
                return cls(path=mount / own, files=files)
        return None

    def add(self, pid: int) -> None:
        """Put a process into it; what it starts from then on is in it too.

        Raises:
            OSError: we may not.
        """
        (self.path / "cgroup.procs").write_text(str(pid))

    def kills(self) -> int:
        """How many of its processes the kernel killed because of the limit."""
        for line in _lines(self.path / self.files.events):
            name, _, value = line.partition(" ")
            if name == "oom_kill":
                return int(value)
        return 0

    def limit(self) -> int | None:
        """Bytes; None if there is no limit."""
        return _number(self.path / self.files.limit)

    def peak(self) -> int | None:
        """The most bytes it ever used, None if the kernel does not say."""
        return _number(self.path / self.files.peak)

    async def remove(self) -> None:
        """Remove the empty group; quiet if it is gone.

        Raises:
            OSError: it is not empty.
        """
        deadline = asyncio.get_running_loop().time() + _REMOVE_DEADLINE
        while not self._removed(last_chance=asyncio.get_running_loop().time() > deadline):
            await asyncio.sleep(_POLL)  # the kernel takes a moment to see that processes are gone

    def _removed(self, *, last_chance: bool) -> bool:
        try:
            self.path.rmdir()
        except FileNotFoundError:
            return True
        except OSError:
            if last_chance:
                raise
            return False
        return True


class MemoryGroups:
    """The place where groups of one owner can be made."""

    def __init__(self, parent: Path, files: _Files, owner: str) -> None:
        self._parent = parent
        self._files = files
        self._prefix = f"{PREFIX}{owner}-"

    @classmethod
    def detect(cls, owner: str, proc: Path = Path("/proc")) -> MemoryGroups | None:
        """Find a place where a group can be made, by making one; None if there is none.

        Args:
            owner: part of the groups' names, to tell them from others.
        """
        for mount, own, files in _hierarchies(proc):
            for parent in (mount / own, *(mount / above for above in own.parents)):
                if _allows(parent, files):
                    return cls(parent, files, owner)
        return None

    def create(self, name: str, limit: int) -> MemoryGroup:
        """Make a group with a limit in bytes, or change the limit of the one there is.

        Raises:
            OSError: we may not.
        """
        group = MemoryGroup(path=self._parent / (self._prefix + name), files=self._files)
        group.path.mkdir(exist_ok=True)
        (group.path / self._files.limit).write_text(str(limit))
        with contextlib.suppress(OSError):  # no swap accounting in this kernel
            swap = str(limit) if self._files is _VERSION_1 else "0"
            (group.path / self._files.swap).write_text(swap)
        return group

    def sweep(self) -> None:
        """Remove the owner's groups that are empty."""
        for path in self._parent.glob(f"{self._prefix}*"):
            with contextlib.suppress(OSError):  # it is not empty
                path.rmdir()


def _hierarchies(proc: Path, pid: str = "self") -> list[tuple[Path, PurePosixPath, _Files]]:
    """(mount point, path of the process's group below it, files) of every hierarchy that may limit memory."""
    found = []
    mounts = _mounts(proc)
    for line in _lines(proc / pid / "cgroup"):
        number, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            kind, files = "memory", _VERSION_1
        elif number == "0" and not controllers:
            kind, files = "cgroup2", _VERSION_2
        else:
            continue
        if kind in mounts:
            mount, root = mounts[kind]
            found.append((mount, _below(PurePosixPath(path), root), files))
    return found


def _mounts(proc: Path) -> dict[str, tuple[Path, PurePosixPath]]:
    """Where the hierarchies are mounted, and which part of each that is, by kind."""
    found: dict[str, tuple[Path, PurePosixPath]] = {}
    for line in _lines(proc / "self" / "mountinfo"):
        front, _, back = line.partition(" - ")
        _, _, _, root, point, *_ = front.split()
        kind, _, options = back.split(" ", 2)
        if kind == "cgroup2":
            found.setdefault("cgroup2", (Path(point), PurePosixPath(root)))
        elif kind == "cgroup" and "memory" in options.split(","):
            found.setdefault("memory", (Path(point), PurePosixPath(root)))
    return found


def _below(path: PurePosixPath, root: PurePosixPath) -> PurePosixPath:
    with contextlib.suppress(ValueError):
        return path.relative_to(root)
    return path.relative_to("/")


def _allows(parent: Path, files: _Files) -> bool:
    trial = parent / f"{PREFIX}trial-{os.getpid()}"
    try:
        trial.mkdir()
    except OSError:
        return False
    try:
        return os.access(trial / files.limit, os.W_OK)
    finally:
        trial.rmdir()


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


def _number(path: Path) -> int | None:
    lines = _lines(path)
    return int(lines[0]) if lines and lines[0].isdigit() else None

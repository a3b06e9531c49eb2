"""A project: the folder around an API file, and exactly what of it is shipped.

Left out: the API file itself, hidden files and folders (the root's `.env` is shipped), compiled Python, names
beginning with `cortex-debug-`, what the root's `.cortexignore` says, and what is never meant: virtual
environments and `node_modules`, unless a `!` line of `.cortexignore` asks for them.

A link to a file of the project is shipped as that file; links to folders are not followed; a link that leads
out of the project is refused.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from pathspec import GitIgnoreSpec

from cortex_core.archive import MAX_BYTES, MAX_FILES, MIB
from cortex_core.errors import InvalidProject
from cortex_core.names import Names, printable

IGNORE_FILE = ".cortexignore"
DOTENV_FILE = ".env"

LARGE_FILE_BYTES = 10 * MIB
LARGE_ARCHIVE_BYTES = 10 * MIB
MANY_FILES = 1000
"""People are asked before more than this is shipped: a file > , an archive ≥ , a number of files ≥ ."""

MOST_REASONS = 100


@dataclass(frozen=True, kw_only=True)
class Ignored:
    """Something that is not shipped; the path of a folder ends in `/` and stands for all below it."""

    path: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class ProjectWarning:
    """Something people are asked about before it is shipped; `path` where it is one file."""

    text: str
    path: str | None = None


@dataclass(frozen=True, kw_only=True)
class Project:
    """What is shipped of a folder.

    Attributes:
        root: the folder.
        files: relative paths with `/`, sorted.
        total_bytes: of all files.
        ignored: what was left out, sorted.
        warnings: large files, many files.
    """

    root: Path
    files: tuple[str, ...]
    total_bytes: int
    ignored: tuple[Ignored, ...] = ()
    warnings: tuple[ProjectWarning, ...] = ()

    def read(self, path: str) -> bytes:
        """The content of one of `files`."""
        with self.open(path) as file:
            return file.read()

    def open(self, path: str) -> BinaryIO:
        """One of `files`, for reading."""
        return (self.root / path).open("rb")


def scan(
    folder: Path,
    config_name: str,
    *,
    keep: Callable[[str, int], bool] | None = None,
    home: Path | None = None,
) -> Project:
    """Find out what is shipped of a folder.

    Args:
        folder: the project.
        config_name: name of the API file in it.
        keep: asked with path and bytes of each file over 10 MiB; False leaves it out. None keeps all.
        home: the home directory; None is the user's.

    Raises:
        InvalidProject: the folder cannot be shipped as it is; with all reasons.
    """
    root = folder.resolve()
    _refuse_everything(root, (home or Path.home()).resolve())
    walk = _Walk(root, _Rules(root, config_name), keep or _keep_all)
    walk.run()
    reasons = [*walk.reasons, *_over_limits(walk.sizes)]
    if reasons:
        raise InvalidProject(
            f"{root} cannot be deployed as it is:\n" + "\n".join(_shown(reasons)),
            hint=f"list what the API does not need in {root / IGNORE_FILE}, with patterns as in .gitignore; "
            "a large model need not be here: load it in __init__ from a path or address in handler.config",
        )
    return Project(
        root=root,
        files=tuple(walk.sizes),
        total_bytes=sum(walk.sizes.values()),
        ignored=tuple(sorted(walk.ignored, key=lambda ignored: ignored.path)),
        warnings=tuple(_warnings(walk.sizes)),
    )


def _shown(reasons: list[str]) -> Iterator[str]:
    yield from (f"  {reason}" for reason in reasons[:MOST_REASONS])
    if len(reasons) > MOST_REASONS:
        yield f"  … and {len(reasons) - MOST_REASONS} more"


def _refuse_everything(root: Path, home: Path) -> None:
    for folder, name in ((Path("/"), "the root of the file system"), (home, "your home directory")):
        if root == folder:
            raise InvalidProject(
                f"{root} cannot be deployed: it is {name}, and everything beside the API file is shipped",
                hint="move the API file and what belongs to it into a folder of its own",
            )


class _Rules:
    """Why something is left out, if it is."""

    def __init__(self, root: Path, config_name: str) -> None:
        self._root = root
        self._config_name = PurePosixPath(config_name).as_posix()
        self._ignore = _read_ignore_file(root / IGNORE_FILE)

    def reason(self, path: str, *, is_folder: bool) -> str | None:
        name = path.rpartition("/")[2]
        if path == self._config_name:
            return "the API file"
        if name.startswith(".") and (path != DOTENV_FILE or is_folder):
            return "hidden"
        if name == "__pycache__" or name.endswith((".pyc", ".pyo", ".pyd")):
            return "compiled Python"
        if name.startswith("cortex-debug-"):
            return "named cortex-debug-"
        listed = self._ignore.check_file(f"{path}/" if is_folder else path).include
        if listed:
            return f"listed in {IGNORE_FILE}"
        if listed is None and is_folder:
            return self._never_meant(path, name)
        return None

    def _never_meant(self, path: str, name: str) -> str | None:
        if name == "node_modules":
            return "packages of Node.js"
        if os.access(self._root / path / "pyvenv.cfg", os.F_OK):
            return "a virtual environment"
        return None


def _read_ignore_file(path: Path) -> GitIgnoreSpec:
    try:
        return GitIgnoreSpec.from_lines(path.read_text(encoding="utf-8").splitlines())
    except FileNotFoundError:
        return GitIgnoreSpec.from_lines([])
    except (OSError, ValueError) as error:
        raise InvalidProject(f"{path} cannot be read: {error}") from error


@dataclass
class _Walk:
    """One pass over the folder; an ignored folder is not entered, so nothing in it comes back (as in git)."""

    root: Path
    rules: _Rules
    keep: Callable[[str, int], bool]
    sizes: dict[str, int] = field(default_factory=dict)
    ignored: list[Ignored] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)

    def run(self) -> None:
        pending = [""]
        while pending and len(self.sizes) <= MAX_FILES:
            pending += self._enter(pending.pop())
        names = Names()
        self.sizes = dict(sorted(self.sizes.items(), key=lambda item: os.fsencode(item[0])))
        for path in self.sizes:
            wrong = names.problem(path)
            if wrong is not None:
                self._refuse(path, wrong)
        self.reasons.sort()

    def _enter(self, folder: str) -> Iterator[str]:
        try:
            with os.scandir(self.root / folder) as scan:
                entries = sorted(scan, key=lambda entry: entry.name)
        except OSError as error:
            self._refuse(folder or ".", f"cannot be read: {error.strerror}")
            return
        for entry in entries:
            path = folder + entry.name
            is_folder = _is_folder(entry)
            reason = self.rules.reason(path, is_folder=is_folder)
            if reason is not None:
                self._leave_out(path, reason, is_folder=is_folder)
            elif entry.is_symlink():
                self._link(path)
            elif is_folder:
                yield f"{path}/"
            else:
                self._file(path)

    def _link(self, path: str) -> None:
        try:
            target = (self.root / path).resolve(strict=True)
        except (OSError, RuntimeError):  # the latter for a loop
            self._refuse(path, f"is a link to {(self.root / path).readlink()}, which cannot be found")
            return
        if not target.is_relative_to(self.root):
            self._refuse(path, f"is a link to {target}, which is outside the project; copy it here")
        elif target.is_dir():
            self._leave_out(path, "a link to a folder", is_folder=True)
        else:
            self._file(path)

    def _file(self, path: str) -> None:
        try:
            size = _readable_size(self.root / path)
        except OSError as error:
            self._refuse(path, f"cannot be read: {error.strerror}")
            return
        if size is None:
            self._refuse(path, "is neither a file nor a folder")
        elif size > LARGE_FILE_BYTES and not self.keep(path, size):
            self._leave_out(path, "left out on request", is_folder=False)
        else:
            self.sizes[path] = size

    def _leave_out(self, path: str, reason: str, *, is_folder: bool) -> None:
        self.ignored.append(Ignored(path=f"{path}/" if is_folder else path, reason=reason))

    def _refuse(self, path: str, why: str) -> None:
        self.reasons.append(f"{printable(path)}: {printable(why)}")


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is one, or a link to one that can be found."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _readable_size(path: Path) -> int | None:
    """Bytes of a regular file that can be opened; None when it is something else."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        return None
    os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
    return status.st_size


def _over_limits(sizes: dict[str, int]) -> Iterator[str]:
    if len(sizes) > MAX_FILES:
        yield f"it has more than {MAX_FILES} files"
    total = 0
    crossed: str | None = None
    for path, size in sizes.items():
        total += size
        if size > MAX_BYTES:
            yield f"{printable(path)}: has {mebibytes(size)}, a file may have {mebibytes(MAX_BYTES)}"
        if total > MAX_BYTES and crossed is None:
            crossed = path
    if crossed is not None and sizes[crossed] <= MAX_BYTES:
        limit = mebibytes(MAX_BYTES)
        yield f"{printable(crossed)}: crosses the limit of {limit} for the whole project ({mebibytes(total)})"


def _warnings(sizes: dict[str, int]) -> Iterator[ProjectWarning]:
    for path, size in sizes.items():
        if size > LARGE_FILE_BYTES:
            yield ProjectWarning(path=path, text=f"{path} is {mebibytes(size)}")
    if len(sizes) >= MANY_FILES:
        yield ProjectWarning(text=f"the project has {len(sizes)} files")


def mebibytes(size: int) -> str:
    """Bytes as people read them, e.g. `10.5 MiB`; never rounded down to a limit that was passed."""
    return f"{-(-size * 10 // MIB) / 10:g} MiB"


def _keep_all(path: str, size: int) -> bool:  # noqa: ARG001  # what `keep` is when nobody asks
    return True

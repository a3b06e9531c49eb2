"""Virtual environments of handlers, made with uv and cached by the digest of what decides their content.

A project without requirements and without a shell script runs in the operator's own interpreter. Otherwise
its environment lies in `<root>/<digest>/` and holds, resolved together, its requirements and those of the
runtime, and a copy of the runtime itself.

Virtual environments do not survive being moved (scripts that pip wrote, paths that packages remember), so
they are built where they stay, under a lock, and count once `.complete` is in them. Whatever lacks it is a
leftover. The lock is inherited by the commands of the build: while one of them lives on after its operator
was killed, nobody else builds at that place. They carry a marker (see `processes`), by which the next
operator's `sweep` finds and ends them.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import importlib.util
import json
import os
import platform
import shlex
import shutil
import signal
import sys
import sysconfig
import tempfile
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import uv

from cortex_core import dotenv
from cortex_core.archive import digest_of
from cortex_core.errors import CortexError
from cortex_core.project import DOTENV_FILE
from cortex_core.runtime import REQUIREMENTS
from cortex_core.spec.types import Dependencies
from cortex_core.version import __version__
from cortex_operator import processes
from cortex_operator.backends import requirements
from cortex_operator.backends.protocol import PreparationFailed

FORMAT = 1
OUTPUT_LINES = 40
UNUSED_AGE = 24 * 3600.0
"""Seconds since it was last prepared after which an environment that nobody needs is removed."""
BUILD_LOG = "build.log"
"""In an environment's folder: what the commands printed that built it."""

_COMPLETE = ".complete"
_RELEASES = ".releases"
"""A folder of empty files, one for each release that was prepared here."""
_MARKER = "environment-"
_POLL_SECONDS = 0.1
_LINE_CHARACTERS = 2000
_REPORTED_CHARACTERS = 100
_CONFIGURATION = ("pyproject.toml", "uv.toml")
"""Files of a project in which uv looks for settings."""

Report = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Environment:
    """Where a project runs.

    Attributes:
        python: the interpreter.
        digest: of a virtual environment; None is the operator's own interpreter.
        environ: variables to set over everything else: those of `.env`, and what activates the environment.
    """

    python: Path
    digest: str | None
    environ: Mapping[str, str]


class Environments:
    """Makes and keeps the virtual environments below one folder.

    Args:
        root: where they lie, in the operator's home; made when needed, private to its owner.
        environ: the environment that everything is run with.
        python: the interpreter they are made from.
        uv_binary: path of uv; None is the one of its package.
        packages: folders of the runtime's packages to copy; None is those of this installation.
        deadline: seconds that a build, or waiting for another one's build, may take.
    """

    def __init__(
        self,
        root: Path,
        *,
        environ: Mapping[str, str],
        python: Path | None = None,
        uv_binary: Path | None = None,
        packages: Sequence[Path] | None = None,
        deadline: float = 1800.0,
    ) -> None:
        self._root = root
        self._home = root.parent.resolve()
        self._environ = environ
        self._python = python or Path(sys.executable)
        self._uv = uv_binary
        self._packages = packages
        self._deadline = deadline

    async def prepare(
        self,
        project: Path,
        dependencies: Dependencies,
        report: Report,
        *,
        release: str = "",
        env: Mapping[str, str] | None = None,
        extras: Sequence[str] = (),
    ) -> Environment:
        """The environment of an extracted project, built if it is not there. Any number of calls at once.

        Args:
            project: the extracted project.
            dependencies: its files, relative to the project; those that are missing mean nothing.
            report: told in a few words what is going on.
            release: id of the release it is for; kept with it, see `remove_unused`.
            env: `env` of the specification; `.env` overrides it.
            extras: what the runtime needs for this release beside `REQUIREMENTS`; the operator's own
                interpreter is taken to have it.

        Raises:
            PreparationFailed: with the output of what failed.
        """
        try:
            recipe = await asyncio.to_thread(self._read, project, dependencies, env or {}, tuple(extras))
            if recipe.digest is None:
                return Environment(python=self._python, digest=None, environ=recipe.dotenv)
            folder = self._root / recipe.digest
            await self._have(recipe, folder, report, release)
        except CortexError as error:
            raise PreparationFailed(error.message) from error
        except (OSError, processes.SurvivedError) as error:
            raise PreparationFailed(f"the handler's environment could not be made: {error}") from error
        return Environment(
            python=_python_of(folder),
            digest=recipe.digest,
            environ=recipe.dotenv | _activation(folder, {**self._environ, **recipe.variables}),
        )

    async def sweep(self) -> None:
        """End builds that outlived their operator, and remove what they left.

        To be called once, before the first `prepare`, by the only operator of this home.

        Raises:
            SurvivedError: a process of theirs did not die.
        """
        found = await asyncio.to_thread(processes.members, self._home)
        for marker in {process.marker for process in found if process.marker.startswith(_MARKER)}:
            await processes.sweep(self._home, marker)
        await asyncio.to_thread(self._remove_leftovers)

    async def remove_unused(self, *, in_use: Collection[str], kept: Collection[str]) -> None:
        """Remove environments that nobody needs and that were not prepared for `UNUSED_AGE` seconds.

        Safe beside `prepare`: that holds an environment's lock until it has said that it is wanted.

        Args:
            in_use: digests of environments in which something runs.
            kept: ids of releases, as given to `prepare`, whose environments stay.
        """

        def is_unused(folder: Path) -> bool:
            wanted = any((folder / _RELEASES / release).exists() for release in kept)
            return folder.name not in in_use and not wanted and _age(folder) > UNUSED_AGE

        await asyncio.to_thread(self._remove_those, is_unused)

    def _remove_leftovers(self) -> None:
        self._remove_those(lambda folder: not _is_complete(folder))

    def _remove_those(self, unwanted: Callable[[Path], bool]) -> None:
        """Remove folders with their locks, but for those that somebody is building or preparing now."""
        for folder in self._root.iterdir() if self._root.is_dir() else ():
            if not folder.is_dir() or not unwanted(folder):
                continue
            descriptor = self._open_lock(folder.name)
            try:
                if _locked(descriptor) and self._is_lock_of(descriptor, folder.name) and unwanted(folder):
                    _remove(folder)
                    self._lock_file(folder.name).unlink()
            finally:
                os.close(descriptor)

    def _read(
        self, project: Path, dependencies: Dependencies, env: Mapping[str, str], extras: tuple[str, ...]
    ) -> _Recipe:
        _refuse_conda(project, dependencies.conda)
        set_by_dotenv = dotenv.read(project / DOTENV_FILE, {**self._environ, **env})
        listed = _file(project, dependencies.pip)
        script = _file(project, dependencies.shell)
        variables = {**env, **set_by_dotenv}
        digest = None
        if script is not None or (listed is not None and _lines(project / listed)):
            digest = self._digest(project, listed, script, variables, (*REQUIREMENTS, *extras))
        return _Recipe(
            project=project,
            requirements=listed,
            script=script,
            runtime=(*REQUIREMENTS, *extras),
            variables=variables,
            dotenv=set_by_dotenv,
            digest=digest,
        )

    def _digest(
        self,
        project: Path,
        listed: str | None,
        script: str | None,
        variables: Mapping[str, str],
        runtime: tuple[str, ...],
    ) -> str:
        lines = _lines(project / listed) if listed is not None else []
        whole = script is not None or not all(requirements.stands_alone(line) for line in lines)
        settings = {
            name: (project / name).read_text(errors="surrogateescape")
            for name in _CONFIGURATION
            if (project / name).is_file()
        }
        decisive = {
            "format": FORMAT,
            "requirements": lines,
            "settings": settings,
            "variables": {
                name: value for name, value in variables.items() if whole or name.startswith("UV_")
            },
            "project": digest_of(project) if whole else None,
            "files": [listed, script] if whole else None,
            "runtime": [__version__, runtime, [digest_of(package) for package in self._runtime()]],
            "python": [sys.version, os.path.realpath(self._python)],
            "platform": [sysconfig.get_platform(), platform.libc_ver()],
        }
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:32]

    def _runtime(self) -> Sequence[Path]:
        return self._packages if self._packages is not None else runtime_packages()

    async def _have(self, recipe: _Recipe, folder: Path, report: Report, release: str) -> None:
        """Build it unless it is there, and note that it is wanted."""
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        async with self._exclusive(folder.name, report) as lock:
            await self._build_once(recipe, folder, lock, report)
            _note_use(folder, release)

    async def _build_once(self, recipe: _Recipe, folder: Path, lock: int, report: Report) -> None:
        if _is_complete(folder):
            return
        try:
            await asyncio.to_thread(_remove, folder)
            await self._build(recipe, folder, lock, report)
        except BaseException:
            await asyncio.shield(asyncio.to_thread(_remove, folder))
            self._lock_file(folder.name).unlink(missing_ok=True)
            raise

    @asynccontextmanager
    async def _exclusive(self, digest: str, report: Report) -> AsyncIterator[int]:
        end = time.monotonic() + self._deadline
        descriptor = self._open_lock(digest)
        try:
            if not _locked(descriptor):
                report("waiting for another build of the same environment")
            while not (_locked(descriptor) and self._is_lock_of(descriptor, digest)):
                if time.monotonic() > end:
                    raise PreparationFailed(
                        f"another build of the same environment did not end within {self._deadline:g} s"
                    )
                await asyncio.sleep(_POLL_SECONDS)
                if not self._is_lock_of(descriptor, digest):  # it was removed with the environment
                    os.close(descriptor)
                    descriptor = self._open_lock(digest)
            yield descriptor
        finally:
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # also where something the build started still has it
            os.close(descriptor)

    def _open_lock(self, digest: str) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(self._lock_file(digest), flags, 0o600)

    def _lock_file(self, digest: str) -> Path:
        return self._root / f"{digest}.lock"

    def _is_lock_of(self, descriptor: int, digest: str) -> bool:
        """Whether it is still the file that everybody locks."""
        try:
            return os.path.samestat(os.fstat(descriptor), self._lock_file(digest).stat())
        except FileNotFoundError:
            return False

    async def _build(self, recipe: _Recipe, folder: Path, lock: int, report: Report) -> None:
        end = time.monotonic() + self._deadline
        environ = {**self._environ, **recipe.variables, "NO_COLOR": "1", "UV_NO_PROGRESS": "1"}
        for name in ("PYTHONHOME", "PYTHONPATH", "UV_PYTHON", "UV_SYSTEM_PYTHON", "UV_TARGET", "UV_PREFIX"):
            environ.pop(name, None)
        marker = f"{_MARKER}{folder.name}"
        environ |= _activation(folder, environ)
        environ |= {processes.MARKER: marker, processes.HOME: str(self._home)}
        with tempfile.TemporaryFile() as output:  # not where it ends up: the first step makes that folder
            try:
                for step in _steps(recipe, folder, self._python, self._uv or Path(uv.find_uv_bin())):
                    report(step.name)
                    await _run(
                        step, recipe.project, environ, output=output, lock=lock, end=end, report=report
                    )
            finally:
                await asyncio.shield(processes.sweep(self._home, marker))
            await asyncio.to_thread(_keep_output, output, folder / BUILD_LOG)
        await asyncio.to_thread(_finish, folder, self._runtime())
        report(f"the environment is built; what that printed is in {folder / BUILD_LOG}")


@dataclass(frozen=True, kw_only=True)
class _Recipe:
    """What an environment is made from; `digest` is None when there is nothing to make."""

    project: Path
    requirements: str | None
    script: str | None
    runtime: tuple[str, ...]
    variables: dict[str, str]
    dotenv: dict[str, str]
    digest: str | None


@dataclass(frozen=True, kw_only=True)
class _Step:
    name: str
    argv: list[str]
    failure: str


def runtime_packages() -> list[Path]:
    """The folders of `cortex_core` and `cortex_serve`, wherever this installation has them."""
    folders: list[Path] = []
    for name in ("cortex_core", "cortex_serve"):
        spec = importlib.util.find_spec(name)  # only found: the operator does not import the runtime
        if spec is None or not spec.submodule_search_locations:
            raise PreparationFailed(f"the package {name} is not installed")
        folders.append(Path(spec.submodule_search_locations[0]))
    return folders


def _steps(recipe: _Recipe, folder: Path, python: Path, uv_binary: Path) -> Iterator[_Step]:
    seed = ["--seed"] if recipe.script is not None else []  # or a script's `pip` would be some other one
    yield _Step(
        name="creating a virtual environment",
        argv=[str(uv_binary), "venv", "--no-project", "--python", str(python), *seed, str(folder)],
        failure="a virtual environment could not be created",
    )
    if recipe.script is not None:
        yield _Step(
            name=f"running {recipe.script}",
            argv=["bash", "-e", f"./{recipe.script}"],
            failure=f"{recipe.script} failed",
        )
    from_file = [] if recipe.requirements is None else [f"--requirements={recipe.requirements}"]
    what = recipe.requirements or "the runtime's requirements"
    yield _Step(
        name=f"installing {what}",
        argv=[
            str(uv_binary),
            "pip",
            "install",
            "--python",
            str(_python_of(folder)),
            *from_file,
            *recipe.runtime,
        ],
        failure=f"{what} could not be installed",
    )


async def _run(
    step: _Step,
    folder: Path,
    environ: Mapping[str, str],
    *,
    output: BinaryIO,
    lock: int,
    end: float,
    report: Report,
) -> None:
    """Run a step in its own process group, which is ended when this returns or is cancelled.

    Args:
        output: what it prints is added there when it has succeeded.
    """
    with tempfile.TemporaryFile() as file:
        printed = _Output(file)
        process = await asyncio.create_subprocess_exec(
            *step.argv,
            cwd=folder,
            env=environ,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
            pass_fds=(lock,),
        )
        ended = asyncio.ensure_future(process.wait())
        try:
            while not ended.done() and time.monotonic() < end:
                await asyncio.wait((ended,), timeout=_POLL_SECONDS)
                for line in printed.new_lines():
                    report(f"{step.name}: {line[:_REPORTED_CHARACTERS]}")
            in_time = ended.done()
        finally:
            _kill_group(process.pid)
            await asyncio.shield(ended)
        if not in_time:
            raise PreparationFailed(f"{step.failure}: it took too long and was ended", printed.last_lines())
        if ended.result() != 0:
            raise PreparationFailed(step.failure, printed.last_lines())
        for line in printed.new_lines()[-1:]:  # it may have ended between two looks
            report(f"{step.name}: {line[:_REPORTED_CHARACTERS]}")
        output.write(f"$ {shlex.join(step.argv)}\n".encode())
        file.seek(0)
        shutil.copyfileobj(file, output)


class _Output:
    """What a command writes to a file, followed without moving the command's place in it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._offset = 0

    def new_lines(self) -> list[str]:
        """The lines completed since the last call, without empty ones."""
        content = os.pread(self._file.fileno(), 1024 * 1024, self._offset)
        complete, newline, _ = content.rpartition(b"\n")
        self._offset += len(complete) + len(newline)
        return [line.strip() for line in complete.decode(errors="replace").splitlines() if line.strip()]

    def last_lines(self) -> list[str]:
        size = os.fstat(self._file.fileno()).st_size
        start = max(0, size - OUTPUT_LINES * _LINE_CHARACTERS)
        content = os.pread(self._file.fileno(), size - start, start).decode(errors="replace")
        return [line[:_LINE_CHARACTERS] for line in deque(content.splitlines(), OUTPUT_LINES)]


def _keep_output(output: BinaryIO, file: Path) -> None:
    output.seek(0)
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as kept:
        shutil.copyfileobj(output, kept)


def _note_use(folder: Path, release: str) -> None:
    os.utime(folder / _COMPLETE)
    if release:
        (folder / _RELEASES).mkdir(mode=0o700, exist_ok=True)
        (folder / _RELEASES / release).touch(mode=0o600)


def _age(folder: Path) -> float:
    """Seconds since it was last prepared; one that is not complete is as old as itself."""
    marker = folder / _COMPLETE
    return time.time() - (marker if marker.exists() else folder).stat().st_mtime


def _finish(folder: Path, packages: Sequence[Path]) -> None:
    """Copy the runtime and say that the environment is complete."""
    [site_packages] = (folder / "lib").glob("python*/site-packages")
    for package in packages:
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(package, site_packages / package.name, ignore=ignore, dirs_exist_ok=True)
    os.sync()  # thousands of files by uv, none of them flushed; the mark must not be on disk before them
    (folder / _COMPLETE).touch(mode=0o600)


def _refuse_conda(project: Path, name: str) -> None:
    file = _file(project, name)
    if file is not None and _lines(project / file):
        raise PreparationFailed(
            f"{file}: conda packages cannot be installed on this machine; name what PyPI has in "
            f"requirements.txt, install the rest in dependencies.sh, and remove {file}"
        )


def _file(project: Path, name: str) -> str | None:
    """A file's normalized name, when the project has it."""
    path = Path(os.path.normpath(project / name))
    if not path.is_relative_to(project):
        raise PreparationFailed(f"{name}: leads out of the project")
    return path.relative_to(project).as_posix() if path.is_file() else None


def _lines(file: Path) -> list[str]:
    try:
        return requirements.lines(file.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise PreparationFailed(f"{file.name}: is not UTF-8 text") from error


def _activation(folder: Path, environ: Mapping[str, str]) -> dict[str, str]:
    path = environ.get("PATH", os.defpath)
    return {"VIRTUAL_ENV": str(folder), "PATH": f"{folder / 'bin'}{os.pathsep}{path}"}


def _python_of(folder: Path) -> Path:
    return folder / "bin" / "python"


def _is_complete(folder: Path) -> bool:
    """Built to the end, and the interpreter it was made from is still there."""
    return (folder / _COMPLETE).exists() and _python_of(folder).exists()


def _remove(folder: Path) -> None:
    if folder.exists():
        (folder / _COMPLETE).unlink(missing_ok=True)  # first: half of it must not count
        shutil.rmtree(folder)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _kill_group(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)

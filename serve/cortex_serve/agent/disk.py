"""The models folder of one replica: versions that are whole and never change, fetched once for all its workers.

    lock                                     held by the process that uses the folder
    partial/<unique>/                        being written, or being deleted: of no use to the next process
    versions/<model>/<version>@<digest>/     whole, on disk, there by one rename
        version.json                         what it is: a `StoredVersion`
        <model>/<version>/                   its files; code that loads models may look at how their path ends

A process that is killed anywhere leaves nothing that looks whole and is not: what it was writing or deleting is in
`partial`, which the next `open` empties.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock
from uuid import uuid4

import msgspec

from cortex_core.errors import CortexError
from cortex_core.models.manifest import Manifest
from cortex_core.models.tree import Version
from cortex_core.models.wording import clipped
from cortex_core.spec.types import Struct
from cortex_core.storage.protocol import Stopped, Storage
from cortex_serve.agent.download import Corrupt, download, flush

FILE = "version.json"

RESERVE = 64 * 1024 * 1024
"""Bytes of the disk that no model takes: logs and snapshots are written there too."""

PROGRESS_SECONDS = 5.0

_LONGEST_NAME = 255
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT}


class StoredVersion(Struct):
    """One version with one content in the models folder.

    Attributes:
        model: its name in the tree.
        location: where it was fetched from, as written in the API file.
    """

    model: str
    location: str
    version: Version


class Wanted(Struct):
    """One version with one content that is to be in the models folder.

    Attributes:
        serial: of the servable.
        model: its name in the tree.
        location: as written in the API file.
        manifest: what its files' SHA-256 must be; None: nobody knows.
        urgent: before all that is not.
    """

    serial: int
    model: str
    location: str
    version: Version
    manifest: Manifest | None = None
    urgent: bool = False


class FetchFailed(CortexError):
    """A version could not be fetched, and nothing of it is left.

    Args:
        transient: whether the same may work later, when nothing but the world has changed.
        corrupt: whether a file's content contradicts the manifest; then it is not transient.
    """

    def __init__(
        self, message: str, *, hint: str | None = None, transient: bool, corrupt: bool = False
    ) -> None:
        super().__init__(message, hint=hint)
        self.transient = transient
        self.corrupt = corrupt


class Disk:
    """The folder. `open` comes first; after it, methods may be called from several threads.

    Args:
        folder: made when it is not there; this process's alone while it is open.
        shown: what people call a model; also the name of its folders.
        report: takes a level and a line for the log.
        free: how many bytes can be written to the file system of a folder.
        reserve: bytes that are to stay free.
        progress: seconds between two lines about a fetch that takes long.
    """

    def __init__(
        self,
        folder: Path,
        *,
        shown: Callable[[str], str],
        report: Callable[[str, str], None],
        free: Callable[[Path], int] | None = None,
        reserve: int = RESERVE,
        progress: float = PROGRESS_SECONDS,
    ) -> None:
        self._folder = folder.absolute()
        self._versions = self._folder / "versions"
        self._partial = self._folder / "partial"
        self._shown = shown
        self._report = report
        self._free = free or _free
        self._reserve = reserve
        self._progress = progress
        self._lock: int | None = None
        self._moving = Lock()
        """Who may make, replace and take away folders of `versions`."""
        self._claiming = Lock()
        self._claims: dict[Path, int] = {}
        """Bytes that the fetches in progress need, by their folder."""

    def open(self) -> list[StoredVersion]:
        """Take the folder, clean it of what killed processes left, and say which versions are there.

        What is damaged (a file is missing or of another size) is removed, and reported.

        Returns:
            By model, then version.

        Raises:
            CortexError: another process has it, or it cannot be written.
        """
        try:
            for folder in (self._folder, self._versions, self._partial):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._take_lock()
            flush(self._folder)
            found = list(self._whole_versions())
            for left in _children(self._partial):
                self._delete(left)
        except OSError as error:
            self.close()
            raise CortexError(
                f"the folder for copies of models cannot be used: {self._folder}: {error.strerror or error}"
            ) from error
        return sorted(found, key=lambda each: (each.model, each.version.value, each.version.digest))

    def close(self) -> None:
        """Let others have the folder."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def fetch(self, wanted: Wanted, storage: Storage, stopped: Callable[[], bool]) -> Path:
        """Have a version in the folder: at once when it is there, otherwise all of its files or nothing.

        Args:
            storage: rooted at the version's location.
            stopped: asked often, by several threads: whether it is not wanted any more.

        Returns:
            `directory`.

        Raises:
            Stopped: `stopped` said so.
            FetchFailed: for any reason that is not a defect of ours.
        """
        stored = StoredVersion(model=wanted.model, location=wanted.location, version=wanted.version)
        with self._explained(wanted):
            if not self._has(stored):
                with self._partial_folder() as partial, self._claimed(partial, _size(wanted.version)):
                    self._fill(partial, stored, wanted.manifest, storage, stopped)
                    self._place(partial, stored, stopped)
        return self.directory(wanted.model, wanted.version)

    def directory(self, model: str, version: Version) -> Path:
        """Where a version's files are once it is fetched."""
        return self._home(model, version) / _folder_name(self._shown(model)) / version.name

    def remove(self, stored: StoredVersion) -> None:
        """Delete a version, if it is there; at once for all who look. Who has a file of it open can go on reading.

        It takes as long as the file system needs to delete the files. What it refuses to delete is reported, and
        tried again by the next `open`.
        """
        home = self._home(stored.model, stored.version)
        try:
            with self._moving:
                away = self._take_away(home)
                with suppress(OSError):
                    home.parent.rmdir()  # its last version
        except FileNotFoundError:
            return
        except OSError as error:
            self._report_kept(home, error)
        else:
            self._delete(away)

    def _take_lock(self) -> None:
        self._lock = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self.close()
            raise CortexError(
                f"the folder for copies of models is used by another replica that is running: {self._folder}",
                hint="give each replica a folder of its own",
            ) from error

    def _whole_versions(self) -> Iterator[StoredVersion]:
        for model in _children(self._versions):
            for home in _children(model) if _is_folder(model) else [model]:
                stored = self._read(home)
                if stored is not None:
                    yield stored
                else:
                    self._report("WARNING", f"{home} is damaged and is removed")
                    self._take_away(home)
            with suppress(OSError):
                model.rmdir()  # nothing is left in it

    def _read(self, home: Path) -> StoredVersion | None:
        """What a folder of `versions` holds; None when it is not whole."""
        try:
            stored = _decoder.decode((home / FILE).read_bytes())
            directory = self.directory(stored.model, stored.version)
            whole = directory.parent.parent == home and all(
                _has_size(directory / file.path, file.size) for file in stored.version.files
            )
        except (OSError, ValueError, msgspec.MsgspecError):
            return None
        return stored if whole else None

    def _has(self, wanted: StoredVersion) -> bool:
        present = self._read(self._home(wanted.model, wanted.version))
        return present is not None and present.version.digest == wanted.version.digest

    def _home(self, model: str, version: Version) -> Path:
        return self._versions / _folder_name(self._shown(model)) / f"{version.name}@{version.digest[:16]}"

    @contextmanager
    def _partial_folder(self) -> Iterator[Path]:
        """A new folder that is gone afterwards, unless it was moved."""
        partial = self._partial / f"fetch-{uuid4().hex}"
        partial.mkdir(mode=0o700)
        try:
            yield partial
        finally:
            if partial.exists():
                self._delete(partial)

    @contextmanager
    def _claimed(self, partial: Path, size: int) -> Iterator[None]:
        """Room for what is to be written into a folder; what others are still going to write is not free."""
        with self._claiming:
            if size + self._needed() > self._free(self._folder):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._claims[partial] = size
        try:
            yield
        finally:
            with self._claiming:
                del self._claims[partial]

    def _needed(self) -> int:
        """Bytes that must stay free whatever comes."""
        return self._reserve + sum(max(0, size - _written(folder)) for folder, size in self._claims.items())

    def _fill(
        self,
        partial: Path,
        stored: StoredVersion,
        manifest: Manifest | None,
        storage: Storage,
        stopped: Callable[[], bool],
    ) -> None:
        size = _size(stored.version)

        def report_progress() -> None:
            self._report("INFO", f"{self._called(stored)}: {_share(_written(partial), size)} fetched")

        model = partial / _folder_name(self._shown(stored.model))
        files = model / stored.version.name
        files.mkdir(parents=True)
        download(
            stored.version,
            storage,
            files,
            manifest=manifest,
            stopped=stopped,
            meanwhile=report_progress,
            every=self._progress,
        )
        (partial / FILE).write_bytes(msgspec.json.encode(stored))
        for path in (partial / FILE, model, partial):
            flush(path)

    def _place(self, partial: Path, stored: StoredVersion, stopped: Callable[[], bool]) -> None:
        home = self._home(stored.model, stored.version)
        with self._moving:
            if stopped():
                raise Stopped  # who says so may have removed it already, and would not do so again
            if self._has(stored):
                return  # another fetch of the same content was faster
            with suppress(FileNotFoundError):
                self._delete(self._take_away(home))  # damaged
            home.parent.mkdir(mode=0o700, exist_ok=True)
            partial.rename(home)
            flush(home.parent)
            flush(self._versions)

    def _take_away(self, home: Path) -> Path:
        """Move something out of `versions`, for which a full disk has room; returns where it is now."""
        return home.rename(self._partial / f"gone-{uuid4().hex}")

    def _delete(self, path: Path) -> None:
        try:
            if _is_folder(path):
                shutil.rmtree(path)
            else:
                path.unlink()
        except OSError as error:
            self._report_kept(path, error)

    def _report_kept(self, path: Path, error: OSError) -> None:
        self._report("WARNING", f"{path} cannot be deleted: {error.strerror or error}")

    @contextmanager
    def _explained(self, wanted: Wanted) -> Iterator[None]:
        """What a fetch can meet, in one kind of error."""
        try:
            yield
        except Corrupt as error:
            raise FetchFailed(error.message, hint=error.hint, transient=False, corrupt=True) from error
        except (CortexError, OSError) as error:
            if _is_for_want_of_room(error):
                raise self._no_room(_size(wanted.version)) from error
            if isinstance(error, CortexError):
                message, hint = error.message, error.hint
            else:
                message, hint = f"{self._folder} cannot be written: {error.strerror or error}", None
            raise FetchFailed(message, hint=hint, transient=True) from error

    def _no_room(self, size: int) -> FetchFailed:
        with self._claiming:
            needed, free = size + self._needed(), self._free(self._folder)
        return FetchFailed(
            f"there is no room on the disk for it: {_amount(needed)} must be free, {_amount(free)} are ({self._folder})",
            hint="make room there; it is tried again and again",
            transient=True,
        )

    def _called(self, stored: StoredVersion) -> str:
        return f"model {clipped(self._shown(stored.model))}: version {stored.version.name}"


_decoder: msgspec.json.Decoder[StoredVersion] = msgspec.json.Decoder(StoredVersion)


def _folder_name(name: str) -> str:
    """The name itself wherever a folder can have it. An API file may give a model a longer one."""
    encoded = name.encode()
    if len(encoded) <= _LONGEST_NAME:
        return name
    return f"{encoded[:200].decode(errors='ignore')}~{hashlib.sha256(encoded).hexdigest()[:16]}"


def _size(version: Version) -> int:
    return sum(file.size for file in version.files)


def _free(folder: Path) -> int:
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize


def _children(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _has_size(path: Path, size: int) -> bool:
    status = path.lstat()
    return stat.S_ISREG(status.st_mode) and status.st_size == size


def _written(folder: Path) -> int:
    """Bytes that the files below a folder take on disk: those that come in parts have their length early."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):  # it has its final name now
                status = Path(parent, name).lstat()
                total += min(status.st_size, status.st_blocks * 512)
    return total


def _is_for_want_of_room(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, OSError) and error.errno in _NO_ROOM:
            return True
        error = error.__cause__
    return False


def _share(part: int, whole: int) -> str:
    size, unit = _unit(whole)
    return f"{part / size:.1f} of {whole / size:.1f} {unit}"


def _amount(size: int) -> str:
    scale, unit = _unit(size)
    return f"{size / scale:.1f} {unit}"


def _unit(size: int) -> tuple[int, str]:
    return next(
        ((10**power, unit) for power, unit in ((9, "GB"), (6, "MB")) if size >= 10**power), (1000, "kB")
    )

"""One version's files from a storage into a folder: several at once, each as it was listed, checked, on disk."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from pathlib import Path, PurePosixPath
from threading import Event

from cortex_core.errors import Changed, CortexError
from cortex_core.models.manifest import Manifest
from cortex_core.models.tree import ModelFile, Version
from cortex_core.storage.protocol import Stopped, Storage

FILES_AT_ONCE = 4
"""Of one version. A big file in S3 comes in several parts at once as it is."""

_CHUNK_BYTES = 1024 * 1024


class Corrupt(CortexError):
    """A file's content is not what the version's manifest says."""


def download(
    version: Version,
    storage: Storage,
    to: Path,
    *,
    manifest: Manifest | None,
    stopped: Callable[[], bool],
    meanwhile: Callable[[], None],
    every: float,
) -> None:
    """Fill an empty folder with a version's files. Whatever is raised, files may have been left in it.

    Args:
        storage: rooted at the version's location.
        manifest: what the files' digests must be.
        stopped: asked often, by several threads: whether to stop.
        meanwhile: called while files are on their way, every so many seconds.

    Raises:
        Stopped: `stopped` said so.
        Corrupt: see there.
        NotFound, Changed: a file is not there any more as it was listed, so this version is another one now.
        CortexError: what `Storage.download` raises.
        OSError: a folder cannot be written.
    """
    folders = _make_folders(to, version.files)
    failed = Event()

    def is_over() -> bool:
        return failed.is_set() or stopped()

    def fetch(file: ModelFile) -> None:
        if is_over():
            raise Stopped
        path = to / file.path
        try:
            storage.download(version.prefix + file.path, path, etag=file.etag, stopped=is_over)
            _check(file, path, manifest, is_over)
        except BaseException:
            failed.set()  # here, so that no thread goes on to the next file before anybody has looked
            raise

    with ThreadPoolExecutor(min(FILES_AT_ONCE, len(version.files)), "cortex-fetch-file") as threads:
        try:
            _wait([threads.submit(fetch, file) for file in version.files], meanwhile, every)
        finally:
            failed.set()  # the others end soon: nothing is left running, nothing writes any more
    for folder in folders:
        flush(folder)


def flush(path: Path) -> None:
    """A file's content, or the names in a folder, survive a power loss from here on."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _make_folders(to: Path, files: Iterable[ModelFile]) -> list[Path]:
    """`to` and every folder below it."""
    folders = sorted({to / folder for file in files for folder in PurePosixPath(file.path).parents})
    for folder in folders:
        folder.mkdir(exist_ok=True)
    return folders


def _wait(futures: list[Future[None]], meanwhile: Callable[[], None], every: float) -> None:
    while True:
        done, waiting = wait(futures, timeout=every, return_when=FIRST_EXCEPTION)
        if any(future.exception() is not None for future in done):
            wait(futures)  # they end soon; the one that failed may not be the first to have ended
            errors = [error for future in futures if (error := future.exception()) is not None]
            raise next((error for error in errors if not isinstance(error, Stopped)), errors[0])
        if not waiting:
            return
        meanwhile()


def _check(file: ModelFile, path: Path, manifest: Manifest | None, stopped: Callable[[], bool]) -> None:
    size = path.stat().st_size
    if size != file.size:
        raise Changed(f"'{file.path}' was listed with {file.size} bytes, but {size} came")
    expected = manifest.files.get(file.path) if manifest is not None else None
    if expected is not None and (found := _sha256(path, stopped)) != expected.sha256:
        raise Corrupt(
            f"the content of '{file.path}' is not what the manifest says: its SHA-256 is {found}",
            hint="store the file again, or write the manifest anew",
        )


def _sha256(path: Path, stopped: Callable[[], bool]) -> str:
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(_CHUNK_BYTES):
            if stopped():
                raise Stopped
            digest.update(chunk)
    return digest.hexdigest()

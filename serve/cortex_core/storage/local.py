"""Storage in a folder of this machine (`file://`)."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from cortex_core.errors import CortexError, NotFound
from cortex_core.storage.protocol import Entry, check_key

_UNFINISHED = ".unfinished"
"""Folder below the root for what is being written; on the same file system, so that a rename finishes it."""

_ATTEMPTS = 100


class LocalStorage:
    """Objects are files below a folder, which is made when the first is written; see `Storage`."""

    def __init__(self, root: Path) -> None:
        self._root = root.expanduser().absolute()

    @property
    def url(self) -> str:
        return self._root.as_uri().rstrip("/")

    def list(self, prefix: str = "") -> Iterator[Entry]:
        folder = prefix.rpartition("/")[0]
        if "/" in prefix:
            check_key(folder)
        with _explained(prefix):
            found = list(_entries(self._root, self._root / folder, prefix))
        yield from sorted(found, key=lambda entry: os.fsencode(entry.key))

    def read(self, key: str) -> bytes:
        with _reading(key), self._path(key).open("rb") as file:
            return file.read()

    def write(self, key: str, content: bytes) -> None:
        with self._replacing(key) as file:
            file.write(content)

    def download(self, key: str, to: Path) -> None:
        with _reading(key):
            source = self._path(key).open("rb")
        with _explained(key), source, _replaced(to, to.parent) as file:
            shutil.copyfileobj(source, file)

    def upload(self, path: Path, key: str) -> None:
        with self._replacing(key) as file, path.open("rb") as source:
            shutil.copyfileobj(source, file)

    def delete(self, key: str) -> None:
        path = self._path(key)
        with _explained(key):
            try:
                path.unlink(missing_ok=True)
            except (NotADirectoryError, IsADirectoryError):
                return  # there is no such object: part of the key is another one, or it is a prefix of others
            self._remove_empty_folders(path.parent)

    def exists(self, key: str) -> bool:
        return self._path(key).is_file()

    def sweep(self) -> None:
        """Remove what killed writers left behind; to be called while nobody writes."""
        shutil.rmtree(self._root / _UNFINISHED, ignore_errors=True)

    def _path(self, key: str) -> Path:
        if check_key(key).partition("/")[0] == _UNFINISHED:
            raise CortexError(f"'{key}' cannot be the key of a stored object: {_UNFINISHED} is reserved")
        return self._root / key

    @contextmanager
    def _replacing(self, key: str) -> Iterator[BinaryIO]:
        path = self._path(key)
        unfinished = self._root / _UNFINISHED
        with _explained(key):
            unfinished.mkdir(mode=0o700, parents=True, exist_ok=True)
            with _replaced(path, unfinished) as file:
                yield file

    def _remove_empty_folders(self, folder: Path) -> None:
        """As in S3, a folder is there as long as an object is in it."""
        with suppress(OSError):
            while folder != self._root:
                folder.rmdir()
                folder = folder.parent


@contextmanager
def _replaced(path: Path, unfinished: Path) -> Iterator[BinaryIO]:
    """A new file that takes the place of `path` once it is written and on disk."""
    descriptor, name = tempfile.mkstemp(dir=unfinished, prefix=f".{path.name[:64]}.", suffix=".unfinished")
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        _rename(Path(name), path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _rename(source: Path, path: Path) -> None:
    for attempt in range(_ATTEMPTS):
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            source.rename(path)
            break
        except (FileNotFoundError, FileExistsError):
            # someone deleted the folder's last object meanwhile, and so the folder: before the rename,
            # or while mkdir looked whether what exists is a folder
            if attempt == _ATTEMPTS - 1:
                raise
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _entries(root: Path, folder: Path, prefix: str) -> Iterator[Entry]:
    """Links to files are objects, links to folders are not followed."""
    for parent, folders, names in os.walk(folder):
        if parent == str(root):
            folders[:] = [name for name in folders if name != _UNFINISHED]
        for name in names:
            path = Path(parent, name)
            key = path.relative_to(root).as_posix()
            if key.startswith(prefix):
                with suppress(FileNotFoundError):  # deleted meanwhile
                    status = path.stat()
                    if stat.S_ISREG(status.st_mode):
                        yield _entry(key, status)


def _entry(key: str, status: os.stat_result) -> Entry:
    return Entry(
        key=key,
        size=status.st_size,
        etag=f"{status.st_ino:x}-{status.st_mtime_ns:x}-{status.st_size:x}",
        modified_ns=status.st_mtime_ns,
    )


@contextmanager
def _reading(key: str) -> Iterator[None]:
    with _explained(key):
        try:
            yield
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            raise NotFound(f"there is no stored object '{key}'") from error


@contextmanager
def _explained(key: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CortexError(f"the stored object '{key}' cannot be read or written: {error.strerror}") from error

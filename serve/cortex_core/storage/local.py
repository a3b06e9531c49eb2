"""Storage in a folder of this machine (`file://`)."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from cortex_core.errors import Changed, CortexError, NotFound
from cortex_core.storage.files import explained, replaced
from cortex_core.storage.protocol import Entry, check_key, check_prefix

_UNFINISHED = ".unfinished"
"""Folder below the root for what is being written; on the same file system, so that a rename finishes it."""

_RESTARTS = 4


class LocalStorage:
    """Objects are files below a folder, which is made when the first is written; see `Storage`."""

    def __init__(self, root: Path) -> None:
        self._root = root.expanduser().absolute()

    @property
    def url(self) -> str:
        return self._root.as_uri().rstrip("/")

    def list(self, prefix: str = "") -> Iterator[Entry]:
        folder = check_prefix(prefix).rpartition("/")[0]
        with explained(prefix):
            found = list(_entries(self._root, self._root / folder, prefix))
        yield from sorted(found, key=lambda entry: os.fsencode(entry.key))

    def read(self, key: str) -> bytes:
        with _reading(key), self._path(key).open("rb") as file:
            return file.read()

    def write(self, key: str, content: bytes) -> None:
        with self._replacing(key) as file:
            file.write(content)

    def download(self, key: str, to: Path, *, etag: str | None = None) -> None:
        for attempt in range(1, _RESTARTS + 1):
            try:
                self._copy(key, to, etag)
            except Changed:
                if etag is not None or attempt == _RESTARTS:
                    raise
            else:
                return

    def upload(self, path: Path, key: str) -> None:
        with self._replacing(key) as file, path.open("rb") as source:
            shutil.copyfileobj(source, file)

    def delete(self, key: str) -> None:
        path = self._path(key)
        with explained(key):
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

    def _copy(self, key: str, to: Path, etag: str | None) -> None:
        with _reading(key):
            source = self._path(key).open("rb")
        with explained(key), source, replaced(to, to.parent) as file:
            before = _etag(os.fstat(source.fileno()))
            shutil.copyfileobj(source, file)
            if etag not in (None, before) or _etag(os.fstat(source.fileno())) != before:
                raise Changed(f"the stored object '{key}' is not what it was any more")

    def _path(self, key: str) -> Path:
        if check_key(key).partition("/")[0] == _UNFINISHED:
            raise CortexError(f"'{key}' cannot be the key of a stored object: {_UNFINISHED} is reserved")
        return self._root / key

    @contextmanager
    def _replacing(self, key: str) -> Iterator[BinaryIO]:
        path = self._path(key)
        unfinished = self._root / _UNFINISHED
        with explained(key):
            unfinished.mkdir(mode=0o700, parents=True, exist_ok=True)
            with replaced(path, unfinished) as file:
                yield file

    def _remove_empty_folders(self, folder: Path) -> None:
        """As in S3, a folder is there as long as an object is in it."""
        with suppress(OSError):
            while folder != self._root:
                folder.rmdir()
                folder = folder.parent


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
        etag=_etag(status),
        modified_ns=status.st_mtime_ns,
    )


def _etag(status: os.stat_result) -> str:
    """Of an inode: what is written in place keeps its number, and may keep its size and be given its old time."""
    return f"{status.st_ino:x}-{status.st_mtime_ns:x}-{status.st_ctime_ns:x}-{status.st_size:x}"


@contextmanager
def _reading(key: str) -> Iterator[None]:
    with explained(key):
        try:
            yield
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            raise NotFound(f"there is no stored object '{key}'") from error

"""Storage in a folder of this machine (`file://`)."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from cortex_core.errors import Changed, CortexError, NotFound
from cortex_core.storage.files import explained, replaced
from cortex_core.storage.protocol import Entry, Stopped, check_key, check_prefix

_UNFINISHED = ".unfinished"
"""Folder below the root for what is being written; on the same file system, so that a rename finishes it."""

_RESTARTS = 4

_NO_FILE = {errno.ENOENT, errno.ELOOP}
"""Deleted meanwhile, or a link that leads nowhere."""

_PIECE_BYTES = 64 * 1024 * 1024
_CHUNK_BYTES = 1024 * 1024
_CANNOT_COPY = {errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EPERM}
"""Of the kernel, about two files: it is not able or not allowed to copy from one to the other by itself."""


class LocalStorage:
    """Objects are files below a folder, which is made when the first is written; see `Storage`."""

    def __init__(self, root: Path) -> None:
        self._root = root.expanduser().absolute()

    @property
    def root(self) -> Path:
        """The folder; it need not exist."""
        return self._root

    @property
    def url(self) -> str:
        return self._root.as_uri().rstrip("/")

    def list(self, prefix: str = "") -> Iterator[Entry]:
        check_prefix(prefix)
        with _listing(self._root):
            found = list(_entries(f"{self._root}/", prefix))
        yield from sorted(found, key=lambda entry: os.fsencode(entry.key))

    def read(self, key: str) -> bytes:
        with _reading(key), self._path(key).open("rb") as file:
            return file.read()

    def write(self, key: str, content: bytes) -> None:
        with self._replacing(key) as file:
            file.write(content)

    def download(
        self, key: str, to: Path, *, etag: str | None = None, stopped: Callable[[], bool] | None = None
    ) -> None:
        for attempt in range(1, _RESTARTS + 1):
            try:
                self._copy(key, to, etag, stopped)
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

    def sealed(self, prefix: str) -> bool:
        """A rename changes the time of the folder's inode and of nothing else in it; whatever is written, made or
        removed there changes a time to a later one. Tools that set the folder's own times last look the same."""
        folder = f"{self._root}/{check_prefix(prefix)}"
        try:
            top = Path(folder).stat()
            return top.st_mtime_ns < top.st_ctime_ns and all(
                max(status.st_mtime_ns, status.st_ctime_ns) <= top.st_ctime_ns for status in _below(folder)
            )
        except OSError:
            return False

    def sweep(self) -> None:
        """Remove what killed writers left behind; to be called while nobody writes."""
        shutil.rmtree(self._root / _UNFINISHED, ignore_errors=True)

    def _copy(self, key: str, to: Path, etag: str | None, stopped: Callable[[], bool] | None) -> None:
        with _reading(key):
            source = self._path(key).open("rb")
        with explained(key), source, replaced(to, to.parent) as file:
            before = _etag(os.fstat(source.fileno()))
            if etag in (None, before):
                _copy_content(source, file, stopped)
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


def _entries(root: str, prefix: str) -> Iterator[Entry]:
    """Links to files are objects, links to folders are not followed; what is deleted meanwhile is left out."""
    folders = [prefix[: prefix.rfind("/") + 1]]
    while folders:
        folder = folders.pop()
        for found in _scanned(root + folder):
            key = folder + found.name
            if found.is_dir(follow_symlinks=False):
                below = f"{key}/"
                if key != _UNFINISHED and (below.startswith(prefix) or prefix.startswith(below)):
                    folders.append(below)
            elif key.startswith(prefix) and (status := _status(found)) is not None:
                yield _entry(key, status)


def _scanned(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            return list(found)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _status(found: os.DirEntry[str]) -> os.stat_result | None:
    """Of a file; None when it is none."""
    try:
        status = found.stat()
    except OSError as error:
        if error.errno in _NO_FILE:
            return None
        raise
    return status if stat.S_ISREG(status.st_mode) else None


def _below(folder: str) -> Iterator[os.stat_result]:
    folders = [folder]
    while folders:
        with os.scandir(folders.pop()) as found:
            for each in found:
                yield each.stat()
                if each.is_dir(follow_symlinks=False):
                    folders.append(each.path)


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


def _copy_content(source: BinaryIO, to: BinaryIO, stopped: Callable[[], bool] | None) -> None:
    """By the kernel as far as it can: file systems that share blocks then do, and nothing comes to this process."""
    stopped = stopped or (lambda: False)
    copied = 0
    try:
        while not stopped() and (more := os.copy_file_range(source.fileno(), to.fileno(), _PIECE_BYTES)):
            copied += more
    except OSError as error:
        if error.errno not in _CANNOT_COPY:
            raise
    source.seek(copied)
    to.seek(copied)
    while not stopped() and (piece := source.read(_CHUNK_BYTES)):
        to.write(piece)
    if stopped():
        raise Stopped


@contextmanager
def _listing(root: Path) -> Iterator[None]:
    try:
        with explained(""):
            yield
    except CortexError as error:
        reason = error.__cause__.strerror if isinstance(error.__cause__, OSError) else error.message
        raise type(error)(f"{root} cannot be listed: {reason}") from error.__cause__


@contextmanager
def _reading(key: str) -> Iterator[None]:
    with explained(key):
        try:
            yield
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            raise NotFound(f"there is no stored object '{key}'") from error

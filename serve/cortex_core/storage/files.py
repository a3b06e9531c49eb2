"""Files that storages make or replace, and what an operating system's error means for a storage's caller."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from cortex_core.errors import CortexError, StorageUnavailable

_ATTEMPTS = 100

_TRANSIENT = {
    errno.EAGAIN, errno.EBUSY, errno.ECONNABORTED, errno.ECONNREFUSED, errno.ECONNRESET, errno.EDQUOT,
    errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.EINTR, errno.EIO, errno.EMFILE, errno.ENETDOWN, errno.ENETUNREACH,
    errno.ENFILE, errno.ENOLCK, errno.ENOMEM, errno.ENOSPC, errno.ENOTCONN, errno.EREMOTEIO, errno.ESHUTDOWN,
    errno.ESTALE, errno.ETIMEDOUT,
}  # fmt: skip
"""A disk that is full, a network folder that is away, too much at once: the same call may work later."""


@contextmanager
def explained(key: str) -> Iterator[None]:
    """Errors of the operating system about an object's file, as errors of the storage."""
    try:
        yield
    except OSError as error:
        kind = StorageUnavailable if error.errno in _TRANSIENT else CortexError
        raise kind(f"the stored object '{key}' cannot be read or written: {error.strerror}") from error


@contextmanager
def replaced(path: Path, unfinished: Path) -> Iterator[BinaryIO]:
    """A new file that takes the place of `path` once it is written and on disk.

    Args:
        path: the file to be made or replaced.
        unfinished: an existing folder on the same file system, where the file is written.
    """
    descriptor, name = tempfile.mkstemp(dir=unfinished, prefix=f".{path.name[:32]}.", suffix=".unfinished")
    try:
        with os.fdopen(descriptor, "w+b") as file:
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

"""What every storage must be able to do: objects under keys below one root URL, as in S3."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cortex_core.errors import CortexError
from cortex_core.names import name_problem, printable


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One object.

    Attributes:
        key: relative path with `/`.
        size: bytes.
        etag: changes whenever the content is written anew.
        modified_ns: when that was, nanoseconds since the epoch.
    """

    key: str
    size: int
    etag: str
    modified_ns: int


class Stopped(Exception):
    """Who asked for a download said that it is not wanted any more."""


class Storage(Protocol):
    """Objects below one root. Methods block; they may be called from several threads and processes.

    Objects appear and are replaced whole: who reads while another writes gets the old or the new content.
    Once `write` or `upload` has returned, the object survives a power loss.

    Every method raises `CortexError` for a key that is empty, absolute, or leads out of the root, and when
    the storage cannot be reached, read or written: `StorageUnavailable` when the same call may work later,
    `StorageRefused` when a person has to do something first.
    """

    @property
    def url(self) -> str:
        """The root's URL, without a trailing `/`."""
        ...

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """Objects whose key begins with `prefix` (as text, not as a folder), by the bytes of their keys.

        All of them or an error, which then comes before the first. Others may have put objects there whose keys
        no other method takes; they are listed as they are.
        """
        ...

    def read(self, key: str) -> bytes:
        """The content. Raises `NotFound`."""
        ...

    def write(self, key: str, content: bytes) -> None:
        """Make or replace an object."""
        ...

    def download(
        self, key: str, to: Path, *, etag: str | None = None, stopped: Callable[[], bool] | None = None
    ) -> None:
        """Copy an object to a file, which is made or replaced whole; its folder exists.

        Args:
            etag: the content that is wanted, as listed; None: any one, whole.
            stopped: asked every few MiB, by several threads: whether to stop.

        Raises:
            NotFound: there is no such object.
            Changed: its content is another one than `etag` says, or does not stop changing.
            Stopped: `stopped` said so.
        """
        ...

    def upload(self, path: Path, key: str) -> None:
        """Make or replace an object from a file."""
        ...

    def delete(self, key: str) -> None:
        """Remove an object; when there is none, nothing happens."""
        ...

    def exists(self, key: str) -> bool:
        """Whether there is such an object."""
        ...

    def sealed(self, prefix: str) -> bool:
        """Whether what is below a folder is known to be whole: it was put there by one rename, nothing came later.

        False says nothing: most storages cannot know.

        Args:
            prefix: of the folder, with `/` at its end; empty: the root.
        """
        ...

    def sweep(self) -> None:
        """Remove what killed writers left behind; to be called while nobody writes."""
        ...


def check_key(key: str) -> str:
    """The key, when an object may have it.

    Raises:
        CortexError: it may not.
    """
    problem = "it is empty" if not key else name_problem(key)
    if problem is not None:
        raise CortexError(f"'{printable(key)}' cannot be the key of a stored object: {problem}")
    return key


def check_prefix(prefix: str) -> str:
    """The prefix, when keys may begin with it.

    Raises:
        CortexError: none may.
    """
    if "/" in prefix:
        check_key(prefix.rpartition("/")[0])
    return prefix

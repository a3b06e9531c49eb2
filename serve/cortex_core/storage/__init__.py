"""Where projects, releases and models are kept: `file://` now, the same protocol for others."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from cortex_core.errors import CortexError
from cortex_core.storage.local import LocalStorage
from cortex_core.storage.protocol import Entry, Storage, check_key

__all__ = ["Entry", "LocalStorage", "Storage", "check_key", "open_storage"]


def open_storage(url: str) -> Storage:
    """The storage below a URL or a local path (`~` and relative paths too). Touches nothing yet.

    Raises:
        CortexError: no storage for this kind of URL.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        if not url:
            raise CortexError("the storage's URL is empty", hint="write a folder's path or file:///folder")
        return LocalStorage(Path(url))
    if scheme == "file":
        return LocalStorage(_local_path(url))
    if scheme == "s3":
        raise CortexError(
            f"{url}: S3 comes with the next version", hint=f"use a folder of this machine: file:///{rest}"
        )
    raise CortexError(
        f"{url}: there is no storage of this kind", hint="write a folder's path or file:///folder"
    )


def _local_path(url: str) -> Path:
    parts = urlsplit(url)
    path = unquote(parts.path)
    if parts.netloc not in ("", "localhost") or not path or parts.query or parts.fragment or "\0" in path:
        raise CortexError(
            f"{url} is not the URL of a folder on this machine",
            hint="write file:// and an absolute path: file:///folder",
        )
    return Path(path)

"""Where projects, releases and models are kept: `file://` or `s3://`, by one protocol."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from cortex_core.errors import CortexError
from cortex_core.storage.local import LocalStorage
from cortex_core.storage.protocol import Entry, Storage, check_key

__all__ = ["Entry", "LocalStorage", "Storage", "check_key", "open_storage"]

_S3_MODULES = {"boto3", "botocore", "s3transfer"}


def open_storage(url: str) -> Storage:
    """The storage below a URL or a local path (`~` and relative paths too). Touches nothing yet.

    Raises:
        CortexError: no storage for this kind of URL, or what it needs is not installed.
    """
    scheme, separator, _ = url.partition("://")
    if not separator:
        if not url:
            raise CortexError("the storage's URL is empty", hint="write a folder's path or file:///folder")
        return LocalStorage(Path(url))
    if scheme == "file":
        return LocalStorage(_local_path(url))
    if scheme == "s3":
        return _s3_storage(url)
    raise CortexError(
        f"{url}: there is no storage of this kind",
        hint="write a folder's path, file:///folder or s3://bucket/prefix",
    )


def _s3_storage(url: str) -> Storage:
    """boto3 is big and optional, so it is imported by who uses it."""
    try:
        from cortex_core.storage.s3 import S3Storage
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _S3_MODULES:
            raise
        raise CortexError(
            f"{url}: storage in S3 needs boto3, which is not installed here",
            hint="pip install 'cortex-deploy[s3]'",
        ) from error
    return S3Storage(url)


def _local_path(url: str) -> Path:
    parts = urlsplit(url)
    path = unquote(parts.path)
    if parts.netloc not in ("", "localhost") or not path or parts.query or parts.fragment or "\0" in path:
        raise CortexError(
            f"{url} is not the URL of a folder on this machine",
            hint="write file:// and an absolute path: file:///folder",
        )
    return Path(path)

"""Storage in a bucket of Amazon S3 or of anything that speaks its protocol (`s3://`)."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from boto3.s3.transfer import TransferConfig, create_transfer_manager
from s3transfer.subscribers import BaseSubscriber

from cortex_core.errors import CortexError, NotFound, StorageUnavailable
from cortex_core.storage.deadline import Deadline
from cortex_core.storage.files import explained, replaced
from cortex_core.storage.protocol import Entry, check_key, check_prefix
from cortex_core.storage.s3_bucket import Bucket, Limits
from cortex_core.storage.s3_download import download
from cortex_core.storage.s3_listing import PAGE, Page

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]")


class S3Storage:
    """Objects below a bucket's prefix; see `Storage`.

    Keys are listed whole or not at all; objects of size 0 whose key ends with `/` are folders some tools make, and
    are left out; an object whose key `check_key` refuses is listed and can be used for nothing else.

    Args:
        url: `s3://bucket` or `s3://bucket/prefix`; characters stand for themselves.
        limits: of time and of size.

    Raises:
        CortexError: not such a URL.
        StorageRefused: boto3's configuration contradicts itself.
    """

    def __init__(self, url: str, *, limits: Limits | None = None) -> None:
        bucket, _, prefix = url.removeprefix("s3://").partition("/")
        if not _BUCKET.fullmatch(bucket):
            shown = f"s3://{bucket.rpartition('@')[2]}"  # before an @ may be a password
            raise CortexError(f"{shown} does not name a bucket", hint="write s3://bucket/prefix")
        prefix = prefix.rstrip("/")
        self.url = f"s3://{bucket}/{check_key(prefix)}" if prefix else f"s3://{bucket}"
        self._prefix = f"{prefix}/" if prefix else ""
        self._limits = limits or Limits()
        self._bucket = Bucket(bucket, limits=self._limits)

    def list(self, prefix: str = "") -> Iterator[Entry]:
        check_prefix(prefix)
        start = self._prefix + prefix
        deadline = Deadline(self._limits.listing_seconds)
        items = [item for page in _pages(self._bucket, start, deadline) for item in page.items]
        items.sort(key=lambda item: item.key)  # as the bytes of UTF-8
        before = None
        entries = []
        for item in items:
            if item.key == before or not item.key.startswith(start):
                raise StorageUnavailable(
                    f"ListObjectsV2 s3://{self._bucket.name}/{start}: the listing contradicts itself"
                )
            before = item.key
            if not (item.key.endswith("/") and item.size == 0):
                key = item.key[len(self._prefix) :]
                entries.append(Entry(key=key, size=item.size, etag=item.etag, modified_ns=item.modified_ns))
        yield from entries

    def read(self, key: str) -> bytes:
        content = io.BytesIO()
        self._download(key, content, None, None)
        return content.getvalue()

    def write(self, key: str, content: bytes) -> None:
        target = self._key(key)
        deadline = Deadline(self._limits.call_seconds + self._limits.moving(len(content)))
        put = partial(self._bucket.client.put_object, Bucket=self._bucket.name, Key=target, Body=content)
        self._bucket.call("PutObject", target, deadline, put)

    def download(
        self, key: str, to: Path, *, etag: str | None = None, stopped: Callable[[], bool] | None = None
    ) -> None:
        check_key(key)
        with explained(key), replaced(to, to.parent) as file:
            self._download(key, file, etag, stopped)

    def upload(self, path: Path, key: str) -> None:
        target = self._key(key)
        with explained(key), path.open("rb") as file:
            size = file.seek(0, io.SEEK_END)
        deadline = Deadline(self._limits.call_seconds + self._limits.moving(size))
        self._bucket.call("PutObject", target, deadline, lambda: self._upload(path, target, deadline))

    def delete(self, key: str) -> None:
        target = self._key(key)
        remove = partial(self._bucket.client.delete_object, Bucket=self._bucket.name, Key=target)
        try:
            self._bucket.call("DeleteObject", target, Deadline(self._limits.call_seconds), remove)
        except NotFound:
            return  # some storages say so

    def exists(self, key: str) -> bool:
        # the first key that begins with it; HeadObject would say neither that the bucket is missing nor why it refuses
        target = self._key(key)
        deadline = Deadline(self._limits.call_seconds)
        page = _page(self._bucket, target, deadline, keys=1)
        return any(item.key == target for item in page.items)

    def sealed(self, prefix: str) -> bool:
        """Never: objects come one by one."""
        check_prefix(prefix)
        return False

    def sweep(self) -> None:
        """Remove what killed writers left behind; to be called while nobody writes."""
        client, name = self._bucket.client, self._bucket.name
        deadline = Deadline(self._limits.listing_seconds)
        pages = client.get_paginator("list_multipart_uploads").paginate(Bucket=name, Prefix=self._prefix)
        uploads = self._bucket.call(
            "ListMultipartUploads",
            self._prefix,
            deadline,
            lambda: [upload for page in pages for upload in page.get("Uploads", [])],
        )
        for upload in uploads:
            abort = partial(
                client.abort_multipart_upload, Bucket=name, Key=upload["Key"], UploadId=upload["UploadId"]
            )
            self._bucket.call("AbortMultipartUpload", upload["Key"], deadline, abort)

    def _key(self, key: str) -> str:
        return self._prefix + check_key(key)

    def _download(self, key: str, file: Any, etag: str | None, stopped: Callable[[], bool] | None) -> None:
        try:
            download(self._bucket, self._key(key), file, etag=etag, stopped=stopped)
        except NotFound as error:
            raise NotFound(f"there is no stored object '{key}' in {self.url}") from error

    def _upload(self, path: Path, target: str, deadline: Deadline) -> None:
        config = TransferConfig(
            multipart_threshold=self._limits.part_bytes,
            multipart_chunksize=self._limits.part_bytes,
            max_concurrency=self._limits.parallel,
        )
        with create_transfer_manager(self._bucket.client, config) as manager:
            manager.upload(str(path), self._bucket.name, target, subscribers=[_Stops(deadline)]).result()


class _Stops(BaseSubscriber):  # type: ignore[misc]  # s3transfer is not typed
    """Ends an upload that nobody waits for any more."""

    def __init__(self, deadline: Deadline) -> None:
        self._deadline = deadline

    def on_progress(self, **progress: object) -> None:
        del progress
        self._deadline.remaining()


def _pages(bucket: Bucket, start: str, deadline: Deadline) -> Iterator[Page]:
    page = _page(bucket, start, deadline)
    yield page
    asked = set()
    while page.next is not None:
        if page.next in asked:
            raise StorageUnavailable(f"ListObjectsV2 s3://{bucket.name}/{start}: the listing does not end")
        asked.add(page.next)
        page = _page(bucket, start, deadline, ContinuationToken=page.next)
        yield page


def _page(
    bucket: Bucket, start: str, deadline: Deadline, *, keys: int | None = None, **following: str
) -> Page:
    list_objects = partial(
        bucket.client.list_objects_v2,
        Bucket=bucket.name,
        Prefix=start,
        MaxKeys=keys or bucket.limits.page_keys,
        **following,
    )
    page: Page = bucket.call("ListObjectsV2", start, deadline, list_objects)[PAGE]
    return page

"""One object from S3 into a file: in parts at once, resumed where it broke off, and never a mixture of two contents."""

from __future__ import annotations

import hashlib
import random
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from threading import Event, Lock
from typing import Any, BinaryIO

from botocore.exceptions import (
    FlexibleChecksumError,
    HTTPClientError,
    IncompleteReadError,
)

from cortex_core.errors import Changed, CortexError, StorageRefused
from cortex_core.storage.deadline import Deadline
from cortex_core.storage.s3_bucket import Bucket

_CHUNK_BYTES = 1024 * 1024
_RESTARTS = 4
_RESUMES = 6
"""Times in a row that a body may break off before a byte of it has come."""
_PAUSE_SECONDS = 0.1

_MD5 = re.compile(r"[0-9a-f]{32}")
_BROKEN = (HTTPClientError, IncompleteReadError)


class _Corrupt(Exception):
    """The bytes that came are not those that were stored."""


class _OtherFailed(Exception):
    """Another part cannot be had, so this one is not needed."""


def download(
    bucket: Bucket, key: str, file: BinaryIO, *, etag: str | None, stopped: Callable[[], bool] | None = None
) -> None:
    """Fill a file with an object's content, which is checked as far as the storage tells what it should be.

    Args:
        key: the whole key.
        file: may be written anywhere and be read; what is in it is replaced.
        etag: the content to fetch, as listed; None: what is there, and if it changes meanwhile the new one.
        stopped: asked five times a second: whether to stop.

    Raises:
        NotFound: there is no such object.
        Changed: it has another etag, or does not stop changing.
        Stopped: `stopped` said so.
        StorageUnavailable, StorageRefused: see `s3_errors`.
        CortexError: what comes contradicts its checksum every time.
    """
    deadline = Deadline(bucket.limits.call_seconds, stopped)
    for attempt in range(1, _RESTARTS + 1):
        file.seek(0)
        file.truncate()
        try:
            with bucket.explained("GetObject", key, deadline):
                _Download(bucket, key, file, deadline).run(etag)
        except Changed:
            if etag is not None or attempt == _RESTARTS:
                raise
        except _Corrupt as error:
            if attempt == _RESTARTS:
                raise CortexError(
                    f"GetObject s3://{bucket.name}/{key}: {error}, {_RESTARTS} times",
                    hint="store the object again",
                ) from error
        else:
            return
        _pause(attempt)


class _Download:
    """One attempt: everything in it belongs to one etag."""

    def __init__(self, bucket: Bucket, key: str, file: BinaryIO, deadline: Deadline) -> None:
        self._bucket = bucket
        self._key = key
        self._file = file
        self._deadline = deadline
        self._writing = Lock()
        self._failed = Event()
        self._etag = ""

    def run(self, etag: str | None) -> None:
        condition = {} if etag is None else {"IfMatch": f'"{etag}"'}
        answer = self._get(**condition)
        size = answer["ContentLength"]
        self._etag = answer["ETag"]
        self._deadline.extend(self._bucket.limits.moving(size))
        (_, end), *others = _parts(size, self._bucket.limits.part_bytes)
        with ThreadPoolExecutor(self._bucket.limits.parallel) as threads:
            # the first answer is the whole object's: its beginning is used, and all of it when it is small
            futures = [threads.submit(self._part, 0, end, answer["Body"], whole=not others)]
            futures += [threads.submit(self._part, start, end, None, whole=False) for start, end in others]
            wait(futures)
        for error in (future.exception() for future in futures):
            if error is not None and not isinstance(error, _OtherFailed):
                raise error
        self._check(answer, size)

    def _get(self, **parameters: str) -> dict[str, Any]:
        bucket = self._bucket

        def get() -> dict[str, Any]:
            answer: dict[str, Any] = bucket.client.get_object(Bucket=bucket.name, Key=self._key, **parameters)
            if self._deadline.passed:
                answer["Body"].close()
            return answer

        return bucket.call("GetObject", self._key, self._deadline, get)

    def _part(self, start: int, end: int, body: Any, *, whole: bool) -> None:
        try:
            self._receive(start, end, body, whole=whole)
        except BaseException:
            self._failed.set()
            raise

    def _receive(self, start: int, end: int, body: Any, *, whole: bool) -> None:
        failures = 0
        while True:
            try:
                source = Source(body or self._body(start, end))
                with _closed(source):
                    for chunk in self._chunks(source, end - start, whole=whole):
                        self._write(start, chunk)
                        start += len(chunk)
                        failures = 0
            except _BROKEN:
                if failures == _RESUMES:
                    raise
            except FlexibleChecksumError as error:
                raise _Corrupt("what comes contradicts its checksum") from error
            if start >= end:
                return
            failures += 1
            body, whole = None, False
            _pause(failures)

    def _body(self, start: int, end: int) -> Any:
        wanted = f"bytes {start}-{end - 1}/"
        answer = self._get(Range=f"bytes={start}-{end - 1}", IfMatch=self._etag)
        if not answer.get("ContentRange", "").startswith(wanted) or answer["ETag"] != self._etag:
            answer["Body"].close()
            raise StorageRefused(
                f"GetObject s3://{self._bucket.name}/{self._key}: a part was asked for, another came"
            )
        return answer["Body"]

    def _chunks(self, source: Source, size: int, *, whole: bool) -> Iterator[bytes]:
        """The next `size` bytes; of a whole object also its end, where boto3 compares checksums."""
        while size > 0 or whole:
            if self._failed.is_set():
                raise _OtherFailed
            chunk = self._read(source, min(_CHUNK_BYTES, size) or 1)
            if not chunk:
                return
            if size == 0:
                raise _Corrupt("more comes than was announced")
            yield chunk
            size -= len(chunk)

    def _read(self, source: Source, size: int) -> bytes:
        return self._deadline.run(lambda: source.read(size))

    def _write(self, start: int, chunk: bytes) -> None:
        with self._writing:
            self._file.seek(start)
            self._file.write(chunk)

    def _check(self, answer: dict[str, Any], size: int) -> None:
        """An etag is the content's MD5 unless it was stored in parts or encrypted with a key."""
        self._file.seek(0, 2)
        if self._file.tell() != size:
            raise _Corrupt(f"{self._file.tell()} bytes came instead of {size}")
        etag = self._etag.strip('"')
        encrypted = (
            answer.get("ServerSideEncryption", "AES256") != "AES256" or "SSECustomerAlgorithm" in answer
        )
        if _MD5.fullmatch(etag) and not encrypted and _md5(self._file) != etag:
            raise _Corrupt("what comes contradicts its checksum")


class Source:
    """A body that is read by a thread which may be abandoned, and is closed exactly when nobody reads it any more.

    Args:
        body: has `read` and `close`; to close it while it is read would wait for that.
    """

    def __init__(self, body: Any) -> None:
        self._body = body
        self._lock = Lock()
        self._is_read = False
        self._given_up = False

    def read(self, size: int) -> bytes:
        with self._lock:
            self._is_read = True
        try:
            chunk: bytes = self._body.read(size)
            return chunk
        finally:
            with self._lock:
                self._is_read = False
                close = self._given_up
            if close:
                self._body.close()

    def give_up(self) -> None:
        """Close it; if it is being read, then when that ends."""
        with self._lock:
            self._given_up = True
            close = not self._is_read
        if close:
            self._body.close()


@contextmanager
def _closed(source: Source) -> Iterator[None]:
    try:
        yield
    finally:
        source.give_up()


def _parts(size: int, part_bytes: int) -> list[tuple[int, int]]:
    """Where each part begins and ends; an empty object has one, which is empty."""
    return [(start, min(start + part_bytes, size)) for start in range(0, max(size, 1), part_bytes)]


def _md5(file: BinaryIO) -> str:
    file.seek(0)
    digest = hashlib.md5(usedforsecurity=False)
    while chunk := file.read(_CHUNK_BYTES):
        digest.update(chunk)
    return digest.hexdigest()


def _pause(failures: int) -> None:
    """Before the next attempt; at random, so that many readers do not come back at once."""
    time.sleep(random.uniform(0.5, 1) * _PAUSE_SECONDS * 2 ** (failures - 1))  # noqa: S311  not a secret

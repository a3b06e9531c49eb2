"""One S3 bucket: boto3 signs, sends and retries; every call has a deadline and fails in our words."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import boto3
import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError

from cortex_core.errors import StorageRefused
from cortex_core.storage.deadline import Deadline
from cortex_core.storage.s3_errors import FAILURES, translated
from cortex_core.storage.s3_listing import ListingParserFactory

Result = TypeVar("Result")

_MIB = 1024 * 1024
_CONNECTIONS = 32


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How long S3 may take, and how much is asked of it at once.

    Attributes:
        connect_seconds: to connect.
        silent_seconds: between two pieces of an answer.
        attempts: of boto3 for one call.
        call_seconds: one call with all its attempts; what moves an object has more, by its size.
        listing_seconds: all pages of a listing.
        page_keys: asked for in one page of a listing; S3 gives 1000 at most.
        slowest: bytes a second at which an object may move.
        part_bytes: objects that are bigger move in parts of this size.
        parallel: parts of one object at once.
    """

    connect_seconds: float = 5
    silent_seconds: float = 20
    attempts: int = 4
    call_seconds: float = 60
    listing_seconds: float = 600
    page_keys: int = 1000
    slowest: int = 256 * 1024
    part_bytes: int = 16 * _MIB
    parallel: int = 8

    def moving(self, size: int) -> float:
        """Seconds that so many bytes may take."""
        return size / self.slowest


class Bucket:
    """Calls to one bucket. Endpoint, credentials and region are found as boto3 does: environment, then files.

    Raises:
        StorageRefused: what is configured contradicts itself.
    """

    def __init__(self, name: str, *, limits: Limits) -> None:
        self.name = name
        self.limits = limits
        try:
            self.client = _client(limits)
        except (BotoCoreError, ValueError) as error:  # ValueError: the endpoint's URL is none
            raise StorageRefused(
                f"s3://{name}: boto3 cannot use its configuration: {type(error).__name__}",
                hint="check the AWS_ variables and ~/.aws/config",
            ) from error

    def call(self, operation: str, key: str, deadline: Deadline, call: Callable[[], Result]) -> Result:
        """What the call returns.

        Args:
            operation: as S3 calls it, for messages.
            key: the whole key, or the prefix of a listing; for messages.
            deadline: of the operation that this call is a part of.
            call: uses `client`.

        Raises:
            NotFound, Changed: there is no such object, or it is not what it was.
            StorageUnavailable, StorageRefused: see `s3_errors`.
        """
        with self.explained(operation, key, deadline):
            return deadline.run(call)

    @contextmanager
    def explained(self, operation: str, key: str, deadline: Deadline) -> Iterator[None]:
        """boto3's errors as ours."""
        try:
            yield
        except FAILURES as error:
            raise translated(
                error, operation=operation, bucket=self.name, key=key, seconds=deadline.seconds
            ) from error


def _client(limits: Limits) -> Any:
    session = botocore.session.get_session()
    session.register_component("response_parser_factory", ListingParserFactory())
    config = Config(
        connect_timeout=limits.connect_seconds,
        read_timeout=limits.silent_seconds,
        retries={"mode": "standard", "total_max_attempts": limits.attempts},
        max_pool_connections=_CONNECTIONS,
        s3={"addressing_style": "path" if _has_endpoint(session) else "auto"},
    )
    return boto3.Session(botocore_session=session).client("s3", config=config)


def _has_endpoint(session: Any) -> bool:
    """Storages other than Amazon's seldom have a host name for each bucket."""
    variables = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
    return any(os.environ.get(name) for name in variables) or bool(
        session.get_scoped_config().get("endpoint_url")
    )

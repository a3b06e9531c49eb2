from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.s3_server import running_s3


@pytest.fixture(scope="session")
def s3_port() -> Iterator[int]:
    """An S3 server's port."""
    with running_s3() as port:
        yield port

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.replicas import RunningReplica, start_replica


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., RunningReplica]]:
    """Starts replicas of a handler's source code; all are gone after the test."""
    with ExitStack() as running:
        yield lambda source, **options: running.enter_context(start_replica(tmp_path, source, **options))

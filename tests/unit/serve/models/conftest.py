"""Tables of models to test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.model_worker import Handler, Worker

from cortex_serve.models.table import Waits


@pytest.fixture
def worker() -> Iterator[Callable[..., Worker]]:
    """Make a worker that has started, with a handler that loads at once."""
    made: list[Worker] = []

    def make(
        *,
        cache_size: int | None = None,
        load_timeout: float = 20.0,
        waits: Waits | None = None,
        has_names: bool = False,
        handler: Any = None,
    ) -> Worker:
        short = waits or Waits(fetch=10, room=10, replaced=10, fallback=0.05)
        made.append(
            Worker(
                cache_size=cache_size,
                load_timeout=load_timeout,
                waits=short,
                has_names=has_names,
                handler=handler or Handler(),
            )
        )
        return made[-1]

    yield make
    for each in made:
        each.table.close()

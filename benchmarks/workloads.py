"""What servers are asked, and what the right answer is."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from handlers import batched

HANDLERS = Path(__file__).with_name("handlers")
CLIENTS = 32
FLOATS = 10_000
GOLDEN = 0.6180339887498949
BODY = 1024**2


@dataclass(frozen=True, kw_only=True)
class Workload:
    """One row of the table.

    Attributes:
        name: on the command line.
        title: for people.
        handler: module in `handlers`.
        payload, expected: by a number that makes requests different.
        only: names of the contenders it is for; None: all.
        clients: connections that are kept alive, each with one request at a time.
        batch_size: of batches, at most; 0: none.
        raw: the payload is bytes, not JSON.
    """

    name: str
    title: str
    handler: str
    payload: Callable[[int], Any]
    expected: Callable[[int], Any]
    only: tuple[str, ...] | None = None
    clients: int = CLIENTS
    batch_size: int = 0
    raw: bool = False

    @property
    def source(self) -> str:
        """The handler's own, for servers that take a project."""
        return (HANDLERS / f"{self.handler}.py").read_text()

    def encoded(self, payload: Any) -> bytes:
        return payload if self.raw else json.dumps(payload).encode()

    @property
    def content_type(self) -> str:
        return "application/octet-stream" if self.raw else "application/json"


def batch_seconds(size: int) -> float:
    """What the batching model takes for one full batch."""
    return batched.CALL + batched.ITEM * size


def ideal_rate(size: int) -> float:
    """Requests a second when full batches run back to back."""
    return size / batch_seconds(size)


def _small(number: int) -> Any:
    return {"n": 10_000 + number, "values": [1.5, 2.5, 3.5]}


_FLOWERS = (
    ([5.1, 3.5, 1.4, 0.2], "setosa"),
    ([6.1, 2.8, 4.7, 1.2], "versicolor"),
    ([6.7, 3.3, 5.7, 2.5], "virginica"),
)


@cache
def _floats(number: int) -> list[float]:
    """Of as many digits as a float has."""
    return [(number + index * GOLDEN) % 1 for index in range(FLOATS)]


def _bytes(number: int) -> bytes:
    return bytes(BODY - 1) + bytes([number % 256])


def _echo(*, name: str, title: str, clients: int, only: tuple[str, ...] | None = None) -> Workload:
    return Workload(
        name=name, title=title, handler="echo", payload=_small, expected=_small, clients=clients, only=only
    )


def _iris(*, name: str, title: str, clients: int, only: tuple[str, ...] | None = None) -> Workload:
    return Workload(
        name=name,
        title=title,
        handler="iris",
        payload=lambda number: {"row": _FLOWERS[number % 3][0]},
        expected=lambda number: {"species": _FLOWERS[number % 3][1]},
        clients=clients,
        only=only,
    )


def _batches(size: int, only: tuple[str, ...] | None) -> Workload:
    return Workload(
        name=f"batch-{size}",
        title=f"batches of up to {size}",
        handler="batched",
        payload=lambda number: {"n": number},
        expected=lambda number: {"double": 2 * number},
        clients=64,
        batch_size=size,
        only=only,
    )


LAYERS = ("bare", "ours", "gateway")
BATCHERS = ("ours", "bentoml", "mlserver", "litserve", "fastapi-async", "fastapi-def")

WORKLOADS = (
    _echo(name="echo", title="echo", clients=CLIENTS),
    _iris(name="iris", title="iris", clients=CLIENTS),
    Workload(
        name="floats",
        title="10k floats",
        handler="floats",
        payload=lambda number: {"values": _floats(number)},
        expected=lambda number: {"sum": sum(_floats(number))},
    ),
    Workload(
        name="body",
        title="1 MiB body",
        handler="body",
        payload=_bytes,
        expected=lambda number: {"bytes": BODY, "last": number % 256},
        raw=True,
    ),
    _batches(32, BATCHERS),
    *(_batches(size, ("ours",)) for size in (8, 16, 36, 48, 64)),
    _echo(name="echo-1", title="echo, one client", clients=1, only=LAYERS),
    _iris(name="iris-1", title="iris, one client", clients=1, only=LAYERS),
)

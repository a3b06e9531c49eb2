"""Connections that Envoy has to every process of every replica before anybody needs them.

Envoy gives a request to the process with the fewest requests, but those that wait for a connection are not counted: of
several that come at once, two may go to one process while another one has nothing to do. With connections at hand that
cannot happen. So each of Envoy's threads is asked, at a socket of its own for that, to ask each process for `/info`, or
over gRPC for its health, which costs no handler and is counted nowhere; and again before a connection would be closed
as idle.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cortex_operator.gateway.protocol import Route, Upstream
from cortex_operator.gateway.short_path import short_path

CLUSTER_HEADER = "x-cortex-cluster"
UPSTREAM_HEADER = "x-cortex-upstream"
"""Headers that say where such a request goes; from clients the latter is dropped."""

NOTHING = "/nothing"
"""Path that Envoy answers by itself."""

INTERVAL = 20.0
"""Seconds; shorter than what makes a connection idle."""
DEADLINE = 2.0
"""Seconds for all of it."""
ROOM = 8
"""Where fewer requests than so many for each connection are allowed, one of ours might take a client's place."""
MOST = 16
"""Connections to one process, for each thread of Envoy."""


_Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(frozen=True, order=True)
class Place:
    """An API's process and how many connections to it are wanted."""

    connections: int
    api: str
    upstream: Upstream
    is_grpc: bool = False

    @property
    def request(self) -> bytes:
        where = f"{self.upstream.host}:{self.upstream.port}"
        head = f"host: envoy\r\n{CLUSTER_HEADER}: {self.api}\r\n{UPSTREAM_HEADER}: {where}\r\n"
        return (_HEALTH if self.is_grpc else _INFO) % head.encode()


_INFO = b"HEAD /info HTTP/1.1\r\n%s\r\n"
_NO_MESSAGE = b"\0" * 5
"""gRPC's frame around the empty message, which asks for the health of all there is."""
_HEALTH = (
    b"POST /grpc.health.v1.Health/Check HTTP/1.1\r\n%s"
    b"content-type: application/grpc\r\nte: trailers\r\ncontent-length: 5\r\n\r\n" + _NO_MESSAGE
)


def places(routes: Iterable[Route]) -> set[Place]:
    """Where connections are wanted."""
    return {
        Place(_connections(route), route.api, upstream, is_grpc=route.protocol == "grpc")
        for route in routes
        for upstream in route.upstreams
        if not upstream.draining and route.max_concurrency >= ROOM * route.at_a_time * len(route.upstreams)
    }


def _connections(route: Route) -> int:
    """One connection of HTTP/2 carries all."""
    return 1 if route.protocol == "grpc" else min(MOST, route.at_a_time)


async def warm(folder: Path, socket: str, wanted: Iterable[Place], *, threads: int) -> None:
    """Have connections made; what does not answer in time is left.

    Once this returns, no thread of Envoy acts on what Envoy had been told before what it was told last: they hear of
    that a moment after Envoy says that it is served.

    Args:
        folder: where the socket lies.
        socket: its file name.
        wanted: where to.
        threads: Envoy's; it shares our connections out among them evenly.
    """
    ordered = sorted(wanted, reverse=True)
    with contextlib.suppress(OSError, EOFError, asyncio.TimeoutError), short_path(folder) as short:
        await asyncio.wait_for(_ask(f"{short}/{socket}", ordered, threads), DEADLINE)


async def _ask(socket: str, ordered: list[Place], threads: int) -> None:
    with contextlib.ExitStack() as ending:
        ours: list[_Connection] = []
        for _ in range(max((place.connections for place in ordered), default=1) * threads):
            reader, writer = await asyncio.open_unix_connection(socket)
            ending.callback(writer.close)
            ours.append((reader, writer))
        await _exchange(ours, f"HEAD {NOTHING} HTTP/1.1\r\nhost: envoy\r\n\r\n".encode())
        for place in ordered:
            await _exchange(ours[: place.connections * threads], place.request)


async def _exchange(connections: Sequence[_Connection], request: bytes) -> None:
    """Send it over all of them at the same time, so that each takes a connection of Envoy's."""
    for _, writer in connections:
        writer.write(request)
    for reader, _ in connections:
        head = await reader.readuntil(b"\r\n\r\n")
        if not request.startswith(b"HEAD"):
            await _read_body(reader, head)


async def _read_body(reader: asyncio.StreamReader, head: bytes) -> None:
    """To its end, before which the process counts as busy."""
    length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
    if length:
        await reader.readexactly(int(length[1]))
    else:
        await reader.readuntil(b"0\r\n\r\n")

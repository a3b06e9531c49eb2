"""One thread, many kept-alive connections: each gets its turn, however eager the others are."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from statistics import mean
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Served

CONNECTIONS = 32
SECONDS = 1.5
SOURCE = """
    import time

    class Handler:
        def __init__(self, config):
            pass

        def handle_get(self):
            time.sleep(0.001)
            return "<answered>"
"""
ASYNC_SOURCE = SOURCE.replace("def handle_get", "async def handle_get")
REQUEST = b"GET / HTTP/1.1\r\nhost: tested\r\n\r\n"


@pytest.mark.parametrize(("carrier", "source"), [("wsgi", SOURCE), ("asgi", ASYNC_SOURCE)])
def test_no_connection_gets_less_than_half_of_the_mean(
    serve: Callable[..., Served], carrier: str, source: str
) -> None:
    api = serve(source, carrier=carrier, threads=1)
    counts = asyncio.run(_answers(api.address))
    assert min(counts) >= mean(counts) / 2, counts
    assert mean(counts) >= 5, "there was something to share"


async def _answers(address: tuple[str, int]) -> list[int]:
    """How many answers each connection got; every fourth has eight requests under way, the others one."""
    counts = [0] * CONNECTIONS
    connections = [await asyncio.open_connection(*address) for _ in counts]

    async def ask(number: int) -> None:
        reader, writer = connections[number]
        try:
            writer.write(REQUEST * (8 if number % 4 == 0 else 1))
            while True:
                await reader.readuntil(b"<answered>")
                counts[number] += 1
                writer.write(REQUEST)
        finally:
            writer.close()

    clients = [asyncio.create_task(ask(number)) for number in range(CONNECTIONS)]
    done, _ = await asyncio.wait(clients, timeout=SECONDS)
    for client in clients:
        client.cancel()
    await asyncio.gather(*clients, return_exceptions=True)
    assert not done, [client.exception() for client in done]
    return counts

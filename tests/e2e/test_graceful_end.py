"""C-75 at the replica: told to end with 200 requests in flight, it answers them all, those that come late, too, and goes."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from pathlib import Path

import pytest
from support.raw_http import Answer, Connection, head, whole
from support.replicas import ECHO, RunningReplica, start_replica

from cortex_core.spec.types import ServerSideBatching

HANDLER = """
    import asyncio
    import time

    class Handler:
        def __init__(self, config):
            pass

        {keyword} handle_post(self, payload):
            {sleep}(0.02)
            return payload

        {keyword} handle_get(self):
            return {stream}

    def pieces():
        for _ in range(5):
            yield "piece"
            time.sleep(0.05)

    async def async_pieces():
        for _ in range(5):
            yield "piece"
            await asyncio.sleep(0.05)
"""
SYNC = HANDLER.format(keyword="def", sleep="time.sleep", stream="pieces()")
ASYNC = HANDLER.format(keyword="async def", sleep="await asyncio.sleep", stream="async_pieces()")

PLAIN, STREAMS, UPLOADS, LATE = 140, 30, 30, 40
ANNOUNCED = 0.25
"""Seconds in which requests may still come after SIGTERM."""


class Clients:
    """All requests, and what they were answered."""

    def __init__(self, replica: RunningReplica) -> None:
        self.replica = replica
        self.answers: list[Answer] = []
        self.finished = 0.0

    async def run(self) -> None:
        kept = [await self.open() for _ in range(LATE // 2)]
        for connection in kept:
            await connection.send(whole("/", b"before"))
            assert (await connection.answer()).body == b"before"
        in_flight = [
            *(self.posts(number) for number in range(PLAIN)),
            *(self.streams() for _ in range(STREAMS)),
            *(self.uploads(number) for number in range(UPLOADS)),
        ]
        running = [asyncio.ensure_future(each) for each in in_flight]
        await asyncio.sleep(0.1)
        self.replica.signal(signal.SIGTERM)
        late = [self.late(connection, n) for n, connection in enumerate([*kept, *[None] * (LATE // 2)])]
        await asyncio.gather(*running, *late)
        self.finished = time.monotonic()

    async def open(self) -> Connection:
        return await Connection.open(("127.0.0.1", self.replica.port))

    async def posts(self, number: int, kept: Connection | None = None) -> Answer:
        connection = kept or await self.open()
        body = f"number {number}".encode()
        await connection.send(whole("/", body))
        return await self.expect(connection, body)

    async def streams(self) -> None:
        connection = await self.open()
        await connection.send(head("/", {}, method="GET"))
        await self.expect(connection, b"piece" * 5)

    async def uploads(self, number: int) -> None:
        connection = await self.open()
        body = f"upload {number}".encode()
        await connection.send(head("/", {"content-length": str(len(body))}))
        for start in range(len(body)):
            await connection.send(body[start : start + 1])
            await asyncio.sleep(0.02)
        await self.expect(connection, body)

    async def late(self, connection: Connection | None, number: int) -> None:
        await asyncio.sleep(random.random() * ANNOUNCED)
        answer = await self.posts(1000 + number, connection)
        assert answer.headers.get("connection") == "close"

    async def expect(self, connection: Connection, body: bytes) -> Answer:
        answer = await connection.answer()
        await connection.close()
        assert answer.status == 200
        assert answer.body == body
        self.answers.append(answer)
        return answer


BATCHES = ServerSideBatching(max_batch_size=8)


@pytest.mark.parametrize(
    ("source", "batching"),
    [(SYNC, None), (ASYNC, None), (SYNC, BATCHES)],
    ids=["threads", "async", "batching"],
)
def test_everyone_is_answered_and_then_it_goes(
    source: str, batching: ServerSideBatching | None, tmp_path: Path
) -> None:
    with start_replica(
        tmp_path, source, processes=2, threads=4, share=True, server_side_batching=batching
    ) as replica:
        clients = Clients(replica)
        asyncio.run(clients.run())
        status = replica.wait(within=5)
        lingered = time.monotonic() - clients.finished
    assert status == 0
    assert len(clients.answers) == PLAIN + STREAMS + UPLOADS + LATE
    assert lingered < 0.5


async def ask_on_new_connections(replica: RunningReplica) -> int:
    """Until connections are refused; returns how many were answered. Who was let in has to be."""
    answered = 0
    while True:
        try:
            connection = await Connection.open(("127.0.0.1", replica.port))
        except ConnectionError:
            return answered
        await connection.send(whole("/", b"let in"))
        assert (await connection.answer()).body == b"let in"
        await connection.close()
        answered += 1


def test_whoever_is_let_in_is_answered(tmp_path: Path) -> None:
    async def clients(replica: RunningReplica) -> list[int]:
        asking = [asyncio.ensure_future(ask_on_new_connections(replica)) for _ in range(40)]
        await asyncio.sleep(0.3)
        replica.signal(signal.SIGTERM)
        return await asyncio.wait_for(asyncio.gather(*asking), 20)

    with start_replica(tmp_path, ECHO, threads=4) as replica:
        assert min(asyncio.run(clients(replica))) > 0
        assert replica.wait() == 0

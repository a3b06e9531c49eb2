"""The operator's sockets at the port, beside a stand-in for Envoy in this process."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
from support.installation import free_ports

from cortex_operator.gateway.relay import Relay
from cortex_operator.gateway.standby import Standby

NAME = "relays.sock"


class Envoy:
    """Answers each connection, once its client has said all, with its own name and what the client said."""

    def __init__(self, folder: Path, port: int) -> None:
        self._folder = folder
        self._port = port
        self._servers: list[asyncio.Server] = []

    def net_connections(self, kind: str) -> Any:
        raise psutil.AccessDenied(msg=f"{kind} connections are nobody's business")

    async def start(self) -> None:
        direct = socket.socket()
        direct.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        direct.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        direct.bind(("127.0.0.1", self._port))
        self._servers = [
            await asyncio.start_server(self._answering(b"direct "), sock=direct),
            await asyncio.start_unix_server(self._answering(b""), self._folder / NAME),
        ]

    async def die(self) -> None:
        for server in self._servers:
            server.close()
            await server.wait_closed()

    def _answering(
        self, name: bytes
    ) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(name + await reader.read())
            with contextlib.suppress(ConnectionError):
                await writer.drain()
            writer.close()

        return answer


@contextlib.asynccontextmanager
async def standing_by(folder: Path, port: int) -> AsyncIterator[Standby]:
    standby = Standby("127.0.0.1", port, sockets=1, relay=Relay(folder, NAME))
    standby.claim()
    try:
        yield standby
    finally:
        await standby.close()


async def say(port: int, words: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(words)
    writer.write_eof()
    answer = await reader.read()
    writer.close()
    return answer


def test_a_relay_hands_on_every_byte_and_each_end_for_itself(tmp_path: Path) -> None:
    async def scenario() -> None:
        (port,) = free_ports(1)
        words = bytes(range(256)) * 20_000
        async with standing_by(tmp_path, port):
            waiting = asyncio.create_task(say(port, words))
            await asyncio.sleep(0.05)
            envoy = Envoy(tmp_path, port)
            await envoy.start()
            line, _, rest = (await asyncio.wait_for(waiting, 10)).partition(b"\r\n")
            assert line.startswith(b"PROXY TCP4 127.0.0.1 127.0.0.1 ")
            assert line.endswith(b" %d" % port)
            assert rest == words
            await envoy.die()

    asyncio.run(scenario())


def test_where_sockets_cannot_be_duplicated_nobody_is_refused_either(tmp_path: Path) -> None:
    async def scenario() -> None:
        (port,) = free_ports(1)
        async with standing_by(tmp_path, port) as standby:
            for _ in range(3):
                envoy = Envoy(tmp_path, port)
                await envoy.start()
                await standby.stand_by(envoy)  # type: ignore[arg-type]  # as far as it is asked
                for _ in range(30):
                    assert await say(port, b"?") == b"direct ?"
                await envoy.die()
                standby.claim()
                waiting = [asyncio.create_task(say(port, b"?")) for _ in range(30)]
                await asyncio.sleep(0.05)
                envoy = Envoy(tmp_path, port)
                await envoy.start()
                answers = await asyncio.wait_for(asyncio.gather(*waiting), 10)
                assert {answer.rpartition(b"\r\n")[2] for answer in answers} == {b"?"}
                await envoy.die()
        with pytest.raises(ConnectionRefusedError):
            await say(port, b"?")

    asyncio.run(scenario())


def test_of_many_who_claim_a_port_at_once_at_most_one_gets_it(tmp_path: Path) -> None:
    rounds, claimants = 100, 4
    ports = free_ports(rounds)
    together = threading.Barrier(claimants)

    async def wins(port: int) -> bool:
        standby = Standby("127.0.0.1", port, sockets=1, relay=Relay(tmp_path, NAME))
        together.wait(30)
        try:
            standby.claim()
        except OSError:
            return False
        else:
            return True
        finally:
            together.wait(30)
            await standby.close()

    def claim_all() -> list[bool]:
        return [asyncio.run(wins(port)) for port in ports]

    with ThreadPoolExecutor(claimants) as pool:
        results = [claimant.result(60) for claimant in [pool.submit(claim_all) for _ in range(claimants)]]
    winners = [sum(each) for each in zip(*results, strict=True)]
    assert max(winners) == 1

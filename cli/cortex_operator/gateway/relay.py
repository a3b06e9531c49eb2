"""Hands connections that arrived while Envoy was dead to the next Envoy, byte for byte, until they end.

That happens soon: Envoy ends a relayed connection after one answer, and the client's next one is direct.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from pathlib import Path

from cortex_operator.gateway.short_path import short_path

PATIENCE = 5.0
"""Seconds a connection waits for Envoy before it is closed."""
LINGER = 1.0
"""Seconds a client has to close first when Envoy has ended a relayed connection, as it has with Envoy itself: what
it sends after we closed would make its system drop the end of the answer."""
MOST = 256
"""Each takes two files, of which an operator often may have 1024; more connections wait in the kernel."""
CHUNK = 64 * 1024
POLL = 0.005


class Relay:
    """Relays to one gateway's Envoy.

    Args:
        folder, name: Envoy's Unix socket for relayed connections, each of which begins with a PROXY line.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._name = name
        self._relayed: set[asyncio.Task[None]] = set()
        self._turn = asyncio.Lock()

    async def accept(self, listener: socket.socket) -> None:
        """Relay whoever connects, until cancelled; what was accepted goes on then."""
        while True:
            if len(self._relayed) >= MOST:
                await asyncio.wait(self._relayed, return_when=asyncio.FIRST_COMPLETED)
            try:
                client, _ = await asyncio.get_running_loop().sock_accept(listener)
            except OSError:  # it is gone already, or we have no file left
                await asyncio.sleep(POLL)
                continue
            task = asyncio.create_task(self._relay(client))
            self._relayed.add(task)
            task.add_done_callback(self._relayed.discard)

    async def close(self) -> None:
        """Cut what is relayed."""
        relayed = list(self._relayed)
        for task in relayed:
            task.cancel()
        await asyncio.gather(*relayed, return_exceptions=True)

    async def _relay(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError, asyncio.TimeoutError):
            from_client, to_client = await asyncio.open_connection(sock=client)
            with contextlib.closing(to_client):
                from_envoy, to_envoy = await asyncio.wait_for(self._reach_envoy(), PATIENCE)
                with contextlib.closing(to_envoy):
                    to_envoy.write(_proxy_line(client))
                    asking = asyncio.create_task(_pump(from_client, to_envoy))
                    await _pump(from_envoy, to_client)
                    await asyncio.wait({asking}, timeout=LINGER)

    async def _reach_envoy(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection to Envoy, as soon as it accepts any. One of those who wait tries, for all."""
        async with self._turn:
            while True:
                with contextlib.suppress(OSError), short_path(self._folder) as folder:
                    return await asyncio.open_unix_connection(f"{folder}/{self._name}")
                await asyncio.sleep(POLL)


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    """Hand on everything and then the end; a connection that breaks ends too."""
    with contextlib.suppress(OSError):
        while chunk := await source.read(CHUNK):
            sink.write(chunk)
            await sink.drain()
    with contextlib.suppress(OSError):
        sink.write_eof()


def _proxy_line(client: socket.socket) -> bytes:
    """Tells Envoy who is at the other end."""
    (peer, peer_port), (address, port) = client.getpeername()[:2], client.getsockname()[:2]
    family = "TCP6" if client.family == socket.AF_INET6 else "TCP4"
    return f"PROXY {family} {peer} {address} {peer_port} {port}\r\n".encode()

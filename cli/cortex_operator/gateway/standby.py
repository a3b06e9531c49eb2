"""Answers at the gateway's port while Envoy is dead: who connects then waits, and is relayed to the next Envoy.

    clients ─▶ port ─┬─▶ Envoy, while it lives
                     └─▶ ours, while it is dead ─▶ relay ─▶ the next Envoy's listener for relays

We hold duplicates of Envoy's listening sockets. When Envoy dies they live on, so nobody is refused; what they get
is ours then. The next Envoy opens its own sockets beside them (SO_REUSEPORT), the kernel is told to lead everybody
there, and ours are closed. Envoy ends a relayed connection after one answer: the client's next one is direct.

Only Linux can do this. Elsewhere `claim` merely makes sure that the port is free.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import select
import socket
import struct
import sys
from collections.abc import Collection
from pathlib import Path

import psutil

from cortex_operator.gateway.short_path import short_path

POSSIBLE = sys.platform == "linux"

PATIENCE = 5.0
"""Seconds a connection waits for Envoy before it is closed."""
LINGER = 30.0
"""Seconds a client has to read the rest and to close, once Envoy has ended a relayed connection."""
HANDSHAKE = 0.05
"""Seconds a handshake that began at one of our sockets may take."""
MOST_RELAYED = 256
"""Each takes two files, of which an operator often may have 1024; more connections wait in the kernel."""
BACKLOG = 4096
CHUNK = 64 * 1024
POLL = 0.005

_SYS_PIDFD_GETFD = 438
_SO_ATTACH_REUSEPORT_CBPF = 51


class Standby:
    """Our sockets at the gateway's port.

    Args:
        address, port: where Envoy listens, with so many `sockets`.
        folder, relays: its Unix socket for relayed connections, each of which begins with a PROXY line.
    """

    def __init__(self, address: str, port: int, *, sockets: int, folder: Path, relays: str) -> None:
        self._address = address
        self._port = port
        self._sockets = sockets
        self._folder = folder
        self._relays = relays
        self._ours: list[socket.socket] = []
        self._accepting: list[asyncio.Task[None]] = []
        self._relayed: set[asyncio.Task[None]] = set()
        self._turn = asyncio.Lock()

    def claim(self) -> None:
        """Have the port, and let all wait who connect, until there is an Envoy to `stand_by`.

        Raises:
            OSError: somebody else has the port.
        """
        if not self._ours:
            self._ours = _alone_at(self._address, self._port)
        if not self._accepting:
            self._accepting = [asyncio.create_task(self._accept(each)) for each in self._ours]

    async def stand_by(self, envoy: psutil.Process) -> None:
        """Leave the port to an Envoy that listens there, ready for its death."""
        if not POSSIBLE:
            return
        try:
            self._lead_past_ours()
        except OSError:  # better refused for a moment after a death than relayed all the time
            await self._leave()
        with contextlib.suppress(OSError, psutil.Error):  # not allowed: what we have stays, e.g. from `claim`
            duplicates = _listening(envoy, self._port, self._sockets)
            await self._accept_the_last()
            await self._leave()
            self._ours = duplicates

    async def close(self) -> None:
        """Leave the port and cut what is relayed."""
        await self._leave()
        await _cancel(self._relayed)

    # --- the port -------------------------------------------------------------------------------------------

    def _lead_past_ours(self) -> None:
        """Envoy's sockets came to the port after ours: let the kernel choose one of them."""
        if self._ours:
            program = ctypes.create_string_buffer(_one_of(self._sockets, first=len(self._ours)))
            described = struct.pack("HP", len(program) // 8, ctypes.addressof(program))
            self._ours[0].setsockopt(socket.SOL_SOCKET, _SO_ATTACH_REUSEPORT_CBPF, described)

    async def _accept_the_last(self) -> None:
        waiting = select.poll()
        for each in self._ours:
            waiting.register(each, select.POLLIN)
        deadline = asyncio.get_running_loop().time() + PATIENCE
        await asyncio.sleep(HANDSHAKE if self._ours else 0)
        while waiting.poll(0) and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(POLL)

    async def _leave(self) -> None:
        await _cancel(self._accepting)
        for each in self._ours:
            each.close()
        self._ours, self._accepting = [], []

    # --- relaying -------------------------------------------------------------------------------------------

    async def _accept(self, listener: socket.socket) -> None:
        while True:
            if len(self._relayed) >= MOST_RELAYED:
                await asyncio.wait(self._relayed, return_when=asyncio.FIRST_COMPLETED)
            try:
                client, _ = await asyncio.get_running_loop().sock_accept(listener)
            except OSError:  # it is gone already, or we have no file left
                await asyncio.sleep(POLL)
                continue
            relay = asyncio.create_task(self._relay(client))
            self._relayed.add(relay)
            relay.add_done_callback(self._relayed.discard)

    async def _relay(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError, asyncio.TimeoutError):
            from_envoy, to_envoy = await asyncio.wait_for(self._reach_envoy(), PATIENCE)
            try:
                to_envoy.write(_proxy_line(client))
                from_client, to_client = await asyncio.open_connection(sock=client)
                asking = asyncio.create_task(_pump(from_client, to_envoy))
                try:
                    await _pump(from_envoy, to_client)
                    await asyncio.wait({asking}, timeout=LINGER)
                finally:
                    asking.cancel()
                    to_client.transport.abort()
            finally:
                to_envoy.transport.abort()

    async def _reach_envoy(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection to Envoy, as soon as it accepts any. One of those who wait tries, for all."""
        async with self._turn:
            while True:
                with contextlib.suppress(OSError), short_path(self._folder) as folder:
                    return await asyncio.open_unix_connection(f"{folder}/{self._relays}")
                await asyncio.sleep(POLL)


def _alone_at(address: str, port: int) -> list[socket.socket]:
    """A listening socket that others may share the port with from now on; none where we could not use it."""
    with contextlib.ExitStack() as failed:
        listener = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
        failed.callback(listener.close)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setblocking(False)
        listener.bind((address, port))
        listener.listen(BACKLOG)
        if not POSSIBLE:
            return []
        # Only now: of several who do this at the same time, at most one gets to listen.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        failed.pop_all()
    return [listener]


def _listening(process: psutil.Process, port: int, count: int) -> list[socket.socket]:
    """Duplicates of the sockets with which a process listens.

    Raises:
        OSError: the kernel does not allow it, or they are not as many as they should be.
    """
    theirs = [
        each.fd
        for each in process.net_connections("tcp")
        if each.status == psutil.CONN_LISTEN and each.laddr[1] == port
    ]
    if len(theirs) != count:
        raise OSError(f"process {process.pid} listens on port {port} with {len(theirs)} sockets")
    pidfd = os.pidfd_open(process.pid)
    try:
        return [socket.socket(fileno=_duplicate(pidfd, each)) for each in theirs]
    finally:
        os.close(pidfd)


def _duplicate(pidfd: int, descriptor: int) -> int:
    duplicate: int = ctypes.CDLL(None, use_errno=True).syscall(_SYS_PIDFD_GETFD, pidfd, descriptor, 0)
    if duplicate < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return duplicate


def _one_of(count: int, *, first: int) -> bytes:
    """A program for the kernel: at which place among all sockets at the port is the one to take."""
    instructions = (
        (0x20, 0xFFFFF038),  # A = a random number
        (0x94, count),  # A = A % count
        (0x04, first),  # A = A + first
        (0x16, 0),  # return A
    )
    return b"".join(struct.pack("HBBI", code, 0, 0, operand) for code, operand in instructions)


def _proxy_line(client: socket.socket) -> bytes:
    """Tells Envoy who is at the other end."""
    (peer, peer_port), (address, port) = client.getpeername()[:2], client.getsockname()[:2]
    family = "TCP6" if client.family == socket.AF_INET6 else "TCP4"
    return f"PROXY {family} {peer} {address} {peer_port} {port}\r\n".encode()


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    """Hand on everything and then the end; a connection that breaks ends too."""
    with contextlib.suppress(OSError):
        while chunk := await source.read(CHUNK):
            sink.write(chunk)
            await sink.drain()
    with contextlib.suppress(OSError):
        sink.write_eof()


async def _cancel(tasks: Collection[asyncio.Task[None]]) -> None:
    tasks = list(tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)

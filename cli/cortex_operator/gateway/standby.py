"""Answers at the gateway's port while Envoy is dead: who connects then waits, and is relayed to the next Envoy.

    clients ─▶ port ─┬─▶ Envoy, while it lives
                     └─▶ ours, while it is dead ─▶ relay ─▶ the next Envoy

We hold duplicates of Envoy's listening sockets. When Envoy dies they live on, so nobody is refused; whoever connects
is ours then. The next Envoy opens its own sockets beside them (SO_REUSEPORT), the kernel is told to lead everybody
there, and ours are closed.

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

import psutil

from cortex_operator.gateway.relay import PATIENCE, Relay

HANDSHAKE = 0.05
"""Seconds that a handshake which began at one of our sockets may take."""
BACKLOG = 4096
POLL = 0.005

_LINUX = sys.platform == "linux"
_SYS_PIDFD_GETFD = 438
_SO_ATTACH_REUSEPORT_CBPF = 51


class Standby:
    """Our sockets at the gateway's port.

    Args:
        address, port: where Envoy listens, with so many `sockets`.
        relay: what takes those who connect while Envoy is dead.
    """

    def __init__(self, address: str, port: int, *, sockets: int, relay: Relay) -> None:
        self._address = address
        self._port = port
        self._sockets = sockets
        self._relay = relay
        self._ours: list[socket.socket] = []
        self._accepting: list[asyncio.Task[None]] = []

    def claim(self) -> None:
        """Have the port, and let all wait who connect, until there is an Envoy to `stand_by`.

        Raises:
            OSError: somebody else has the port.
        """
        if not self._ours:
            self._ours = _alone_at(self._address, self._port)
        if not self._accepting:
            self._accepting = [self._accept(each) for each in self._ours]

    async def stand_by(self, envoy: psutil.Process) -> None:
        """Leave the port to an Envoy that listens there, ready for its death."""
        with contextlib.suppress(OSError, psutil.Error):  # not allowed: what we have stays, e.g. from `claim`
            self._lead_past_ours()
            await self._have(_listening(envoy, self._port, self._sockets))

    async def close(self) -> None:
        """Leave the port and cut what is relayed."""
        await self._have([])
        await self._relay.close()

    def _lead_past_ours(self) -> None:
        """Envoy's sockets came to the port after ours: let the kernel choose one of them."""
        if self._ours:
            program = ctypes.create_string_buffer(_one_of(self._sockets, first=len(self._ours)))
            described = struct.pack("HP", len(program) // 8, ctypes.addressof(program))
            self._ours[0].setsockopt(socket.SOL_SOCKET, _SO_ATTACH_REUSEPORT_CBPF, described)

    def _accept(self, listener: socket.socket) -> asyncio.Task[None]:
        task = asyncio.create_task(self._relay.accept(listener))
        task.add_done_callback(lambda _: listener.close())  # not before: the loop still watches it
        return task

    async def _have(self, sockets: list[socket.socket]) -> None:
        """Have these from now on, and close what we had."""
        ours, self._ours = self._ours, sockets
        accepting, self._accepting = self._accepting, []
        if not accepting:
            for each in ours:
                each.close()
            return
        try:
            await _accepted(ours)
        finally:
            for task in accepting:
                task.cancel()
            await asyncio.gather(*accepting, return_exceptions=True)


async def _accepted(listeners: list[socket.socket]) -> None:
    """Wait until everybody who connected here before they were led elsewhere is accepted."""
    waiting = select.poll()
    for each in listeners:
        waiting.register(each, select.POLLIN)
    await asyncio.sleep(HANDSHAKE)
    deadline = asyncio.get_running_loop().time() + PATIENCE
    while waiting.poll(0) and asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(POLL)
    await asyncio.sleep(0)  # the last one gets from the socket to the relay


def _alone_at(address: str, port: int) -> list[socket.socket]:
    """A listening socket that others may share the port with from now on; none where we could not use it."""
    with contextlib.ExitStack() as failed:
        listener = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
        failed.callback(listener.close)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setblocking(False)
        listener.bind((address, port))
        listener.listen(BACKLOG)
        if not _LINUX:
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
    if not _LINUX or len(theirs) != count:
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

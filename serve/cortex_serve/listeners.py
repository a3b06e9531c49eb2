"""The listening sockets of a replica: one port, a socket for each worker.

All are opened by the supervisor and stay open as long as it runs, so while a worker is dead its socket keeps
the connections that wait, and nobody is refused. The kernel spreads connections evenly over the sockets; were
it one socket, whichever worker wakes up first would get nearly all of them. `prefer` has it leave out the
sockets of workers that do not accept.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
from collections.abc import Sequence

BACKLOG = 1024
"""Connections that wait while no worker accepts."""

MAX_CONNECTIONS = 4096
"""Open connections of one worker; more wait in the backlog."""

_SO_ATTACH_REUSEPORT_CBPF = 51
_LOAD_RANDOM = (0x20, 0, 0, 0xFFFFF000 + 56)
_MODULO = 0x94
_JUMP_IF_EQUAL = 0x15
_RETURN = 0x06

_Instruction = tuple[int, int, int, int]


class Listeners:
    """Bound, listening sockets on one port.

    Args:
        host: address to listen on.
        port: 0 is any free one.
        count: how many sockets.

    Attributes:
        sockets: as many as asked for.
        address: host and port.

    Raises:
        OSError: the address cannot be used, or somebody listens there already.
    """

    def __init__(self, host: str, port: int, count: int) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            with socket.create_server((host, port), family=family) as exclusive:
                port = exclusive.getsockname()[1]
            self.sockets = [_listen(host, port, family) for _ in range(count)]
        except OSError as error:
            raise OSError(f"cannot listen on {host}:{port}: {os.strerror(error.errno or 0)}") from error
        self.address: tuple[str, int] = (host, port)

    def prefer(self, numbers: Sequence[int]) -> bool:
        """Give new connections to these sockets only, or to all if there are none.

        Returns:
            Whether that is so; on a kernel that cannot, connections wait for the worker they were given to.
        """
        if len(self.sockets) > 1:
            try:
                _attach(self.sockets[0], _choose_among(numbers or range(len(self.sockets))))
            except OSError:
                return False
        return True

    def close(self) -> None:
        for each in self.sockets:
            each.close()


def _listen(host: str, port: int, family: socket.AddressFamily) -> socket.socket:
    listener = socket.create_server((host, port), family=family, backlog=BACKLOG, reuse_port=True)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # accepted connections inherit it
    return listener


def _choose_among(numbers: Sequence[int]) -> list[_Instruction]:
    """A BPF program that returns one of the numbers, at random."""
    *others, last = numbers
    program = [_LOAD_RANDOM, (_MODULO, 0, 0, len(numbers))]
    for index, number in enumerate(others):
        program += [(_JUMP_IF_EQUAL, 0, 1, index), (_RETURN, 0, 0, number)]
    return [*program, (_RETURN, 0, 0, last)]


def _attach(listener: socket.socket, program: Sequence[_Instruction]) -> None:
    instructions = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *each) for each in program))
    option = struct.pack("HP", len(program), ctypes.addressof(instructions))
    listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_REUSEPORT_CBPF, option)

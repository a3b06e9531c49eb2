"""The ports of a replica, and a listening socket for each worker.

Each worker has a port of its own, so that whoever sends requests can choose among workers:

    worker      listens on a socket that nobody else has: when it dies, the kernel refuses connections at once,
                and who was refused goes to another worker
    starting    the socket is bound but does not listen; the worker has it listen just before it serves. One whose
                handler is built by its first request serves before it is ready: while others are, it is known to
                nobody but who sends that request
    nobody      while no worker is ready, the socket of the one that starts listens, and connections wait there

Several workers can share a port instead, and a lone worker is treated like them: their sockets listen from the
beginning and stay open here, so connections wait for workers that start again. The kernel spreads them evenly over
the sockets; were it one socket, whichever worker wakes up first would get nearly all of them. `prefer` has it
leave out the sockets of workers that do not accept.

Each port is held from the beginning by a socket that never listens, so nobody else is given it meanwhile.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
from collections.abc import Collection, Sequence
from contextlib import suppress

BACKLOG = 1024
"""Connections that wait while no worker accepts."""

MAX_CONNECTIONS = 4096
"""Open connections of one worker; more wait in the backlog."""

_SO_ATTACH_REUSEPORT_CBPF = 51
_LOAD_BYTE, _LOAD_HALF, _AND = 0x30, 0x28, 0x54
_LOAD_RANDOM = (0x20, 0, 0, 0xFFFFF000 + 56)
_MODULO = 0x94
_JUMP_IF_EQUAL = 0x15
_RETURN = 0x06

_Instruction = tuple[int, int, int, int]

_SO_ATTACH_FILTER, _SO_DETACH_FILTER = 26, 27
_NOBODY = 0
_UNACKED = 24
"""Where `struct tcp_info` has, of a listening socket, the number of those who wait."""


class Listeners:
    """Where workers listen; they are numbered from 1.

    Args:
        host: address to listen on.
        ports: one for each worker, or one that all share. 0 is any free one, for each.
        workers: how many.
        listen: False when the workers open sockets of their own; then the ports are only held for them.

    Attributes:
        addresses: host and port of each worker.
        can_choose: whether connections can be kept from a worker; if not, they wait for the one they were given to.

    Raises:
        ValueError: so many ports do not fit so many workers.
        OSError: an address cannot be used, or somebody listens there already.
    """

    def __init__(self, host: str, ports: Sequence[int], workers: int, *, listen: bool = True) -> None:
        wanted = list(ports) * workers if list(ports) == [0] else list(ports)
        if len(wanted) not in (1, workers):
            given = f"got {len(wanted)} ports, and processes_per_replica is {workers}"
            raise ValueError(f"{given}: give one for each process, or one for all")
        self._holders = [_hold(host, port) for port in wanted]
        numbers = [holder.getsockname()[1] for holder in self._holders]
        if len(set(numbers)) < len(numbers):
            raise ValueError(f"each process needs a port of its own, got {', '.join(map(str, numbers))}")
        self.addresses = [(host, number) for number in numbers] * (workers // len(numbers))
        self._everyone = range(1, workers + 1)
        self._listen = listen
        self._stay = len(numbers) == 1
        self._sockets: dict[int, socket.socket] = {}
        self._waited_at: int | None = None
        if listen and self._stay:
            self._listen_for_everyone()
        self.can_choose = self._choose(self._everyone)

    def lend(self, worker: int) -> socket.socket | None:
        """The socket for a worker that is about to be started; None if it opens one itself."""
        if self._listen and worker not in self._sockets:
            self._sockets[worker] = _bound(*self.addresses[worker - 1])
        return self._sockets.get(worker)

    def only(self, worker: int, *, caller: int) -> None:
        """Give new connections to this one, until `prefer` or `wait_at` is called.

        On a port of its own, it gets none but the caller's until it is ready, unless those who connect wait there.

        Args:
            caller: port that the connection comes from.
        """
        if self._stay:
            self._choose([worker])
        elif worker != self._waited_at:
            with suppress(OSError):
                _ignore_newcomers(self._sockets[worker], but=caller)

    def prefer(self, workers: Collection[int]) -> None:
        """Give new connections to these workers, which are ready."""
        if self._stay:
            self._choose(sorted(workers))
            return
        if self._waited_at in self._sockets:
            turn_away(self._sockets[self._waited_at].fileno())
        self._waited_at = None
        for worker in workers:
            self.heed(worker)
            self.let_go(worker)

    def wait_at(self, worker: int) -> None:
        """While no worker is ready, have new connections wait for this one, which should be the next that is. On ports of
        their own it is always the first one that is named, for those who wait already."""
        if self._stay:
            self._choose([worker])
        elif self._waited_at is None:
            with suppress(OSError):  # no descriptors, say: those are refused who would have waited
                if (lent := self.lend(worker)) is not None:
                    self.heed(worker)
                    lent.listen(BACKLOG)
                    self._waited_at = worker

    def heed(self, worker: int) -> None:
        """Let in again whom the worker on this socket turned away, or was not ready for."""
        if worker in self._sockets:
            let_in(self._sockets[worker].fileno())

    def let_go(self, worker: int) -> None:
        """Close what is open here of a worker's own port: it listens for as long as the worker lives."""
        if not self._stay and worker in self._sockets:
            self._sockets.pop(worker).close()

    def close(self) -> None:
        for each in (*self._holders, *self._sockets.values()):
            each.close()
        self._sockets.clear()

    def _listen_for_everyone(self) -> None:
        for worker in self._everyone:
            if (lent := self.lend(worker)) is not None:
                lent.listen(BACKLOG)

    def _choose(self, workers: Sequence[int]) -> bool:
        """Have the kernel choose among these sockets; it numbers them in the order in which they listened."""
        if len(self._sockets) > 1:
            try:
                _attach(self._sockets[1], _choose_among([worker - 1 for worker in workers]))
            except OSError:
                return False
        return True


def turn_away(listener: int) -> None:
    """Have the kernel ignore whoever wants to connect from now on; those who are connected can still be accepted.

    They try again after a second, or give up as soon as they like and try elsewhere.

    Args:
        listener: descriptor of a listening socket.
    """
    with suppress(OSError), _shared(listener) as ours:
        _ignore_newcomers(ours, but=_NOBODY)


def let_in(listener: int) -> None:
    """Undo `turn_away`."""
    with suppress(OSError), _shared(listener) as ours:
        ours.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)


def waiting(listener: int) -> int:
    """How many connections have not been accepted yet."""
    with _shared(listener) as ours:
        (count,) = struct.unpack_from(
            "I", ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104), _UNACKED
        )
    assert isinstance(count, int)
    return count


def _shared(listener: int) -> socket.socket:
    return socket.socket(fileno=os.dup(listener))


def _hold(host: str, port: int) -> socket.socket:
    try:
        holder = _bound(host, port)
        with socket.create_server(holder.getsockname()[:2], family=holder.family):
            return holder  # nobody else listens there, else this had failed
    except OSError as error:
        raise OSError(f"cannot listen on {host}:{port}: {os.strerror(error.errno or 0)}") from error


def _bound(host: str, port: int) -> socket.socket:
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # accepted connections inherit it
        bound.bind((host, port))
    except OSError:
        bound.close()
        raise
    return bound


def _choose_among(numbers: Sequence[int]) -> list[_Instruction]:
    """A BPF program that returns one of the numbers, at random."""
    *others, last = numbers
    program = [_LOAD_RANDOM, (_MODULO, 0, 0, len(numbers))]
    for index, number in enumerate(others):
        program += [(_JUMP_IF_EQUAL, 0, 1, index), (_RETURN, 0, 0, number)]
    return [*program, (_RETURN, 0, 0, last)]


def _ignore_newcomers(listener: socket.socket, *, but: int) -> None:
    """Have the kernel drop what begins a connection (SYN without ACK), unless it comes from this port."""
    program: tuple[_Instruction, ...] = (
        (_LOAD_BYTE, 0, 0, 13),  # the flags of the TCP header
        (_AND, 0, 0, 0x12),  # of these, SYN and ACK
        (_JUMP_IF_EQUAL, 0, 3, 0x02),
        (_LOAD_HALF, 0, 0, 0),  # the port it comes from
        (_JUMP_IF_EQUAL, 1, 0, but),
        (_RETURN, 0, 0, 0),
        (_RETURN, 0, 0, 0xFFFFFFFF),
    )
    _set_program(listener, _SO_ATTACH_FILTER, program)


def _attach(listener: socket.socket, program: Sequence[_Instruction]) -> None:
    _set_program(listener, _SO_ATTACH_REUSEPORT_CBPF, program)


def _set_program(listener: socket.socket, option: int, program: Sequence[_Instruction]) -> None:
    instructions = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *each) for each in program))
    value = struct.pack("HP", len(program), ctypes.addressof(instructions))
    listener.setsockopt(socket.SOL_SOCKET, option, value)

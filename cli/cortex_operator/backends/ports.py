"""TCP ports of replicas: chosen by the kernel, and held between restarts."""

from __future__ import annotations

import socket
from contextlib import ExitStack

HOST = "127.0.0.1"


class Port:
    """A port that stays ours.

    While it is held, a socket is bound to it that never listens. Linux lets a server bind the same port and
    listen when it sets `SO_REUSEADDR` or `SO_REUSEPORT`, as ours do, but gives the port to nobody who asks
    for any port and to no outgoing connection. Who connects while nobody listens is refused, and may retry.
    """

    def __init__(self, number: int, holder: socket.socket | None) -> None:
        self.number = number
        self._holder = holder

    @classmethod
    def choose(cls, count: int) -> tuple[Port, ...]:
        """Hold so many ports that were free.

        Raises:
            OSError: there are not so many; none is held.
        """
        with ExitStack() as undo:
            holders = [undo.enter_context(_bound(0)) for _ in range(count)]
            undo.pop_all()
        return tuple(cls(holder.getsockname()[1], holder) for holder in holders)

    @classmethod
    def in_use(cls, number: int) -> Port:
        """The port on which a process of ours listens already; it can be held once that has ended."""
        return cls(number, None)

    def hold(self) -> bool:
        """Hold it if it is not held yet; False if it belongs to somebody else now."""
        if self._holder is None:
            try:
                self._holder = _bound(self.number)
            except OSError:
                return False
        return True

    def release(self) -> None:
        """Let go of it."""
        if self._holder is not None:
            self._holder.close()
            self._holder = None


def _bound(number: int) -> socket.socket:
    holder = socket.socket()
    try:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        holder.bind((HOST, number))
    except OSError:
        holder.close()
        raise
    return holder

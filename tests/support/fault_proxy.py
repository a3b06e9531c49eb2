"""Between an S3 client and its server: forwards bytes untouched, so signatures stay valid, but for chosen faults."""

from __future__ import annotations

import re
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

_WAIT_SECONDS = 60
_LENGTH = rb"(?i)\r\ncontent-length: *(\d+)"
_ERROR = '<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>{code}.</Message></Error>'


@dataclass(kw_only=True)
class Fault:
    """What happens to the next requests that match.

    Attributes:
        match: a regular expression for the request's head.
        times: how many requests; a big number: all.
        answer: status and code of an error that is answered instead.
        reset: the connection is reset instead of an answer.
        hang: nothing is answered.
        break_error: an error is answered whose body breaks off.
        cut: the connection ends after so many bytes of the body.
        drip: the body comes byte by byte, one each so many seconds.
        flip: one bit of the body's last byte is changed.
        rewrite: makes the answer's body that is sent from the one that came.
        before: called before the request is forwarded.
    """

    match: str = ""
    times: int = 1
    answer: tuple[int, str] | None = None
    reset: bool = False
    hang: bool = False
    break_error: bool = False
    cut: int | None = None
    drip: float | None = None
    flip: bool = False
    rewrite: Callable[[bytes], bytes] | None = None
    before: Callable[[], object] | None = None


@dataclass
class FaultProxy:
    """`requests` are the heads of all that came, in order.

    `choose` says which fault a request meets that none of those added is for. Once `calm` is set, nothing hangs or
    drips any more: what did is reset.
    """

    port: int
    upstream: int
    choose: Callable[[str], Fault] = field(default=lambda _: Fault())
    requests: list[str] = field(default_factory=list)
    _faults: list[Fault] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    closed: threading.Event = field(default_factory=threading.Event)
    calm: threading.Event = field(default_factory=threading.Event)

    def add(self, fault: Fault) -> None:
        with self._lock:
            self._faults.append(fault)

    def clear(self) -> None:
        with self._lock:
            self._faults.clear()

    def count(self, pattern: str) -> int:
        return sum(re.search(pattern, head) is not None for head in self.requests)

    def fault_of(self, head: str) -> Fault:
        with self._lock:
            self.requests.append(head)
            for fault in self._faults:
                if fault.times > 0 and re.search(fault.match, head):
                    fault.times -= 1
                    return fault
            return self.choose(head)


@contextmanager
def fault_proxy(upstream: int) -> Iterator[FaultProxy]:
    """A proxy in front of a port of 127.0.0.1."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        proxy = FaultProxy(listener.getsockname()[1], upstream)
        accepting = threading.Thread(target=_accept, args=(listener, proxy), daemon=True)
        accepting.start()
        try:
            yield proxy
        finally:
            proxy.closed.set()
            proxy.calm.set()
            accepting.join()


def _accept(listener: socket.socket, proxy: FaultProxy) -> None:
    while not proxy.closed.is_set():
        if select.select([listener], [], [], 0.05)[0]:
            connection, _ = listener.accept()
            connection.settimeout(_WAIT_SECONDS)
            threading.Thread(target=_serve, args=(connection, proxy), daemon=True).start()


def _serve(client: socket.socket, proxy: FaultProxy) -> None:
    with client, suppress(OSError):
        while head := _head(client):
            if not _exchange(client, head, proxy):
                return


def _head(connection: socket.socket) -> bytes:
    """All lines up to the empty one; nothing when the other side has closed."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = connection.recv(1)
        if not byte:
            return b""
        head += byte
    return head


def _exchange(client: socket.socket, head: bytes, proxy: FaultProxy) -> bool:
    """One request; whether the connection can be used for another."""
    fault = proxy.fault_of(head.decode("latin-1"))
    if fault.before is not None:
        fault.before()
    if fault.reset:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return False
    if fault.hang:
        proxy.calm.wait(_WAIT_SECONDS)
        return False
    if fault.break_error:
        client.sendall(b"HTTP/1.1 412 Fault\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n<?xml")
        return False
    if fault.answer is not None:
        client.sendall(_error(*fault.answer, with_body=not head.startswith(b"HEAD")))
        return False
    with socket.create_connection(("127.0.0.1", proxy.upstream), timeout=_WAIT_SECONDS) as server:
        server.sendall(head)
        return _relay(client, server, head, fault, proxy)


def _error(status: int, code: str, *, with_body: bool) -> bytes:
    body = _ERROR.format(code=code).encode()
    head = f"HTTP/1.1 {status} Fault\r\nContent-Type: application/xml\r\nConnection: close\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + (body if with_body else b"")


def _relay(
    client: socket.socket, server: socket.socket, head: bytes, fault: Fault, proxy: FaultProxy
) -> bool:
    """The request's body one way, the answer the other way."""
    while True:
        ready = select.select([client, server], [], [], _WAIT_SECONDS)[0]
        if client in ready and server not in ready:
            data = client.recv(65536)
            if not data:
                return False
            server.sendall(data)
            continue
        if not ready:
            return False
        answer = _head(server)
        if answer.startswith(b"HTTP/1.1 100"):
            client.sendall(answer)
            continue
        break
    if fault.rewrite is not None and answer.startswith(b"HTTP/1.1 200"):
        client.sendall(_rewritten(server, answer, fault.rewrite))
        return False
    client.sendall(answer)
    length = re.search(_LENGTH, answer)
    if head.startswith(b"HEAD"):
        return False
    if length is None:
        return _relay_chunks(client, server, answer)
    return _relay_body(client, server, int(length[1]), fault, proxy)


def _rewritten(server: socket.socket, answer: bytes, rewrite: Callable[[bytes], bytes]) -> bytes:
    """An answer whose length is told, with another body."""
    told = re.search(_LENGTH, answer)
    assert told is not None, answer
    body = b""
    while len(body) < int(told[1]):
        data = server.recv(65536)
        if not data:
            return b""
        body += data
    body = rewrite(body)
    return re.sub(_LENGTH, b"\r\nConnection: close\r\nContent-Length: %d" % len(body), answer) + body


def _relay_chunks(client: socket.socket, server: socket.socket, answer: bytes) -> bool:
    """A body of unknown length: up to the last chunk, or the connection's end."""
    chunked = re.search(rb"(?i)\r\ntransfer-encoding: *chunked", answer) is not None
    end = b""
    while not (chunked and end.endswith(b"0\r\n\r\n")):
        data = server.recv(65536)
        if not data:
            return False
        client.sendall(data)
        end = (end + data)[-5:]
    return True


def _relay_body(
    client: socket.socket, server: socket.socket, size: int, fault: Fault, proxy: FaultProxy
) -> bool:
    allowed = size if fault.cut is None else min(size, fault.cut)
    sent = 0
    while sent < allowed:
        data = server.recv(1 if fault.drip is not None else min(65536, allowed - sent))
        if not data:
            return False
        sent += len(data)
        if fault.flip and sent == size:
            data = data[:-1] + bytes([data[-1] ^ 1])
        client.sendall(data)
        if fault.drip is not None:
            if proxy.calm.is_set():
                return False
            time.sleep(fault.drip)
    return sent == size

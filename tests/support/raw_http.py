"""HTTP/1.1 by hand: requests as bytes that a test may cut and spoil, and answers read with nothing forgiven."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

Address = tuple[str, int]

LIMIT = 256 * 1024
"""Bytes that a connection reads ahead."""


class Ended(Exception):
    """The connection ended before a byte of an answer."""


class Cut(Exception):
    """The connection ended within an answer."""


class Nonsense(Exception):
    """What came is not an HTTP answer."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Attributes: headers: by name in lower case, the last one of each."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def head(path: str, headers: Mapping[str, str], *, method: str = "POST", version: str = "1.1") -> bytes:
    lines = [f"{method} {path} HTTP/{version}", "host: x", *(f"{name}: {headers[name]}" for name in headers)]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def whole(path: str, body: bytes, headers: Mapping[str, str] | None = None, *, version: str = "1.1") -> bytes:
    """A request with a declared length."""
    return head(path, {**(headers or {}), "content-length": str(len(body))}, version=version) + body


def chunked(path: str, pieces: Sequence[bytes], headers: Mapping[str, str] | None = None) -> bytes:
    """A request whose body comes in these chunks."""
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces if piece)
    return head(path, {**(headers or {}), "transfer-encoding": "chunked"}) + chunks + b"0\r\n\r\n"


class Connection:
    """One TCP connection of a client that decides about every byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @staticmethod
    async def open(address: Address) -> Connection:
        reader, writer = await asyncio.open_connection(*address, limit=LIMIT)
        writer.transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return Connection(reader, writer)

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    def half_close(self) -> None:
        """No more is sent, but answers are read."""
        self.writer.write_eof()

    async def close(self) -> None:
        """As most clients do: FIN, or a reset when something was not read."""
        self.writer.close()
        with suppress(OSError):
            await self.writer.wait_closed()

    async def reset(self) -> None:
        """RST, unless the connection has ended anyway."""
        sock = self.writer.transport.get_extra_info("socket")
        with suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()
        await asyncio.sleep(0)

    async def rest(self) -> bytes:
        """Everything until the other side closes."""
        received = b""
        try:
            while piece := await self.reader.read(65536):
                received += piece
        except ConnectionError:
            return received
        return received

    async def answer(self) -> Answer:
        """The next final answer; 100 Continue is passed over.

        Raises:
            Ended, Cut, Nonsense: see there.
        """
        while True:
            answer = await self.any_answer()
            if answer.status != 100:
                return answer

    async def any_answer(self) -> Answer:
        """The next answer, also 100 Continue."""
        status, headers = await self._head()
        try:
            return Answer(status=status, headers=headers, body=await self._body(status, headers))
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise Cut(f"within the body of a {status}") from error

    async def _head(self) -> tuple[int, dict[str, str]]:
        try:
            raw = await self.reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError as error:
            if error.partial:
                raise Cut(f"within the head: {error.partial[:100]!r}") from error
            raise Ended from error
        except ConnectionError as error:
            raise Ended from error
        except asyncio.LimitOverrunError as error:
            raise Nonsense(str(error)) from error
        first, *lines = raw[:-4].decode("latin-1").split("\r\n")
        version, _, rest = first.partition(" ")
        if version not in ("HTTP/1.1", "HTTP/1.0") or not rest[:3].isdigit():
            raise Nonsense(f"{raw[:200]!r}")
        named = (line.partition(":") for line in lines)
        return int(rest[:3]), {name.lower(): value.strip() for name, _, value in named}

    async def _body(self, status: int, headers: Mapping[str, str]) -> bytes:
        if status in (100, 204, 304):
            return b""
        if "content-length" in headers:
            return await self.reader.readexactly(int(headers["content-length"]))
        if headers.get("transfer-encoding") == "chunked":
            return await self._chunks()
        return await self.reader.read(-1)

    async def _chunks(self) -> bytes:
        body = b""
        while True:
            line = await self.reader.readuntil(b"\r\n")
            size = int(line, 16)
            body += await self.reader.readexactly(size)
            if await self.reader.readexactly(2) != b"\r\n":
                raise Nonsense("a chunk is longer than it said")
            if not size:
                return body

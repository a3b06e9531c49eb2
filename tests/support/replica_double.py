"""A stand-in for a replica: a small HTTP server in a process of its own that tells what it was asked.

It answers every request with JSON: `n` of a JSON body, its `version`, the method, the target and the
headers. The query says how: `?seconds=0.5` waits first, `?alone=0.5` works on one request at a time for so long (and
`waited` is how long it waited for others), `?status=418` is the status, `?bytes=1000000` the answer's size.
`GET /seen` (asked for directly, never through a gateway) answers how many other requests arrived.

SIGTERM ends it the way a replica ends: no new connections, requests in flight are finished, then it exits.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import parse_qs, urlsplit


class ReplicaDouble:
    """A running stand-in; `port` is kept by `restart`.

    Args:
        version: what it calls itself in its answers.
    """

    def __init__(self, version: str = "1") -> None:
        self.version = version
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> ReplicaDouble:
        """Start it and return when it listens."""
        argv = [sys.executable, "-S", str(Path(__file__)), self.version, str(self.port)]
        self._process = subprocess.Popen(argv, stdout=subprocess.PIPE, env={"PATH": os.environ["PATH"]})
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        return self

    def terminate(self) -> None:
        """End it gracefully and wait for it."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def seen(self) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        connection.request("GET", "/seen")
        answer = json.loads(connection.getresponse().read())
        connection.close()
        return int(answer["seen"])

    def _end(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(number)
        self._process.wait(15)
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._process = None


class _Server:
    def __init__(self, version: str) -> None:
        self.version = version
        self.requests = 0
        self.working = 0
        self.turn = asyncio.Lock()
        self.ending = asyncio.Event()
        self.writers: set[asyncio.StreamWriter] = set()

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.add(writer)
        try:
            while not self.ending.is_set():
                head = await reader.readuntil(b"\r\n\r\n")
                self.working += 1
                try:
                    await self.answer(head, reader, writer)
                finally:
                    self.working -= 1
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.writers.discard(writer)
            writer.close()

    async def answer(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first, *lines = head.decode("latin-1").rstrip().split("\r\n")
        method, target, _ = first.split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        query = {name: values[-1] for name, values in parse_qs(urlsplit(target).query).items()}
        if target == "/seen":
            content = json.dumps({"seen": self.requests})
        else:
            self.requests += 1
            await asyncio.sleep(float(query.get("seconds", 0)))
            waited = await self.alone(float(query["alone"])) if "alone" in query else 0.0
            content = self.content(method, target, headers, body, query, waited)
        close = "connection: close\r\n" if self.ending.is_set() else ""
        status = query.get("status", "200")
        content = "" if status == "204" else content
        length = "" if status == "204" else f"content-length: {len(content)}\r\n"
        writer.write(
            f"HTTP/1.1 {status} Because\r\ncontent-type: application/json\r\n{close}"
            f"{length}\r\n{content if method != 'HEAD' else ''}".encode()
        )
        await writer.drain()

    async def alone(self, seconds: float) -> float:
        """Work on one request at a time; answers how long this one waited."""
        arrived = time.monotonic()
        async with self.turn:
            waited = time.monotonic() - arrived
            await asyncio.sleep(seconds)
        return waited

    def content(
        self,
        method: str,
        target: str,
        headers: dict[str, str],
        body: bytes,
        query: dict[str, str],
        waited: float,
    ) -> str:
        if "bytes" in query:
            return "x" * int(query["bytes"])
        n = json.loads(body)["n"] if headers.get("content-type") == "application/json" else None
        told = {"n": n, "version": self.version, "method": method, "target": target, "length": len(body)}
        return json.dumps({**told, "waited": waited, "headers": headers})

    async def serve(self, port: int) -> None:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        server = await asyncio.start_server(self.connection, sock=listener, backlog=1024)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self.ending.set)
        print(listener.getsockname()[1], flush=True)
        await self.ending.wait()
        server.close()
        while self.working:
            await asyncio.sleep(0.01)
        for writer in list(self.writers):
            writer.close()
        while self.writers:
            await asyncio.sleep(0.01)


if __name__ == "__main__":
    asyncio.run(_Server(sys.argv[1]).serve(int(sys.argv[2])))

"""Many clients that send or read a byte at a time, and what normal ones notice of them.

    PYTHONPATH=tests python -m support.slow_clients --clients 2000

A third each dribbles its head, dribbles its body, and hardly reads a large answer. They are a process of their own, so
that the load is not what gets slower.
"""

from __future__ import annotations

import argparse
import asyncio
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from support import projects
from support.installation import Installation
from support.open_loop import OpenLoop, Outcome, share
from support.raw_http import Address, head, whole
from support.resources import MIB

TESTS = Path(__file__).parents[1]

LARGE = 2 * MIB
"""Bytes of the answer that slow readers ask for; more than anyone on the way keeps for them."""

SETTLED = 2.0
"""Seconds in which large answers come as far as anyone takes them."""

THREADS = 2
RATE = 100.0
"""Normal requests a second."""

HANDLER = f"""
import time


class Handler:
    def __init__(self, config):
        pass

    def handle_post(self, payload):
        time.sleep(0.002)
        return payload

    def handle_get(self):
        return bytes({LARGE})
"""


@dataclass(frozen=True, kw_only=True)
class Result:
    """Attributes:
    slow: clients that were still connected at the end.
    normal: what normal requests became.
    before_p99, during_p99: seconds.
    gateway_grown: bytes by which the gateway grew.
    """

    slow: int
    normal: list[Outcome]
    before_p99: float
    during_p99: float
    gateway_grown: int


def deployed(folder: Path) -> AbstractContextManager[Installation]:
    """The API `patient` in a home below a folder that exists."""
    return projects.deployed(folder, HANDLER, name="patient", threads=THREADS)


def beside_slow_ones(cortex: Installation, *, clients: int, seconds: float) -> Result:
    """Normal load for so long without slow clients, then as long with them."""
    gateway = next(process for process in cortex.processes() if "envoy" in process.name())
    before = asyncio.run(_normal(cortex.gateway, seconds))
    held = gateway.memory_info().rss
    with _slow_process(cortex.gateway, clients) as slow:
        during = asyncio.run(_normal(cortex.gateway, seconds))
        grown = gateway.memory_info().rss - held
        left = _ended(slow)
    return Result(
        slow=left,
        normal=[*before, *during],
        before_p99=share(before, 0.99),
        during_p99=share(during, 0.99),
        gateway_grown=grown,
    )


async def _normal(address: Address, seconds: float) -> list[Outcome]:
    load = OpenLoop(address, whole("/patient", b"payload"))
    await load.send(RATE, seconds)
    await load.finish()
    return load.outcomes


@contextmanager
def _slow_process(address: Address, clients: int) -> Iterator[subprocess.Popen[str]]:
    host, port = address
    words = [sys.executable, "-m", "support.slow_clients", "--at", host, str(port), "--clients", str(clients)]
    process = subprocess.Popen(words, cwd=TESTS, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "connected\n"
        time.sleep(SETTLED)
        yield process
    finally:
        process.kill()
        process.communicate()


def _ended(slow: subprocess.Popen[str]) -> int:
    """Let the slow clients end; returns how many of them were connected until now."""
    said, _ = slow.communicate(timeout=30)
    return int(said)


async def _be_slow(address: Address, clients: int) -> int:
    """Until stdin ends; returns how many are still connected then."""
    slow = [_Slow(address, number) for number in range(clients)]
    for each in slow:
        await each.connect()
    print("connected", flush=True)
    going = [asyncio.ensure_future(each.go()) for each in slow]
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    for task in going:
        task.cancel()
    await asyncio.gather(*going, return_exceptions=True)
    return sum(each.connected for each in slow)


class _Slow:
    """One slow client, which ends when the server closes."""

    PAUSE = 1.0

    def __init__(self, address: Address, number: int) -> None:
        self._address = address
        self._dribbles = number % 3 != 2
        if number % 3 == 0:  # the head
            self._at_once, self._rest = b"POST /patient HTTP/1.1\r\n", b"x-slow: " + b"a" * 1000
        elif number % 3 == 1:  # the body
            self._at_once, self._rest = head("/patient", {"content-length": "1000"}), b"b" * 1000
        else:  # the answer
            self._at_once, self._rest = head("/patient", {}, method="GET"), b""
        self.connected = True

    async def connect(self) -> None:
        """With so little memory for what it receives that the server notices."""
        loop = asyncio.get_running_loop()
        self._socket = socket.socket()
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await loop.sock_connect(self._socket, self._address)
        await loop.sock_sendall(self._socket, self._at_once)

    async def go(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            if self._dribbles:
                for byte in self._rest:
                    await asyncio.sleep(self.PAUSE)
                    await loop.sock_sendall(self._socket, bytes([byte]))
            else:
                while await loop.sock_recv(self._socket, 100):
                    await asyncio.sleep(self.PAUSE)
            self.connected = False
        except ConnectionError:
            self.connected = False
        finally:
            self._socket.close()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=20, help="of load without, and of load with them")
    parser.add_argument("--at", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.at:
        host, port = options.at
        print(asyncio.run(_be_slow((host, int(port)), options.clients)))
        return 0
    with tempfile.TemporaryDirectory() as folder, deployed(Path(folder)) as cortex:
        tell(beside_slow_ones(cortex, clients=options.clients, seconds=options.seconds), options.clients)
    return 0


def tell(result: Result, clients: int) -> None:
    failed = [outcome for outcome in result.normal if outcome.status != 200]
    print(f"{clients} slow clients, of which {result.slow} were never cut off")
    print(f"normal requests: {len(result.normal):,}, not answered 200: {len(failed)}")
    print(f"normal p99: {result.before_p99 * 1000:.1f} ms without, {result.during_p99 * 1000:.1f} ms with them, "
          f"ratio {result.during_p99 / result.before_p99:.2f}")  # fmt: skip
    print(f"the gateway grew by {result.gateway_grown / clients / 1024:.0f} KiB for each")


if __name__ == "__main__":
    sys.exit(main())

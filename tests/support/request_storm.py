"""Clients with every bad habit at once, and proof that each request had exactly one right answer.

    PYTHONPATH=tests python -m support.request_storm --requests 50000 --seed 7 --way gateway

A request carries a number of its own, how much the answer shall weigh and how long it shall take. The handler
notes the number before it answers with it, with the checksum of the whole body and with as much as was asked for. So a
request that was mixed up, cut, answered twice, executed twice or executed although it never arrived is seen.

What a connection does is drawn from the seed and the connection's number; two runs do the same things, but for time.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import random
import sys
import tempfile
import threading
import time
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

import psutil

from cortex_core.home import Home
from cortex_core.spec.types import ServerSideBatching
from cortex_operator.gateway.admin import Admin
from cortex_operator.gateway.envoy_config import ADMIN_SOCKET
from cortex_operator.gateway.limits import UPSTREAM_IDLE_TIMEOUT
from support.installation import Installation
from support.projects import deployed
from support.raw_http import Address, Answer, Connection, Cut, Ended, Nonsense, chunked, head, whole
from support.replicas import start_replica
from support.resources import MIB, Resources

PATIENCE = 60.0
"""Seconds a connection may take in all, waiting for its turn included."""

CONNECTIONS = 48
"""At a time."""

LAZY = 3
"""Threads that pools of four may start late."""

NAME = 16
"""Bytes of a request's number."""

HANDLER = """
import asyncio
import os
import time
import zlib


class Handler:
    def __init__(self, config):
        self.record = os.open(config["record"], os.O_WRONLY | os.O_APPEND)

    def answered(self, body):
        number, size, milliseconds, _ = body.split(b" ", 3)
        os.write(self.record, number + b"\\n")
        return b"%s %08x " % (number, zlib.crc32(body)) + number * (int(size) // 16), int(milliseconds) / 1000

"""
METHODS = {
    "threads": """
    def handle_post(self, payload):
        answer, seconds = self.answered(payload)
        time.sleep(seconds)
        return answer
""",
    "async": """
    async def handle_post(self, payload):
        answer, seconds = self.answered(payload)
        await asyncio.sleep(seconds)
        return answer
""",
    "generator": """
    def handle_post(self, payload):
        answer, seconds = self.answered(payload)
        for start in range(0, len(answer), 50_000):
            yield answer[start : start + 50_000]
            time.sleep(seconds)
""",
    "batching": """
    def handle_post(self, payload):
        answers = [self.answered(each) for each in payload]
        time.sleep(max(seconds for _, seconds in answers))
        return [answer for answer, _ in answers]
""",
}


class Fate(Enum):
    """What must become of a request."""

    ANSWERED = "is answered rightly, and executed once"
    ABANDONED = "is executed at most once"
    INCOMPLETE = "is never executed"
    REFUSED = "is refused, and never executed"


@dataclass(frozen=True, kw_only=True)
class Request:
    """Attributes: size: bytes of answer beside what every answer has; made: when, by the monotonic clock."""

    number: str
    body: bytes
    size: int
    made: float

    def is_answered_by(self, answer: Answer) -> bool:
        expected = f"{self.number} {zlib.crc32(self.body):08x} " + self.number * (self.size // NAME)
        return answer.status == 200 and answer.body == expected.encode()


@dataclass
class Verdict:
    """What became of all.

    Attributes:
        lost: requests whose answer said that a replica died with them: when each was made, and when that was said.
        ended: connections that a gateway ended between answers to requests that came at once.
        refused: requests on them that were not answered.
        manners: connections by what they did.
        problems: everything that must not be.
    """

    sent: int = 0
    lost: list[tuple[float, float]] = field(default_factory=list)
    seconds: float = 0
    answered: int = 0
    ended: int = 0
    refused: int = 0
    manners: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)


class Storm:
    """Requests over at most `connections` connections at a time.

    Args:
        requests: after how many it ends.
        address: of a server that serves the handler above.
        path: of the API.
        record: the file in which the handler notes what it executes.
        serves_http10: whether HTTP/1.0 is served; it is refused with 426 otherwise.
        takes_chunks: whether bodies may come in chunks; they are refused with 411 otherwise.
        floods: how many connections a gateway says it has ended because, when the next one of several requests that
            came at once was due, two answers had not left yet. Envoy does so, and that cannot be set. None: nobody does.
        forgives: whether a gateway may answer that a replica died with the request.
        milliseconds: how long calls take; one is drawn for each request.
    """

    def __init__(
        self,
        address: Address,
        path: str,
        record: Path,
        *,
        seed: int,
        requests: int | None = None,
        connections: int = CONNECTIONS,
        serves_http10: bool = True,
        takes_chunks: bool = True,
        floods: Callable[[], int] | None = None,
        forgives: bool = False,
        milliseconds: Sequence[int] = (0, 0, 0, 0, 0, 0, 0, 0, 1, 5),
    ) -> None:
        self.address = address
        self.path = path
        self.serves_http10 = serves_http10
        self.takes_chunks = takes_chunks
        self.floods = floods
        self.forgives = forgives
        self.milliseconds = milliseconds
        self.fates: dict[str, Fate] = {}
        self.verdict = Verdict()
        self._record = record
        self._seed = seed
        self._requests = requests
        self._ends = False
        self._connections = connections
        self._numbers = itertools.count()

    def run(self) -> Verdict:
        """Rage until all requests are sent, then compare what was executed with what was sent."""
        with self.raging():
            pass
        return self.verdict

    @contextmanager
    def raging(self) -> Iterator[None]:
        """Rage while the block runs, or longer where a number of requests was given; the verdict is there afterwards."""
        before = len(self._record.read_bytes().split())
        floods = self.floods() if self.floods is not None else 0
        began = time.monotonic()
        thread = threading.Thread(target=lambda: asyncio.run(self._rage()))
        thread.start()
        try:
            yield
        finally:
            self._ends = self._requests is None
            thread.join()
            self.verdict.seconds = time.monotonic() - began
            self.verdict.sent = len(self.fates)
            self._judge(before)
            if self.floods is not None and self.verdict.ended > (said := self.floods() - floods):
                self.verdict.problems.append(
                    f"{self.verdict.ended} connections ended, {said} of them for answers that did not leave"
                )
            if self.verdict.problems:
                self.verdict.problems.insert(0, f"seed {self._seed}, {self.verdict.sent} requests")

    def wrong(self, connection: int, text: str) -> None:
        self.verdict.problems.append(f"connection {connection}: {text}")

    async def _rage(self) -> None:
        await asyncio.gather(*(self._client() for _ in range(self._connections)))

    async def _client(self) -> None:
        while not self._ended() and len(self.verdict.problems) < 20:
            visit = Visit(self, next(self._numbers), self._seed)
            try:
                await asyncio.wait_for(visit.make(), PATIENCE)
            except asyncio.TimeoutError:
                self.wrong(visit.number, f"{visit.manner}: nothing happens for {PATIENCE:.0f} s")
            except (OSError, Ended, Cut, Nonsense) as error:
                took = time.monotonic() - visit.began
                self.wrong(
                    visit.number,
                    f"{visit.manner}: {type(error).__name__} {error} after {took:.3f} s, and {visit.last}",
                )
            finally:
                self.verdict.manners[visit.manner] += 1

    def _ended(self) -> bool:
        return self._ends or (self._requests is not None and len(self.fates) >= self._requests)

    def _judge(self, before: int) -> None:
        executed = self._executions(before)
        for number, times in executed.items():
            fate = self.fates.get(number)
            if fate is None:
                self.verdict.problems.append(f"{number!r} was executed and never sent")
            elif times > 1 or fate in (Fate.INCOMPLETE, Fate.REFUSED):
                self.verdict.problems.append(f"{number} {fate.value}, but was executed {times} times")
        for number, fate in self.fates.items():
            if fate is Fate.ANSWERED and number not in executed:
                self.verdict.problems.append(f"{number} {fate.value}, but was not executed")
        self.verdict.answered = sum(fate is Fate.ANSWERED for fate in self.fates.values())

    def _executions(self, before: int) -> Counter[str]:
        """How often each was executed; what clients left may still be at work, so until that does not change."""
        deadline = time.monotonic() + 10
        seen = -1
        while True:
            numbers = self._record.read_bytes().split()[before:]
            if len(numbers) == seen or time.monotonic() > deadline:
                return Counter(number.decode("latin-1") for number in numbers)
            seen = len(numbers)
            time.sleep(0.3)


class Visit:
    """One connection and what its client does with it."""

    def __init__(self, storm: Storm, number: int, seed: int) -> None:
        self.storm = storm
        self.number = number
        self.random = random.Random(f"{seed}/{number}")
        self.manner = self.random.choices(list(MANNERS), [weight for weight, _ in MANNERS.values()])[0]
        self.began = time.monotonic()
        self.last: Answer | None = None
        self._count = 0

    async def make(self) -> None:
        self.connection = await Connection.open(self.storm.address)
        try:
            await MANNERS[self.manner][1](self)
        finally:
            await self._part()

    def request(self, fate: Fate, *, most: int = 2000) -> Request:
        """A new request, which must have this fate.

        Args:
            most: bytes of its body; one in 50 is much larger.
        """
        self._count += 1
        number = f"{self.number:010x}{self._count:06x}"
        size = self.random.choice((0, 0, 16, 1600, 100_000)) if self.random.random() < 0.3 else 0
        milliseconds = self.random.choice(self.storm.milliseconds)
        length = self.random.randrange(most) if self.random.random() < 0.98 else 300_000
        body = f"{number} {size} {milliseconds} ".encode() + self.random.randbytes(length)
        self.storm.fates[number] = fate
        return Request(number=number, body=body, size=size, made=time.monotonic())

    def bytes_of(self, request: Request, headers: Mapping[str, str] | None = None) -> bytes:
        """With a length or in chunks, as it comes, where both are taken."""
        if not self.storm.takes_chunks or self.random.random() < 0.7:
            return whole(self.storm.path, request.body, headers)
        return chunked(self.storm.path, list(self.pieces(request.body)), headers)

    def unfinished(self) -> bytes:
        """A request of which at least the last byte is missing."""
        request = self.request(Fate.INCOMPLETE)
        data = self.bytes_of(request)
        return data[: self.random.randrange(1, len(data))]

    def pieces(self, data: bytes, *, most: int = 12) -> Iterator[bytes]:
        """The data, cut at random, often into single bytes at its ends."""
        cuts = {self.random.randrange(len(data) + 1) for _ in range(self.random.randrange(most))}
        cuts |= {cut for cut in (1, 2, len(data) - 1) if self.random.random() < 0.3}
        edges = [0, *sorted(cut for cut in cuts if 0 < cut < len(data)), len(data)]
        return (data[start:end] for start, end in itertools.pairwise(edges))

    async def expect(self, request: Request) -> None:
        """The next answer must be this request's."""
        answer = self.last = await self.connection.answer()
        if self.storm.forgives and answer.status == 502 and b'"replica_failed"' in answer.body:
            self.storm.fates[request.number] = Fate.ABANDONED
            self.storm.verdict.lost.append((request.made, time.monotonic()))
        elif not request.is_answered_by(answer):
            self.storm.wrong(
                self.number,
                f"{self.manner}: {request.number} is answered {answer.status} {answer.body[:200]!r}",
            )

    async def expect_in_turn(self, requests: Sequence[Request], and_then: Sequence[Request] = ()) -> bool:
        """Requests that were sent at once; returns whether all were answered.

        A gateway may end the connection while two answers have not left, which still come. What it has not answered
        then, it has not taken.

        Args:
            and_then: sent after them; nobody waits for their answers.
        """
        for count, request in enumerate(requests):
            try:
                await self.expect(request)
            except Ended:
                if count < 2 or self.storm.floods is None:
                    raise
                for each in (*requests[count:], *and_then):
                    self.storm.fates[each.number] = Fate.REFUSED
                self.storm.verdict.ended += 1
                self.storm.verdict.refused += len(requests) - count
                return False
        return True

    async def expect_end(self) -> None:
        """Nothing may follow."""
        if rest := await self.connection.rest():
            self.storm.wrong(self.number, f"{self.manner}: after the last answer came {rest[:200]!r}")

    async def pause(self, most: float) -> None:
        await asyncio.sleep(self.random.random() * most)

    async def _part(self) -> None:
        unsent = self.connection.writer.transport.get_write_buffer_size()
        if self.random.random() < 0.5 and not unsent:
            await self.connection.close()
        else:
            await self.connection.reset()


async def asks_again_and_again(visit: Visit) -> None:
    for _ in range(visit.random.randrange(1, 9)):
        request = visit.request(Fate.ANSWERED)
        await visit.connection.send(visit.bytes_of(request))
        await visit.expect(request)
        if visit.random.random() < 0.1:
            await visit.pause(0.05)


async def asks_all_at_once(visit: Visit) -> None:
    requests = [visit.request(Fate.ANSWERED) for _ in range(visit.random.randrange(2, 9))]
    written = [visit.bytes_of(request) for request in requests[:-1]]
    written.append(visit.bytes_of(requests[-1], {"connection": "close"}))
    visit.connection.writer.write(b"".join(written))
    if await visit.expect_in_turn(requests):
        await visit.expect_end()


async def sends_byte_by_byte(visit: Visit) -> None:
    request = visit.request(Fate.ANSWERED, most=60)
    data = visit.bytes_of(request)
    for start in range(min(len(data), 400)):
        await visit.connection.send(data[start : start + 1])
    await visit.connection.send(data[400:])
    await visit.expect(request)


async def sends_odd_pieces(visit: Visit) -> None:
    for _ in range(visit.random.randrange(1, 4)):
        request = visit.request(Fate.ANSWERED)
        for piece in visit.pieces(visit.bytes_of(request), most=20):
            await visit.connection.send(piece)
            await visit.pause(0.003)
        await visit.expect(request)


async def dribbles(visit: Visit) -> None:
    request = visit.request(Fate.ANSWERED)
    for piece in visit.pieces(visit.bytes_of(request), most=8):
        await visit.connection.send(piece)
        await visit.pause(0.04)
    await visit.expect(request)


async def asks_whether_to_continue(visit: Visit) -> None:
    for _ in range(visit.random.randrange(1, 4)):
        request = visit.request(Fate.ANSWERED)
        headers = {"expect": "100-continue", "content-length": str(len(request.body))}
        await visit.connection.send(head(visit.storm.path, headers))
        if visit.random.random() < 0.7:  # others do not wait
            first = await visit.connection.any_answer()
            if first.status != 100:
                visit.storm.wrong(visit.number, f"{visit.manner}: {first.status} instead of 100")
        await visit.connection.send(request.body)
        await visit.expect(request)


async def is_old_fashioned(visit: Visit) -> None:
    serves = visit.storm.serves_http10
    request = visit.request(Fate.ANSWERED if serves else Fate.REFUSED)
    await visit.connection.send(whole(visit.storm.path, request.body, version="1.0"))
    if serves:
        await visit.expect(request)
    elif (answer := await visit.connection.answer()).status != 426:
        visit.storm.wrong(visit.number, f"{visit.manner}: {answer.status}")
    await visit.expect_end()


async def shuts_its_side(visit: Visit) -> None:
    """To servers, an end of the stream is a client that has gone; so it is answered rightly or cut off, but at once."""
    request = visit.request(Fate.ABANDONED)
    await visit.connection.send(visit.bytes_of(request))
    await visit.pause(0.005)
    visit.connection.half_close()
    try:
        await visit.expect(request)
    except (Ended, Cut):
        return
    await visit.expect_end()


async def leaves_in_the_request(visit: Visit) -> None:
    await visit.connection.send(visit.unfinished())
    await visit.pause(0.02)
    if visit.random.random() < 0.3:
        visit.connection.half_close()
        rest = await visit.connection.rest()
        if rest and not rest.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 100 ")):
            visit.storm.wrong(visit.number, f"{visit.manner}: {rest[:200]!r}")


async def leaves_in_the_next_one(visit: Visit) -> None:
    request = visit.request(Fate.ANSWERED)
    visit.connection.writer.write(visit.bytes_of(request) + visit.unfinished())
    await visit.expect(request)


async def does_not_wait(visit: Visit) -> None:
    await visit.connection.send(visit.bytes_of(visit.request(Fate.ABANDONED)))
    await visit.pause(0.01)


async def leaves_in_the_answer(visit: Visit) -> None:
    await visit.connection.send(visit.bytes_of(visit.request(Fate.ABANDONED)))
    await visit.connection.reader.read(visit.random.choice((1, 20, 2000)))


async def leaves_after_some(visit: Visit) -> None:
    answered = [visit.request(Fate.ANSWERED) for _ in range(visit.random.randrange(1, 4))]
    abandoned = [visit.request(Fate.ABANDONED) for _ in range(visit.random.randrange(1, 4))]
    visit.connection.writer.write(b"".join(visit.bytes_of(each) for each in (*answered, *abandoned)))
    await visit.expect_in_turn(answered, and_then=abandoned)


async def says_nothing(visit: Visit) -> None:
    await visit.pause(0.1)


Manner = Callable[[Visit], Awaitable[None]]

MANNERS: dict[str, tuple[int, Manner]] = {
    manner.__name__: (weight, manner)
    for weight, manner in (
        (30, asks_again_and_again),
        (12, asks_all_at_once),
        (4, sends_byte_by_byte),
        (10, sends_odd_pieces),
        (4, dribbles),
        (6, asks_whether_to_continue),
        (4, is_old_fashioned),
        (5, shuts_its_side),
        (10, leaves_in_the_request),
        (4, leaves_in_the_next_one),
        (8, does_not_wait),
        (5, leaves_in_the_answer),
        (5, leaves_after_some),
        (3, says_nothing),
    )
}
"""By name, how often, and what."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """Something that serves the handler.

    Attributes:
        processes: that must not grow.
        cortex: that deployed it; None if it runs alone.
        floods: as `Storm` has it.
        idle: seconds after which a gateway gives up its own idle connections; 0 where there is none.
    """

    address: Address
    path: str
    record: Path
    processes: list[psutil.Process]
    cortex: Installation | None
    serves_http10: bool
    takes_chunks: bool
    floods: Callable[[], int] | None
    idle: float

    def storm(self, **options: Any) -> Storm:
        """Args: options: those of `Storm` that are not of the target."""
        return Storm(
            self.address,
            self.path,
            self.record,
            serves_http10=self.serves_http10,
            takes_chunks=self.takes_chunks,
            floods=self.floods,
            **options,
        )


@dataclass(frozen=True, kw_only=True)
class Way:
    """How the handler runs."""

    method: str = "threads"
    processes: int = 1
    threads: int = 4
    batching: bool = False
    gateway: bool = False


WAYS = {
    "one thread": Way(threads=1),
    "threads": Way(processes=2),
    "async": Way(method="async"),
    "generator": Way(method="generator"),
    "batching": Way(method="batching", batching=True),
    "gateway": Way(processes=2, gateway=True),
    "gateway, generator": Way(method="generator", gateway=True),
    "gateway, batching": Way(method="batching", batching=True, gateway=True),
}


@contextmanager
def target(way: Way, folder: Path) -> Iterator[Target]:
    """The handler, served in this way from a folder that exists."""
    record = folder / "executed"
    record.touch()
    with _behind_gateway(way, folder, record) if way.gateway else _alone(way, folder, record) as served:
        yield served


@contextmanager
def _alone(way: Way, folder: Path, record: Path) -> Iterator[Target]:
    batching = ServerSideBatching(max_batch_size=8, batch_interval=2_000_000) if way.batching else None
    with start_replica(
        folder,
        HANDLER + METHODS[way.method],
        processes=way.processes,
        threads=way.threads,
        share=True,
        config={"record": str(record)},
        server_side_batching=batching,
    ) as replica:
        yield Target(
            address=("127.0.0.1", replica.port),
            path="/",
            record=record,
            processes=replica.family(),
            cortex=None,
            serves_http10=True,
            takes_chunks=way.method != "threads",
            floods=None,
            idle=0,
        )


@contextmanager
def _behind_gateway(way: Way, folder: Path, record: Path) -> Iterator[Target]:
    batching = "    server_side_batching: {max_batch_size: 8, batch_interval: 2ms}\n" if way.batching else ""
    with deployed(
        folder,
        HANDLER + METHODS[way.method],
        name="storm",
        processes=way.processes,
        threads=way.threads,
        more=f'    config: {{record: "{record}"}}\n{batching}',
    ) as cortex:
        yield Target(
            address=cortex.gateway,
            path="/storm",
            record=record,
            processes=cortex.processes(),
            cortex=cortex,
            serves_http10=False,
            takes_chunks=True,
            floods=lambda: asyncio.run(_floods(Home(root=cortex.home))),
            idle=UPSTREAM_IDLE_TIMEOUT,
        )


async def _floods(home: Home) -> int:
    name = "http1.response_flood"
    return int((await Admin(home.gateway, ADMIN_SOCKET).state(f"^{name}"))[name])


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=50_000)
    parser.add_argument("--seed", type=int, default=random.randrange(10_000))
    parser.add_argument("--way", choices=WAYS, action="append", help="can be given again; default: all")
    options = parser.parse_args()
    wrong = 0
    for name in options.way or WAYS:
        print(f"{name}: {options.requests:,} requests, seed {options.seed}", flush=True)
        with tempfile.TemporaryDirectory() as folder, target(WAYS[name], Path(folder)) as served:
            wrong += tell(served, options.seed, options.requests)
    return 1 if wrong else 0


def tell(served: Target, seed: int, requests: int) -> int:
    """Rage once to get warm, once for the figures; returns how many problems there are."""
    served.storm(seed=seed + 1, requests=requests // 10).run()
    time.sleep(served.idle + 5 if served.idle else 0)
    resources = Resources(served.processes)
    before = resources.now()
    verdict = served.storm(seed=seed, requests=requests).run()
    grown = resources.grown(before, memory=32 * MIB, threads=LAZY, within=served.idle + 15)
    print(f"  sent {verdict.sent:,} in {verdict.seconds:.0f} s, answered {verdict.answered:,}, "
          f"refused {verdict.refused} on {verdict.ended} connections that were ended, "
          f"problems {len(verdict.problems)}")  # fmt: skip
    print("  " + ", ".join(f"{manner} {count}" for manner, count in verdict.manners.most_common()))
    for was, held in zip(before, resources.now(), strict=True):
        print(f"  {was.name}: descriptors {was.descriptors} → {held.descriptors}, threads {was.threads} → "
              f"{held.threads}, MiB {was.memory / MIB:.0f} → {held.memory / MIB:.0f}")  # fmt: skip
    for problem in (*verdict.problems, *grown):
        print(f"  ! {problem}")
    sys.stdout.flush()
    return len(verdict.problems) + len(grown)


if __name__ == "__main__":
    sys.exit(main())

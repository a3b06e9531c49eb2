"""gRPC load: constant, over several channels, in all four forms, every message of every answer checked.

A failure is any RPC that does not end with OK, and any message that is not about what was asked. Versions of the model
and releases only grow, as each channel sees them.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import grpc

from support.rpc_project import ask, compiled

MIB = 2**20
LARGE = 5 * MIB
"""More than gRPC allows unless told otherwise."""

OPTIONS = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))


@dataclass(kw_only=True)
class Report:
    """What happened on all channels.

    Attributes:
        answers: RPCs that ended with OK, by form.
        went_back: versions or releases older than the channel's last.
        versions, releases: that were seen.
    """

    answers: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    went_back: list[str] = field(default_factory=list)
    versions: set[int] = field(default_factory=set)
    releases: set[int] = field(default_factory=set)
    seconds: list[float] = field(default_factory=list)


class RpcLoad:
    """`channels` clients, each with an RPC at a time, again and again.

    Args:
        target: `host:port` of a gateway.
        pause: seconds between a client's RPCs.
        skew: by how many versions the replicas of a new release may be behind those of the last one, which swap by
            themselves.
    """

    def __init__(
        self, target: str, *, channels: int = 4, pause: float = 0.005, timeout: float = 20, skew: int = 0
    ) -> None:
        self._target = target
        self._pause = pause
        self._timeout = timeout
        self._skew = skew
        self._stop = threading.Event()
        self._reports = [Report() for _ in range(channels)]
        self._threads = [
            threading.Thread(target=self._client, args=(number,), daemon=True) for number in range(channels)
        ]

    def start(self) -> None:
        compiled()
        for thread in self._threads:
            thread.start()

    def stop(self) -> Report:
        """Stop after the RPCs in flight and add up what happened."""
        self._stop.set()
        for thread in self._threads:
            thread.join(self._timeout + 5)
            assert not thread.is_alive(), "a client hangs"
        return self.so_far()

    def so_far(self) -> Report:
        total = Report()
        for report in self._reports:
            total.answers += report.answers
            total.failures += report.failures
            total.went_back += report.went_back
            total.versions |= report.versions
            total.releases |= report.releases
            total.seconds += report.seconds
        return total

    def _client(self, number: int) -> None:
        report = self._reports[number]
        with grpc.insecure_channel(self._target, options=OPTIONS) as channel:
            client = _Client(compiled()[1].FormsStub(channel), report, self._timeout, self._skew)
            for count in itertools.count():
                if self._stop.wait(self._pause):
                    return
                name, form = FORMS[(count + number) % len(FORMS)]
                began = time.monotonic()
                try:
                    form(client, number * 1_000_000 + count)
                    report.answers[name] += 1
                except (grpc.RpcError, AssertionError) as error:
                    report.failures.append(f"{name}: {_said(error)}")
                report.seconds.append(time.monotonic() - began)


class _Client:
    """Asks in each form and checks what is answered."""

    def __init__(self, stub: Any, report: Report, timeout: float, skew: int) -> None:
        self._stub = stub
        self._report = report
        self._timeout = timeout
        self._skew = skew
        self._last = (0, 0)

    def once(self, number: int) -> None:
        self._check(self._stub.Once(ask(number), timeout=self._timeout), "Once", number, 1)

    def large(self, number: int) -> None:
        padding = bytes([number % 256]) * LARGE if number % 20 == 0 else b""
        told = self._stub.Once(ask(number, padding=padding), timeout=self._timeout)
        self._check(told, "Once", number, 1)
        assert told.padding == padding

    def fan(self, number: int) -> None:
        told = list(self._stub.Fan(ask(number, count=5, seconds=0.002), timeout=self._timeout))
        assert len(told) == 5, f"{len(told)} messages instead of 5"
        for count, each in enumerate(told):
            self._check(each, "Fan", number, count)

    def gather(self, number: int) -> None:
        told = self._stub.Gather((ask(number) for _ in range(7)), timeout=self._timeout)
        self._check(told, "Gather", number, 7)

    def chat(self, number: int) -> None:
        answers = self._stub.Chat(self._asks(number), timeout=self._timeout)
        count = -1
        for count, each in enumerate(answers):  # the last one is looked at below
            self._check(each, "Chat", number, count)
        assert count == 5, f"{count + 1} messages instead of 6"

    def _asks(self, number: int) -> Iterator[Any]:
        for _ in range(6):
            yield ask(number)
            time.sleep(0.001)

    def _check(self, told: Any, rpc: str, number: int, count: int) -> None:
        says = (told.rpc, told.number, told.count)
        assert says == (rpc, number, count), f"{says} instead of {(rpc, number, count)}"
        seen = (told.release, told.version)
        skew = self._skew if seen[0] > self._last[0] else 0
        if seen[0] < self._last[0] or seen[1] < self._last[1] - skew:
            self._report.went_back.append(f"{rpc}: {seen} after {self._last}")
        self._last = seen
        self._report.versions.add(told.version)
        self._report.releases.add(told.release)


FORMS = (
    ("unary", _Client.once),
    ("large", _Client.large),
    ("server streaming", _Client.fan),
    ("client streaming", _Client.gather),
    ("bidirectional", _Client.chat),
)


def _said(error: BaseException) -> str:
    if isinstance(error, grpc.Call):
        return f"{error.code()} {error.details()}"
    return f"{type(error).__name__}: {error}"

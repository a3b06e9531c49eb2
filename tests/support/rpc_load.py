"""gRPC load: constant, over several channels, in all four forms, every message of every answer checked.

A failure is any RPC that does not end with OK, and any message that is not about what was asked, or from somewhere else
than the RPC's first. What only grows:

- releases, as a channel sees them: the gateway's threads learn of a new one each by itself;
- versions of the model in one replica, whoever asks: its workers swap at one moment;
- versions in all replicas, but for the `skew` that is allowed, since each replica swaps by itself.

An RPC is held to what had been answered before it was sent: answers to RPCs at the same time may overtake each other.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import grpc

from support.clients import Clients
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
        went_back: answers by an older version or release than is promised.
        versions, releases: that were seen.
    """

    answers: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    went_back: list[str] = field(default_factory=list)
    versions: set[int] = field(default_factory=set)
    releases: set[int] = field(default_factory=set)
    seconds: list[float] = field(default_factory=list)


class Newest:
    """The newest version that has been answered, by replica."""

    def __init__(self) -> None:
        self._versions: dict[int, int] = {}
        self._lock = threading.Lock()

    def now(self) -> Mapping[int, int]:
        with self._lock:
            return dict(self._versions)

    def add(self, replica: int, version: int) -> None:
        with self._lock:
            self._versions[replica] = max(version, self._versions.get(replica, version))


class RpcLoad(Clients[Report]):
    """`channels` clients, each with an RPC at a time, again and again.

    Args:
        target: `host:port` of a gateway.
        pause: seconds between a client's RPCs.
        skew: by how many versions a replica may be behind another one.
    """

    def __init__(
        self, target: str, *, channels: int = 4, pause: float = 0.005, timeout: float = 20, skew: int = 0
    ) -> None:
        super().__init__(Report, channels, pause=pause, timeout=timeout)
        self._target = target
        self._skew = skew
        self._newest = Newest()
        compiled()

    def _client(self, number: int) -> None:
        report = self._reports[number]
        with grpc.insecure_channel(self._target, options=OPTIONS) as channel:
            stub = compiled()[1].FormsStub(channel)
            client = _Client(stub, report, self._newest, timeout=self._timeout, skew=self._skew)
            for request in self._requests(number):
                name, form = FORMS[(request + number) % len(FORMS)]
                began = time.monotonic()
                try:
                    client.ask(form, request)
                    report.answers[name] += 1
                except (grpc.RpcError, AssertionError) as error:
                    report.failures.append(f"{name}: {_said(error)}")
                report.seconds.append(time.monotonic() - began)


class _Client:
    """Asks in each form and checks what is answered."""

    def __init__(self, stub: Any, report: Report, newest: Newest, *, timeout: float, skew: int) -> None:
        self._stub = stub
        self._report = report
        self._newest = newest
        self._timeout = timeout
        self._skew = skew
        self._release = 0

    def ask(self, form: Form, number: int) -> None:
        before = self._newest.now()
        first, *others = form(self, number)
        assert all(_origin(each) == _origin(first) for each in others), f"{_origin(first)}, then {others}"
        least = max(before.get(first.replica, 0), max(before.values(), default=0) - self._skew)
        if first.release < self._release or first.version < least:
            self._report.went_back.append(
                f"{first.rpc}: {_origin(first)} after release {self._release} and versions {before}"
            )
        self._release = first.release
        self._newest.add(first.replica, first.version)
        self._report.versions.add(first.version)
        self._report.releases.add(first.release)

    def once(self, number: int) -> list[Any]:
        return [_checked(self._stub.Once(ask(number), timeout=self._timeout), "Once", number, 1)]

    def large(self, number: int) -> list[Any]:
        padding = bytes([number % 256]) * LARGE if number % 20 == 0 else b""
        told = self._stub.Once(ask(number, padding=padding), timeout=self._timeout)
        assert told.padding == padding
        return [_checked(told, "Once", number, 1)]

    def fan(self, number: int) -> list[Any]:
        answers = self._stub.Fan(ask(number, count=5, seconds=0.002), timeout=self._timeout)
        told = [_checked(each, "Fan", number, count) for count, each in enumerate(answers)]
        assert len(told) == 5, f"{len(told)} messages instead of 5"
        return told

    def gather(self, number: int) -> list[Any]:
        told = self._stub.Gather((ask(number) for _ in range(7)), timeout=self._timeout)
        return [_checked(told, "Gather", number, 7)]

    def chat(self, number: int) -> list[Any]:
        answers = self._stub.Chat(self._asks(number), timeout=self._timeout)
        told = [_checked(each, "Chat", number, count) for count, each in enumerate(answers)]
        assert len(told) == 6, f"{len(told)} messages instead of 6"
        return told

    def _asks(self, number: int) -> Iterator[Any]:
        for _ in range(6):
            yield ask(number)
            time.sleep(0.001)


Form = Callable[[_Client, int], list[Any]]
FORMS: tuple[tuple[str, Form], ...] = (
    ("unary", _Client.once),
    ("large", _Client.large),
    ("server streaming", _Client.fan),
    ("client streaming", _Client.gather),
    ("bidirectional", _Client.chat),
)


def _checked(told: Any, rpc: str, number: int, count: int) -> Any:
    says = (told.rpc, told.number, told.count)
    assert says == (rpc, number, count), f"{says} instead of {(rpc, number, count)}"
    return told


def _origin(told: Any) -> str:
    return f"version {told.version} of replica {told.replica} of release {told.release}"


def _said(error: BaseException) -> str:
    if isinstance(error, grpc.Call):
        return f"{error.code()} {error.details()}"
    return f"{type(error).__name__}: {error}"

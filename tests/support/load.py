"""A load generator: constant load over kept-alive connections, every answer checked.

A failure is any connection error, any status other than 200 and any answer that is not about the request: each
request carries a number that its answer must repeat.

Of an API that follows models, the answer's `version` is a number that only grows, `contents` lists the numbers found
in the model's files, which must all be that one, and `x-cortex-model` must name the `folder` that the model came from.
"""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from support.clients import Clients


@dataclass(kw_only=True)
class Seen:
    """One version, as one connection saw it, by the monotonic clock.

    Attributes:
        first: when its first answer had come.
        last: when the last request that it answered was sent.
    """

    first: float
    last: float


@dataclass(kw_only=True)
class Report:
    """What happened under load; written by one thread each, read after `stop`.

    Attributes:
        starts, seconds: of each request, when it was sent and how long it took.
        mixed: answers made from the files of several versions, or that name another version than they are from.
        went_back: answers by an older version than the connection's last.
        sightings: by connection, what it saw of each version; only of models.
    """

    answers: int = 0
    failures: list[str] = field(default_factory=list)
    failure_times: list[float] = field(default_factory=list)
    starts: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)
    mixed: list[str] = field(default_factory=list)
    went_back: list[str] = field(default_factory=list)
    sightings: list[dict[int, Seen]] = field(default_factory=list)

    def live_since(self, version: int) -> float | None:
        """When every connection had had an answer of this version or a newer one; None: not all have."""
        firsts = [
            min((seen.first for number, seen in sightings.items() if number >= version), default=None)
            for sightings in self.sightings
        ]
        known = [first for first in firsts if first is not None]
        return max(known) if known and len(known) == len(firsts) else None

    def overlap(self, version: int) -> float | None:
        """Seconds from the first answer of this version to anyone to the last request that got an older one.

        At most 0 when all workers switched at one moment.
        """
        first = min((s[version].first for s in self.sightings if version in s), default=None)
        older = [seen.last for s in self.sightings for number, seen in s.items() if number < version]
        return max(older) - first if first is not None and older else None


class Load(Clients[Report]):
    """`connections` clients, each sending a request every `pause` seconds on its own connection.

    The API must answer `{"n": <the request's n>, "version": <text>}`.

    Args:
        models: whether the API follows models; see above.
    """

    def __init__(
        self,
        url: str,
        *,
        connections: int = 8,
        pause: float = 0.01,
        timeout: float = 15,
        models: bool = False,
    ) -> None:
        super().__init__(Report, connections, pause=pause, timeout=timeout)
        self._url = urlsplit(url)
        self._models = models
        for report in self._reports:
            report.sightings = [{}] if models else []

    def wait_for_version(self, version: int, *, within: float) -> None:
        """Until every connection had an answer of this version or a newer one, for so many seconds."""
        deadline = time.monotonic() + within
        while any(max(report.sightings[0].copy(), default=0) < version for report in self._reports):
            assert time.monotonic() < deadline, f"version {version} is not live within {within} s"
            time.sleep(0.01)

    def _client(self, number: int) -> None:
        report = self._reports[number]
        connection = self._connect()
        for nonce in self._requests(number):
            started = time.monotonic()
            try:
                answer, model = self._ask(connection, nonce)
                report.answers += 1
                report.seen.add(str(answer["version"]))
                if self._models:
                    _check_model(report, answer, model, started)
            except (OSError, http.client.HTTPException, AssertionError) as error:
                report.failures.append(f"{type(error).__name__}: {error}")
                report.failure_times.append(started)
                connection.close()
                connection = self._connect()
            report.starts.append(started)
            report.seconds.append(time.monotonic() - started)
        connection.close()

    def _connect(self) -> http.client.HTTPConnection:
        assert self._url.hostname is not None
        return http.client.HTTPConnection(self._url.hostname, self._url.port, timeout=self._timeout)

    def _ask(self, connection: http.client.HTTPConnection, nonce: int) -> tuple[Any, str | None]:
        """The answer, and the model that it says it used."""
        body = json.dumps({"n": nonce})
        connection.request("POST", self._url.path, body, {"content-type": "application/json"})
        response = connection.getresponse()
        text = response.read()
        assert response.status == 200, f"{response.status} {text[:200]!r}"
        answer = json.loads(text)
        assert answer["n"] == nonce, f"asked {nonce}, answered {answer['n']}"
        return answer, response.getheader("x-cortex-model")


def _check_model(report: Report, answer: Any, model: str | None, started: float) -> None:
    (sightings,) = report.sightings
    version = answer["version"]
    if answer["contents"] != [version] or model is None or model.rpartition(":")[2] != answer["folder"]:
        report.mixed.append(f"{answer} from {model}")
    last = max(sightings, default=version)
    if version < last:
        report.went_back.append(f"{version} after {last}")
    if version in sightings:
        sightings[version].last = started
    else:
        sightings[version] = Seen(first=time.monotonic(), last=started)


@contextmanager
def load(url: str, **options: float) -> Iterator[Load]:
    """Constant load on `url` while the block runs."""
    running = Load(url, **options)  # type: ignore[arg-type]  # options are Load's own keywords
    running.start()
    try:
        yield running
    finally:
        running.stop()

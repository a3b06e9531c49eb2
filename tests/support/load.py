"""A load generator: constant load over kept-alive connections, every answer checked.

A failure is any connection error, any status other than 200 and any answer that is not about the request: each
request carries a number that its answer must repeat.
"""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit


@dataclass(kw_only=True)
class Report:
    """What happened under load; written by one thread each, read after `stop`."""

    answers: int = 0
    failures: list[str] = field(default_factory=list)
    failure_times: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)


class Load:
    """`connections` clients, each sending a request every `pause` seconds on its own connection.

    The API must answer `{"n": <the request's n>, "version": <text>}`.
    """

    def __init__(self, url: str, *, connections: int = 8, pause: float = 0.01, timeout: float = 15) -> None:
        self._url = urlsplit(url)
        self._pause = pause
        self._timeout = timeout
        self._stop = threading.Event()
        self._reports = [Report() for _ in range(connections)]
        self._threads = [
            threading.Thread(target=self._client, args=(number,), daemon=True)
            for number in range(connections)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> Report:
        """Stop after the requests in flight and add up what happened."""
        self._stop.set()
        for thread in self._threads:
            thread.join(self._timeout + 5)
            assert not thread.is_alive(), "a load client hangs"
        return self.so_far()

    def so_far(self) -> Report:
        total = Report()
        for report in self._reports:
            total.answers += report.answers
            total.failures += report.failures
            total.failure_times += report.failure_times
            total.seconds += report.seconds
            total.seen |= report.seen
        return total

    def _client(self, number: int) -> None:
        report = self._reports[number]
        connection = self._connect()
        count = 0
        while not self._stop.wait(self._pause):
            count += 1
            nonce = number * 1_000_000 + count
            started = time.monotonic()
            try:
                report.seen.add(self._ask(connection, nonce))
                report.answers += 1
            except (OSError, http.client.HTTPException, AssertionError) as error:
                report.failures.append(f"{type(error).__name__}: {error}")
                report.failure_times.append(started)
                connection.close()
                connection = self._connect()
            report.seconds.append(time.monotonic() - started)
        connection.close()

    def _connect(self) -> http.client.HTTPConnection:
        assert self._url.hostname is not None
        return http.client.HTTPConnection(self._url.hostname, self._url.port, timeout=self._timeout)

    def _ask(self, connection: http.client.HTTPConnection, nonce: int) -> str:
        body = json.dumps({"n": nonce})
        connection.request("POST", self._url.path, body, {"content-type": "application/json"})
        response = connection.getresponse()
        text = response.read()
        assert response.status == 200, f"{response.status} {text[:200]!r}"
        answer = json.loads(text)
        assert answer["n"] == nonce, f"asked {nonce}, answered {answer['n']}"
        return str(answer["version"])


@contextmanager
def load(url: str, **options: float) -> Iterator[Load]:
    """Constant load on `url` while the block runs."""
    running = Load(url, **options)  # type: ignore[arg-type]  # options are Load's own keywords
    running.start()
    try:
        yield running
    finally:
        running.stop()

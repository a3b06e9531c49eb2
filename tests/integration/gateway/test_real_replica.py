"""A real replica with several processes behind the real gateway."""

from __future__ import annotations

import http.client
import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import psutil
import pytest
from support.installation import wait_for
from support.load import load
from support.replicas import start_replica
from support.stand_in import environ, stand_in_release

from cortex_operator import processes as processes_of
from cortex_operator.backends.process import ProcessBackend
from cortex_operator.backends.protocol import Replica, Workload
from cortex_operator.gateway.protocol import Route, Upstream

if TYPE_CHECKING:
    from conftest import Site

PROCESSES = 3
THREADS = 2
HANDLER = b"""
import os, time

class Handler:
    def __init__(self, config):
        pass

    def handle_post(self, payload):
        began = time.time()
        time.sleep(payload["seconds"])
        return {"pid": os.getpid(), "began": began, "ended": time.time()}
"""

ECHO = b"""
import os

class Handler:
    def __init__(self, config):
        pass

    def handle_post(self, payload):
        return {"n": payload["n"], "version": os.getpid()}
"""


@dataclass
class Replicated:
    """An API with one replica, routed, of a home.

    Attributes:
        replica: as it was when it first was ready.
    """

    site: Any
    backend: ProcessBackend
    replica: Replica

    @property
    def pid(self) -> int:
        assert self.replica.pid is not None
        return self.replica.pid

    def ready_again(self) -> Replica:
        """The replica, once it was started again and is ready."""

        async def wait() -> Replica:
            while True:
                (replica,) = await self.backend.observe()
                if replica.restarts and replica.state == "ready":
                    return replica
                await self.backend.changed()

        again: Replica = self.site.run(wait())
        return again


@contextmanager
def routed(site: Any, folder: Path, handler: bytes, *, processes: int, threads: int) -> Iterator[Replicated]:
    """One replica of `processes` × `threads`, routed."""
    backend = ProcessBackend(site.home, environ=environ())

    async def start() -> Replica:
        await backend.open()
        release = stand_in_release(
            site.home, folder, name="iris", handler=handler, processes=processes, threads=threads
        )
        await backend.prepare(release, lambda _: None)
        await backend.apply(Workload(id="iris-a", release=release, replicas=1))
        while True:
            (replica,) = await backend.observe()
            if replica.state == "ready":
                return replica
            await backend.changed()

    async def end() -> None:
        await backend.remove("iris-a")
        await backend.close()
        assert [each for each in processes_of.members(site.home.root) if each.marker != "gateway"] == []

    try:
        replica = site.run(start())
        upstreams = tuple(Upstream(host=str(replica.host), port=port) for port in replica.ports)
        route = Route(api="iris", endpoint="/iris", upstreams=upstreams, max_concurrency=1024)
        site.run(site.gateway.apply([route]))
        yield Replicated(site, backend, replica)
    finally:
        site.run(end())


@pytest.fixture
def running(site: Any, tmp_path: Path) -> Iterator[Replica]:
    """One replica of PROCESSES × THREADS, routed."""
    with routed(site, tmp_path, HANDLER, processes=PROCESSES, threads=THREADS) as replicated:
        yield replicated.replica


class Clients:
    """So many that call at the same moment, again and again, each over one connection."""

    def __init__(self, site: Any, count: int) -> None:
        self._site = site
        self._count = count
        self.calls: list[tuple[float, float]] = []
        self.others: list[tuple[int, str]] = []

    def call(self, *, each: int, seconds: float) -> None:
        ready = threading.Barrier(self._count)
        threads = [
            threading.Thread(target=self._calls, args=(ready, each, seconds)) for _ in range(self._count)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)

    def at_a_time(self) -> int:
        """The most calls that were in the handler at the same moment."""
        changes = sorted([(began, 1) for began, _ in self.calls] + [(ended, -1) for _, ended in self.calls])
        most = now = 0
        for _, change in changes:
            now += change
            most = max(most, now)
        return most

    def _calls(self, ready: threading.Barrier, each: int, seconds: float) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._site.home.gateway_port, timeout=20)
        connection.connect()
        ready.wait(10)
        for _ in range(each):
            body = json.dumps({"seconds": seconds})
            connection.request("POST", "/iris", body, {"content-type": "application/json"})
            response = connection.getresponse()
            answer = json.loads(response.read())
            if response.status == 200:
                self.calls.append((answer["began"], answer["ended"]))
            else:
                self.others.append((response.status, answer["code"]))
        connection.close()


def test_all_threads_of_all_processes_work_at_the_same_time_and_no_more(site: Any, running: Replica) -> None:
    assert len(running.ports) == PROCESSES
    for _ in range(2):
        first = Clients(site, PROCESSES * THREADS)
        first.call(each=1, seconds=1.0)
        assert first.others == []
        assert first.at_a_time() == PROCESSES * THREADS

    more = Clients(site, 2 * PROCESSES * THREADS)
    more.call(each=3, seconds=0.1)
    assert more.others == []
    assert more.at_a_time() == PROCESSES * THREADS


def test_a_killed_process_costs_what_was_in_flight_on_it(site: Any, running: Replica) -> None:
    assert running.pid is not None
    clients = Clients(site, PROCESSES)
    calling = threading.Thread(target=clients.call, kwargs={"each": 50, "seconds": 0.02})
    calling.start()
    while len(clients.calls) < 20:
        assert calling.is_alive()
        calling.join(0.02)
    psutil.Process(running.pid).children()[0].kill()
    calling.join(60)

    assert len(clients.calls) + len(clients.others) == 50 * PROCESSES
    assert clients.others in ([], [(502, "replica_failed")])


def test_a_lone_replica_that_ends_and_is_started_again_costs_no_request(site: Any, tmp_path: Path) -> None:
    with (
        routed(site, tmp_path, ECHO, processes=1, threads=1) as replicated,
        load(f"{site.url}/iris", connections=6, pause=0.01) as running,
    ):
        wait_for(lambda: running.so_far().answers > 100, within=20, what="under load")
        os.kill(replicated.pid, signal.SIGTERM)
        again = replicated.ready_again()
        assert again.ports == replicated.replica.ports
        wait_for(lambda: len(running.so_far().seen) == 2, within=20, what="the next one answers")
    assert running.so_far().failures == []


UNWANTED = """
    class Handler:
        def __init__(self, config):
            pass

        {keyword} handle_post(self):
            return "taken"
"""


@pytest.mark.parametrize("keyword", ["def", "async def"])
def test_a_body_that_a_method_does_not_declare_fails_nobodys_request(
    site: Site, tmp_path: Path, keyword: str
) -> None:
    with (
        start_replica(tmp_path, UNWANTED.format(keyword=keyword)) as replica,
        httpx.Client(trust_env=False, timeout=20) as client,
    ):
        site.serve(Upstream(host="127.0.0.1", port=replica.port))
        for size in (8_000_000, 1) * 20:
            answer = client.post(f"{site.url}/iris", content=b"x" * size)
            assert (answer.status_code, answer.text) == (200, "taken")

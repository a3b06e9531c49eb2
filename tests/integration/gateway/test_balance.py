"""As many requests run at a time as there are processes, and no more than are allowed."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Callable
from typing import Any

import pytest
from support.replica_double import ReplicaDouble

from cortex_operator.gateway.protocol import Upstream

PROCESSES = 4
WORK = 0.05


class Clients:
    """So many that send at the same moment, each over a connection of its own."""

    def __init__(self, site: Any, count: int) -> None:
        self._site = site
        self._count = count
        self.statuses: list[int] = []
        self.waited: list[float] = []

    def send(self, *, each: int, target: str) -> None:
        ready = threading.Barrier(self._count)

        def send() -> None:
            connection = http.client.HTTPConnection("127.0.0.1", self._site.home.gateway_port, timeout=20)
            connection.connect()
            ready.wait(10)
            for _ in range(each):
                connection.request("GET", target)
                response = connection.getresponse()
                answer = json.loads(response.read())
                self.statuses.append(response.status)
                self.waited.append(answer.get("waited", 0.0))
            connection.close()

        threads = [threading.Thread(target=send) for _ in range(self._count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)


def at(double: ReplicaDouble) -> Upstream:
    return Upstream(host="127.0.0.1", port=double.port)


@pytest.fixture
def processes(site: Any, replica: Callable[[str], ReplicaDouble]) -> list[ReplicaDouble]:
    """One replica's: each works on one request at a time."""
    return [replica(str(number)) for number in range(PROCESSES)]


@pytest.mark.parametrize(("bursts", "each"), [(12, 1), (1, 20)], ids=["bursts", "kept alive"])
def test_no_request_waits_while_a_process_has_nothing_to_do(
    site: Any, processes: list[ReplicaDouble], bursts: int, each: int
) -> None:
    """From the very first request on, for which there is no connection yet."""
    clients = Clients(site, PROCESSES)
    for _ in range(bursts):
        site.serve()
        site.serve(*map(at, processes))
        clients.send(each=each, target=f"/iris?alone={WORK}")

    assert set(clients.statuses) == {200}
    late = [waited for waited in clients.waited if waited > WORK / 5]
    assert len(clients.waited) >= 48
    assert late == []


@pytest.mark.parametrize("allowed", [1, 3])
def test_as_many_as_allowed_are_in_flight_and_no_more(
    site: Any, processes: list[ReplicaDouble], allowed: int
) -> None:
    site.serve(*map(at, processes), max_concurrency=allowed)
    within = Clients(site, allowed)
    within.send(each=100, target="/iris")
    assert set(within.statuses) == {200}, "refused although there was room"

    beyond = Clients(site, 12)
    beyond.send(each=1, target="/iris?seconds=1")
    assert sorted(beyond.statuses) == [200] * allowed + [503] * (12 - allowed)
    assert sum(double.seen() for double in processes) == 101 * allowed


def test_a_process_that_is_down_costs_neither_requests_nor_seconds(
    site: Any, processes: list[ReplicaDouble]
) -> None:
    site.serve(*map(at, processes))
    Clients(site, PROCESSES).send(each=3, target="/iris")
    processes[0].kill()
    clients = Clients(site, PROCESSES - 1)
    clients.send(each=60, target="/iris?alone=0.02")

    assert set(clients.statuses) == {200}
    assert max(clients.waited) < 0.1

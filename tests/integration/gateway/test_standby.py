"""Nobody is refused while Envoy is dead; what connects waits for the next one. And a port has one gateway."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psutil
import pytest
from support.installation import wait_for
from support.load import Load, load
from support.replica_double import ReplicaDouble

from cortex_core.home import Home
from cortex_operator.gateway.envoy import EnvoyGateway
from cortex_operator.gateway.envoy_config import RELAYS_SOCKET
from cortex_operator.gateway.protocol import GatewayFailed, Upstream

CONNECTIONS = 8


def at(double: ReplicaDouble) -> Upstream:
    return Upstream(host="127.0.0.1", port=double.port)


def kill_envoy(site: Any) -> None:
    """Return when it is dead, which is long before the next one is there."""
    envoy = psutil.Process(site.gateway.pid)
    os.kill(envoy.pid, signal.SIGKILL)
    wait_for(lambda: dead(envoy), within=5, what="Envoy is dead")


def dead(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def lost_by_a_kill(site: Any, running: Load) -> int:
    """Kill Envoy under load; answers how many failed until each connection was answered many times again."""
    before, killed = len(running.so_far().failure_times), site.gateway.pid
    kill_envoy(site)
    wait_for(lambda: site.gateway.pid not in (killed, None), within=5, what="Envoy is back")
    back = running.so_far().answers
    wait_for(lambda: running.so_far().answers > back + 10 * CONNECTIONS, within=10, what="full strength")
    report = running.so_far()
    assert not [failure for failure in report.failures if "refused" in failure]
    return len(report.failures) - before


def connect(site: Any) -> socket.socket:
    return socket.create_connection(("127.0.0.1", site.home.gateway_port), timeout=15)


def answer(connection: socket.socket) -> tuple[http.client.HTTPResponse, Any]:
    response = http.client.HTTPResponse(connection)
    response.begin()
    return response, json.loads(response.read())


@pytest.mark.parametrize("adopted", [False, True])
def test_a_kill_loses_only_what_was_in_flight(
    site: Any, replica: Callable[[str], ReplicaDouble], adopted: bool
) -> None:
    site.serve(at(replica("1")))
    with load(f"{site.url}/iris", connections=CONNECTIONS, pause=0.002) as running:
        wait_for(lambda: running.so_far().answers > 100, within=5, what="load")
        for _ in range(10):
            if adopted:
                site.replace_operator()
                site.open()
            assert lost_by_a_kill(site, running) <= CONNECTIONS


def test_who_connects_while_envoy_is_dead_is_answered_as_ever_but_once(
    site: Any, replica: Callable[[str], ReplicaDouble]
) -> None:
    body = b"x" * 3_000_000  # more than all buffers on the way
    request = (
        b"POST /iris HTTP/1.1\r\nhost: a\r\ncontent-type: text/plain\r\nx-forwarded-for: 192.0.2.9\r\n"
        + b"x-request-id: 1\r\ncontent-length: %d\r\n\r\n" % len(body)
        + body
    )
    site.serve(at(replica("1")))
    with connect(site) as connection:
        connection.sendall(request)
        direct, seen_direct = answer(connection)
    kill_envoy(site)
    with connect(site) as connection:
        connection.sendall(request)
        relayed, seen_relayed = answer(connection)
        assert (relayed.status, relayed.headers["connection"]) == (200, "close")
        assert seen_relayed == seen_direct
        assert set(relayed.headers) - set(direct.headers) == {"connection"}
        assert connection.recv(1) == b"", "the relay ends with the connection"


def test_relayed_answers_arrive_whole(site: Any, replica: Callable[[str], ReplicaDouble]) -> None:
    site.serve(at(replica("1")))
    kill_envoy(site)
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(connect(site)) for _ in range(40)]
        for each in connections:
            each.sendall(b"GET /iris?bytes=2000000 HTTP/1.1\r\nhost: a\r\n\r\n")
        for each in connections:
            response = http.client.HTTPResponse(each)
            response.begin()
            assert response.read() == b"x" * 2_000_000


def test_more_than_can_be_relayed_at_once_wait(site: Any, replica: Callable[[str], ReplicaDouble]) -> None:
    site.serve(at(replica("1")))
    kill_envoy(site)
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(connect(site)) for _ in range(400)]
        for each in connections:
            each.sendall(b"GET /iris?seconds=0.1 HTTP/1.1\r\nhost: a\r\n\r\n")
        for each in connections:
            assert answer(each)[0].status == 200


def test_nobody_waits_for_an_envoy_that_does_not_come_back(site: Any) -> None:
    (site.home.gateway / "bootstrap.json").unlink()
    (site.home.gateway / "bootstrap.json").mkdir()
    kill_envoy(site)
    with connect(site) as connection:
        connection.sendall(b"GET /iris HTTP/1.1\r\nhost: a\r\n\r\n")
        connection.settimeout(10)
        assert ended(connection)


def ended(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def test_an_operator_that_leaves_takes_no_connection_with_it(
    site: Any, replica: Callable[[str], ReplicaDouble]
) -> None:
    site.serve(at(replica("1")))
    with load(f"{site.url}/iris", connections=CONNECTIONS, pause=0.002) as running:
        wait_for(lambda: running.so_far().answers > 100, within=5, what="load")
        for _ in range(5):
            site.replace_operator()
            for _ in range(20):
                with connect(site) as connection:
                    connection.sendall(b"GET /iris HTTP/1.1\r\nhost: a\r\n\r\n")
                    assert answer(connection)[0].status == 200
            site.open()
    assert running.so_far().failures == []


@pytest.mark.parametrize("milliseconds", [None, 0, 30, 60, 90, 120, 150, 200, 250])
def test_shutdown_leaves_nobody_at_the_port(site: Any, milliseconds: int | None) -> None:
    """Told at once, or so long after a death: while the next Envoy starts, and when it takes over."""
    if milliseconds is not None:
        kill_envoy(site)
        time.sleep(milliseconds / 1000)
    site.run(site.gateway.shutdown())
    # What was killed can be dead to those who ask while the kernel still closes its files.
    wait_for(lambda: refused(site), within=2, what="nobody listens")


def refused(site: Any) -> bool:
    try:
        connect(site).close()
    except OSError as error:
        return isinstance(error, ConnectionRefusedError)
    return False


def test_the_port_stays_ours_while_envoy_is_dead(site: Any, new_site: Callable[[], Any]) -> None:
    other = new_site()
    other.home = Home(root=other.home.root, gateway_port=site.home.gateway_port)
    other.gateway = EnvoyGateway(other.home)
    kill_envoy(site)
    with pytest.raises(GatewayFailed, match="Address already in use; it belongs to process"):
        other.open()


def test_of_two_homes_that_start_on_one_port_at_once_at_most_one_gets_it(
    new_site: Callable[[], Any],
) -> None:
    sites = [new_site() for _ in range(2)]
    sites[1].home = Home(root=sites[1].home.root, gateway_port=sites[0].home.gateway_port)
    sites[1].gateway = EnvoyGateway(sites[1].home)
    together = threading.Barrier(2)

    def opened(site: Any) -> bool:
        together.wait(10)
        try:
            site.open()
        except GatewayFailed:
            return False
        return True

    with ThreadPoolExecutor(2) as pool:
        assert sum(pool.map(opened, sites)) <= 1


def test_the_socket_for_relays_is_private(site: Any) -> None:
    assert (site.home.gateway / RELAYS_SOCKET).stat().st_mode & 0o077 == 0

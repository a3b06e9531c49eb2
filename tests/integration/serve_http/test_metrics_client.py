from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from cortex_serve.metrics_client import MetricsClient


@pytest.fixture
def statsd() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(5)
        yield server


def test_metrics_are_sent_with_their_tags(statsd: socket.socket) -> None:
    client = MetricsClient(*statsd.getsockname())

    client.increment("seen")
    client.increment("seen", 3, {"class": "setosa", "odd|name": "a,b"})
    client.gauge("load", value=0.5)
    client.histogram(metric="size", value=10, tags={})
    client.close()

    assert [statsd.recv(1000).decode() for _ in range(4)] == [
        "seen:1|c",
        "seen:3|c|#class:setosa,odd_name:a_b",
        "load:0.5|g",
        "size:10|h",
    ]


def test_nobody_needs_to_listen(statsd: socket.socket) -> None:
    address = statsd.getsockname()
    statsd.close()
    client = MetricsClient(*address)
    for _ in range(10):
        client.increment("seen")
    client.close()


@pytest.mark.parametrize("name", ["cortex_latency", "istio_requests"])
def test_our_names_are_reserved(name: str) -> None:
    client = MetricsClient()
    with pytest.raises(
        ValueError, match=f"^'{name}': names of metrics must not start with 'cortex_' or 'istio_'$"
    ):
        client.increment(name)
    client.close()

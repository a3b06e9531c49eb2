"""Where connections are wanted before anybody needs them."""

from __future__ import annotations

from typing import Any

from cortex_operator.gateway.protocol import Route, Upstream
from cortex_operator.gateway.warming import MOST, Place, places

ONE, TWO = (Upstream(host="127.0.0.1", port=port) for port in (1, 2))


def route(*upstreams: Upstream, **options: Any) -> Route:
    return Route(api="iris", endpoint="/iris", upstreams=upstreams, **{"max_concurrency": 1024, **options})


def test_to_each_process_as_many_as_it_works_on_at_a_time() -> None:
    assert places([route(ONE, TWO, at_a_time=3)]) == {Place(3, "iris", ONE), Place(3, "iris", TWO)}
    assert places([route(ONE, at_a_time=100)]) == {Place(MOST, "iris", ONE)}


def test_one_connection_of_grpc_carries_all() -> None:
    assert places([route(ONE, at_a_time=3, protocol="grpc")]) == {Place(1, "iris", ONE, is_grpc=True)}


def test_not_to_what_goes() -> None:
    assert places([route(ONE, Upstream(host="127.0.0.1", port=2, draining=True))]) == {Place(1, "iris", ONE)}


def test_not_where_a_client_might_miss_the_place() -> None:
    assert places([route(ONE, TWO, max_concurrency=15)]) == set()
    assert len(places([route(ONE, TWO, max_concurrency=16)])) == 2


def test_the_request_says_where_it_goes() -> None:
    assert Place(1, "iris", ONE).request == (
        b"HEAD /info HTTP/1.1\r\nhost: envoy\r\n"
        b"x-cortex-cluster: iris\r\nx-cortex-upstream: 127.0.0.1:1\r\n\r\n"
    )


def test_grpc_is_asked_for_the_health_of_all() -> None:
    head, _, message = Place(1, "iris", ONE, is_grpc=True).request.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert lines[0] == b"POST /grpc.health.v1.Health/Check HTTP/1.1"
    assert b"x-cortex-upstream: 127.0.0.1:1" in lines
    assert message == bytes(int(lines[-1].removeprefix(b"content-length: ")))

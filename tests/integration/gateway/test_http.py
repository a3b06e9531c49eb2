"""What the gateway accepts, refuses and says about it."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import pytest
from support.envoy_clock import envoy_clock
from support.installation import wait_for
from support.replica_double import ReplicaDouble

from cortex_operator.gateway.protocol import Route, Upstream

MAX_BODY = 64 * 1024**2
A_NEW_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}")


class Answer:
    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = response.headers
        self.text = response.read()

    @property
    def json(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.text)
        return document


@pytest.fixture
def double(site: Any, replica: Callable[[str], ReplicaDouble]) -> ReplicaDouble:
    """A replica behind /iris."""
    double = replica("1")
    site.serve(Upstream(host="127.0.0.1", port=double.port))
    return double


def ask(site: Any, target: str = "/iris", method: str = "GET", body: Any = None, **headers: str) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", site.home.gateway_port, timeout=15)
    try:
        connection.request(method, target, body, {name.replace("__", "-"): v for name, v in headers.items()})
        return Answer(connection.getresponse())
    finally:
        connection.close()


def exchange(site: Any, request: bytes) -> Answer:
    """Send raw bytes and read one answer."""
    with socket.create_connection(("127.0.0.1", site.home.gateway_port), timeout=15) as connection:
        connection.sendall(request)
        response = http.client.HTTPResponse(connection)
        response.begin()
        return Answer(response)


# --- paths --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "seen_as"),
    [
        ("/iris", "/"),
        ("/iris/", "/"),
        ("/iris?a=1&b=%2F..", "/?a=1&b=%2F.."),
        ("/iris/?a", "/?a"),
        ("//iris", "/"),
        ("/x/../iris", "/"),
        ("/%69ris", "/"),
    ],
)
def test_the_endpoint_is_the_replicas_root(
    site: Any, double: ReplicaDouble, target: str, seen_as: str
) -> None:
    answer = ask(site, target)
    assert answer.status == 200
    assert answer.json["target"] == seen_as


@pytest.mark.parametrize(
    ("target", "status", "code", "message"),
    [
        (
            "/iris/info",
            403,
            "forbidden",
            "only /iris itself can be called, nothing below it",
        ),
        (
            "/iris/healthz?token=1",
            403,
            "forbidden",
            "only /iris itself can be called, nothing below it",
        ),
        ("/", 404, "not_found", "no API has the endpoint '/'"),
        ("/irises", 404, "not_found", "no API has the endpoint '/irises'"),
        ("/IRIS", 404, "not_found", "no API has the endpoint '/IRIS'"),
        ("/iris%2f", 404, "not_found", "no API has the endpoint '/iris%2f'"),
        ("/iris;x=1", 404, "not_found", "no API has the endpoint '/iris;x=1'"),
        ("/iris/../admin", 404, "not_found", "no API has the endpoint '/admin'"),
        ('/"quoted"', 404, "not_found", "no API has the endpoint '/%22quoted%22'"),
    ],
)
def test_other_paths_are_refused_in_json(
    site: Any, double: ReplicaDouble, target: str, status: int, code: str, message: str
) -> None:
    answer = ask(site, target, x__request__id="abc")
    assert answer.status == status
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"] == "abc"
    assert answer.json == {"code": code, "message": message, "request_id": "abc"}
    assert double.seen() == 0


def test_an_endpoint_below_another_one_is_its_own(site: Any, replica: Callable[[str], ReplicaDouble]) -> None:
    routes = [
        Route(
            api=api,
            endpoint=endpoint,
            upstreams=(Upstream(host="127.0.0.1", port=replica(api).port),),
            max_concurrency=10,
        )
        for api, endpoint in (("outer", "/a"), ("inner", "/a/b.c_d-e"))
    ]
    site.run(site.gateway.apply(routes))
    assert ask(site, "/a").json["version"] == "outer"
    assert ask(site, "/a/b.c_d-e/").json["version"] == "inner"
    assert ask(site, "/a/b").json["message"] == "only /a itself can be called, nothing below it"
    assert (
        ask(site, "/a/b.c_d-e/f").json["message"] == "only /a/b.c_d-e itself can be called, nothing below it"
    )


def test_other_protocols_are_refused_in_json(site: Any, double: ReplicaDouble) -> None:
    websocket = b"GET /iris HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
    for request in (websocket, b"CONNECT x:443 HTTP/1.1\r\nhost: x\r\n\r\n"):
        answer = exchange(site, request)
        assert answer.status == 403
        assert answer.json["message"] == "neither CONNECT nor a change of protocol is served"
    assert double.seen() == 0


def test_requests_sent_ahead_are_answered_in_order(site: Any, double: ReplicaDouble) -> None:
    """The gateway's own answers, too: it makes them faster than it can send them."""
    targets = [
        "/iris",
        "/nowhere",
        "/iris/below",
        "/iris?bytes=300000",
        "/nowhere",
        "/nowhere",
        "/nowhere",
        "/iris",
    ]
    statuses = [200, 404, 403, 200, 404, 404, 404, 200]
    requests = [
        f"GET {target} HTTP/1.1\r\nhost: x\r\nx-request-id: {number}\r\n\r\n"
        for number, target in enumerate(targets * 2)
    ]
    with socket.create_connection(("127.0.0.1", site.home.gateway_port), timeout=15) as connection:
        connection.sendall("".join(requests).encode())
        with connection.makefile("rb") as stream:
            answers = [next_answer(stream) for _ in requests]
    assert answers == [(status, str(number)) for number, status in enumerate(statuses * 2)]


def next_answer(stream: BinaryIO) -> tuple[int, str]:
    """Its status and request id; reads all of it and nothing beyond."""
    status = int(stream.readline().split()[1])
    headers = http.client.parse_headers(stream)
    stream.read(int(headers["content-length"]))
    return status, headers["x-request-id"]


# --- what passes unchanged ----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_every_verb_arrives(site: Any, double: ReplicaDouble, method: str) -> None:
    assert ask(site, method=method).json["method"] == method


@pytest.mark.parametrize("status", [204, 400, 403, 404, 405, 413, 418, 500, 503])
def test_a_replicas_status_is_not_touched(site: Any, double: ReplicaDouble, status: int) -> None:
    answer = ask(site, f"/iris?status={status}", method="PUT")
    assert answer.status == status
    assert b"forbidden" not in answer.text
    assert answer.headers["content-type"] == "application/json"


def test_header_names_with_underscores_are_kept(site: Any, double: ReplicaDouble) -> None:
    headers = ask(site, x_my_header="1", X_Other="2").json["headers"]
    assert headers["x_my_header"] == "1"
    assert headers["x_other"] == "2"


def test_a_large_answer_arrives_whole(site: Any, double: ReplicaDouble) -> None:
    assert len(ask(site, "/iris?bytes=20000000").text) == 20_000_000


def test_envoys_own_headers_stay_inside(site: Any, double: ReplicaDouble) -> None:
    answer = ask(site, x__envoy__max__retries="0", x__envoy__upstream__rq__timeout__ms="1")
    assert answer.status == 200
    assert [name for name in answer.json["headers"] if name.startswith("x-envoy")] == []
    assert [name for name in answer.headers if name.lower().startswith("x-envoy")] == []


# --- request ids --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["a", "A.b_c-9", "x" * 128, "..", "7d3ad2b4-9a3e-4dd5-b5d5-0e2d4e7a9f10"])
def test_a_valid_request_id_is_kept(site: Any, double: ReplicaDouble, given: str) -> None:
    answer = ask(site, x__request__id=given)
    assert answer.headers["x-request-id"] == given
    assert answer.json["headers"]["x-request-id"] == given


@pytest.mark.parametrize(
    "hostile",
    [
        b"../../etc/passwd",
        b"../workspace/api_readiness.txt",
        b"/abs",
        b"a b",
        b"",
        b"x" * 129,
        b"x" * 50_000,
        b"\x1b[31mred",
        b"a\tb",
        b"caf\xc3\xa9",
        b"\xff\xfe",
        b"a,b",
        b'","code":"fake',
        b"%REQ(X)%",
        b"${jndi:ldap://x}",
        b"a\r\nx-request-id: b",
    ],
)
def test_a_hostile_request_id_is_replaced(site: Any, double: ReplicaDouble, hostile: bytes) -> None:
    request = b"GET /iris HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx-request-id: " + hostile + b"\r\n\r\n"
    answer = exchange(site, request)
    if answer.status == 200:
        ids = answer.headers.get_all("x-request-id") or []
        assert len(ids) == 1
        assert A_NEW_ID.fullmatch(ids[0])
        assert answer.json["headers"]["x-request-id"] == ids[0]
    else:
        assert answer.status == 400
        assert double.seen() == 0


def test_a_request_without_id_gets_one(site: Any, double: ReplicaDouble) -> None:
    first, second = (ask(site) for _ in range(2))
    assert A_NEW_ID.fullmatch(first.headers["x-request-id"])
    assert first.json["headers"]["x-request-id"] == first.headers["x-request-id"]
    assert first.headers["x-request-id"] != second.headers["x-request-id"]


# --- limits -------------------------------------------------------------------------------------------------


def test_more_requests_than_allowed_are_told_to_come_back(site: Any, double: ReplicaDouble) -> None:
    upstream = Upstream(host="127.0.0.1", port=double.port)
    site.serve(upstream, max_concurrency=2)
    answers: list[Answer] = []
    slow = [threading.Thread(target=lambda: answers.append(ask(site, "/iris?seconds=1.5"))) for _ in range(2)]
    for thread in slow:
        thread.start()
    wait_for(lambda: site.run(site.gateway.in_flight())["iris"][upstream] == 2, within=5, what="in flight")
    started = time.monotonic()
    refused = [ask(site, origin="http://page.example") for _ in range(10)]
    assert time.monotonic() - started < 1
    for answer in refused:
        assert answer.status == 503
        assert answer.headers["retry-after"] in ("1", "2")
        assert answer.headers["access-control-allow-origin"] == "http://page.example"
        assert answer.json["code"] == "overloaded"
        assert answer.json["message"] == "'iris' has as many requests in flight as it may; try again"
        assert answer.json["request_id"] == answer.headers["x-request-id"]
    for thread in slow:
        thread.join(10)
    assert [answer.status for answer in answers] == [200, 200]
    assert ask(site).status == 200


def test_an_answer_that_takes_too_long_is_not_waited_for(site: Any, double: ReplicaDouble) -> None:
    site.serve(Upstream(host="127.0.0.1", port=double.port), timeout=0.5)
    started = envoy_clock()
    answer = ask(site, "/iris?seconds=5")
    assert 500_000 <= envoy_clock() - started < 2_000_000
    assert answer.status == 504
    assert answer.json["code"] == "timeout"
    assert answer.json["message"] == "'iris' did not answer within 0.5 s"
    assert ask(site, "/iris?seconds=0.1").status == 200


def test_a_replica_is_told_when_its_time_began(site: Any, double: ReplicaDouble) -> None:
    """Not before the whole request was here: a slow sender takes nothing of it."""
    assert "x-request-start" not in ask(site, x__request__start="1").json["headers"]
    site.serve(Upstream(host="127.0.0.1", port=double.port), timeout=5)
    with socket.create_connection(("127.0.0.1", site.home.gateway_port), timeout=15) as connection:
        head = "POST /iris HTTP/1.1\r\nhost: x\r\nx-request-start: 1\r\ncontent-length: 4\r\n\r\n"
        connection.sendall(head.encode())
        time.sleep(0.3)
        before = time.time()
        connection.sendall(b"rest")
        response = http.client.HTTPResponse(connection)
        response.begin()
        told = json.loads(response.read())["headers"]["x-request-start"]
    assert before - 0.002 <= float(told) <= time.time()


def test_a_body_up_to_the_limit_arrives(site: Any, double: ReplicaDouble) -> None:
    answer = ask(site, method="POST", body=b"x" * MAX_BODY)
    assert answer.status == 200
    assert answer.json["length"] == MAX_BODY


def test_a_declared_body_beyond_the_limit_is_refused_unread(site: Any, double: ReplicaDouble) -> None:
    for length in (MAX_BODY + 1, 10**9, 2**62):
        request = f"POST /iris HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n".encode()
        answer = exchange(site, request)
        assert answer.status == 413
        assert answer.json["message"] == "the body is larger than 64 MiB"
    assert double.seen() == 0


def test_a_chunked_body_beyond_the_limit_is_refused(site: Any, double: ReplicaDouble) -> None:
    chunk = b"100000\r\n" + b"x" * 0x100000 + b"\r\n"
    with socket.create_connection(("127.0.0.1", site.home.gateway_port), timeout=15) as connection:
        connection.sendall(b"POST /iris HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
        for _ in range(66):
            try:
                connection.sendall(chunk)
            except OSError:
                break
        assert connection.recv(65536).startswith(b"HTTP/1.1 413 ")
    assert double.seen() == 0


def test_a_chunked_body_arrives_with_its_length_or_not_at_all(site: Any, double: ReplicaDouble) -> None:
    """Plain handlers could not tell one that is cut from one that ends."""
    head = b"POST /iris HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n"
    with socket.create_connection(("127.0.0.1", site.home.gateway_port), timeout=15) as connection:
        connection.sendall(head + b"5\r\nhello\r\n")
        connection.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionResetError):
            connection.recv(1)
    answer = exchange(site, head + b"5\r\nhello\r\n0\r\n\r\n")
    assert answer.json["headers"]["content-length"] == "5"
    assert "transfer-encoding" not in answer.json["headers"]
    assert double.seen() == 1


@pytest.mark.parametrize("headers", ["x-big: " + "x" * 61_500, "\r\n".join(f"x-{n}: 1" for n in range(101))])
def test_too_many_or_too_large_headers_are_refused(site: Any, double: ReplicaDouble, headers: str) -> None:
    answer = exchange(site, f"GET /iris HTTP/1.1\r\nhost: x\r\n{headers}\r\n\r\n".encode())
    assert answer.status == 431
    assert answer.json["code"] == "headers_too_large"
    assert double.seen() == 0


def test_slow_bodies_hold_no_replica(site: Any, double: ReplicaDouble) -> None:
    site.serve(Upstream(host="127.0.0.1", port=double.port), max_concurrency=1)
    slow = [socket.create_connection(("127.0.0.1", site.home.gateway_port), timeout=15) for _ in range(50)]
    for connection in slow:
        connection.sendall(b"POST /iris HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n12345")
    assert [ask(site).status for _ in range(20)] == [200] * 20
    assert double.seen() == 20
    slow[0].sendall(b"67890")
    assert slow[0].recv(65536).startswith(b"HTTP/1.1 200 ")
    for connection in slow:
        connection.close()


def test_slow_readers_of_what_fits_hold_no_place(site: Any, double: ReplicaDouble) -> None:
    """Their answers lie at the gateway and in the system, whole."""
    upstream = Upstream(host="127.0.0.1", port=double.port)
    site.serve(upstream, max_concurrency=1)
    with ExitStack() as ending:
        for _ in range(20):
            reader = ending.enter_context(slow_reader(site, 100_000))
            assert reader.recv(12) == b"HTTP/1.1 200"
            wait_for(
                lambda: not site.run(site.gateway.in_flight())["iris"][upstream],
                within=5,
                what="its place is free",
            )


@pytest.mark.parametrize(
    ("stall_timeout", "timeout", "piece"),
    [(2.0, None, 0), (60.0, 2.0, 1000)],
    ids=["reads nothing", "reads too slowly"],
)
def test_slow_readers_of_what_does_not_fit_hold_a_place_until_their_time_is_up(
    new_site: Any,
    replica: Callable[[str], ReplicaDouble],
    stall_timeout: float,
    timeout: float | None,
    piece: int,
) -> None:
    site = new_site(stall_timeout=stall_timeout).open()
    upstream = Upstream(host="127.0.0.1", port=replica("1").port)
    site.serve(upstream, max_concurrency=4, timeout=timeout)
    with ExitStack() as ending:
        slow = [ending.enter_context(slow_reader(site, 10_000_000)) for _ in range(4)]
        wait_for(lambda: site.run(site.gateway.in_flight())["iris"][upstream] == 4, within=5, what="places")
        assert ask(site).status == 503

        def ended() -> bool:
            for reader in slow:
                with suppress(ConnectionResetError):
                    reader.recv(piece)
            return not site.run(site.gateway.in_flight())["iris"][upstream]

        wait_for(ended, within=15, what="their end")
        assert ask(site).status == 200


def slow_reader(site: Any, size: int) -> socket.socket:
    """A client that has asked for so many bytes, with little room for them."""
    reader = socket.socket()
    reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    reader.settimeout(15)
    reader.connect(("127.0.0.1", site.home.gateway_port))
    reader.sendall(f"GET /iris?bytes={size} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
    return reader


def test_slow_headers_are_cut(site: Any, double: ReplicaDouble) -> None:
    with socket.create_connection(("127.0.0.1", site.home.gateway_port), timeout=15) as connection:
        connection.sendall(b"GET /iris HTTP/1.1\r\nhost: x\r\n")
        received = b""
        for number in range(40):
            try:
                connection.sendall(f"x-{number}: 1\r\n".encode())
                connection.settimeout(0.5)
                received += connection.recv(65536)
                break
            except TimeoutError:
                continue
            except OSError:
                break
        assert received.startswith(b"HTTP/1.1 408 ") or received == b""
        assert number in range(15, 30), "10 s, in steps of half a second"
    assert double.seen() == 0


def test_http_1_0_is_refused_with_what_to_use_instead(site: Any, double: ReplicaDouble) -> None:
    url = urlsplit(site.url)
    with socket.create_connection((url.hostname, url.port), timeout=5) as connection:
        connection.sendall(b"GET /iris HTTP/1.0\r\nhost: x\r\n\r\n")
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b" 426 " in head.splitlines()[0]
    document = json.loads(body)
    assert (document["code"], document["message"]) == ("unsupported", "HTTP/1.0 is not served; use HTTP/1.1")

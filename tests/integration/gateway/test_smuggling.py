"""Requests whose framing can be read in two ways: each is refused, and no replica ever sees a hidden one.

Every case carries a second request, `GET /iris?smuggled`, where a careless reader would find one. A case is
refused when it gets a 4xx, 501 or a closed connection; what has one reading, lawful or made so by the gateway
(it writes every request anew), is answered, and the replica counts the same requests as the gateway.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from support.installation import wait_for
from support.replica_double import ReplicaDouble

from cortex_operator.gateway.protocol import Upstream

HIDDEN = b"GET /iris?smuggled HTTP/1.1\r\nhost: x\r\n\r\n"
CHUNKED = b"0\r\n\r\n" + HIDDEN
LENGTH = str(len(CHUNKED)).encode()


def post(*headers: bytes, body: bytes = CHUNKED, version: bytes = b"HTTP/1.1") -> bytes:
    return b"\r\n".join([b"POST /iris " + version, b"host: x", *headers, b"", b""]) + body


REFUSED = {
    "both length and chunked": post(b"content-length: " + LENGTH, b"transfer-encoding: chunked"),
    "both, chunked first": post(b"transfer-encoding: chunked", b"content-length: " + LENGTH),
    "both, short length": post(b"content-length: 5", b"transfer-encoding: chunked"),
    "two different lengths": post(b"content-length: 5", b"content-length: " + LENGTH),
    "two lengths in one": post(b"content-length: 5, " + LENGTH),
    "length with plus": post(b"content-length: +5"),
    "negative length": post(b"content-length: -1"),
    "hexadecimal length": post(b"content-length: 0x5"),
    "length with underscore": post(b"content-length: 1_0"),
    "length with fraction": post(b"content-length: 5.0"),
    "length with space inside": post(b"content-length: 5 5"),
    "empty length": post(b"content-length: "),
    "length beyond 64 bits": post(b"content-length: 18446744073709551621"),
    "length in other digits": post("content-length: ٥".encode()),
    "chunked then identity": post(b"transfer-encoding: chunked, identity"),
    "identity": post(b"transfer-encoding: identity"),
    "identity then chunked": post(b"transfer-encoding: identity, chunked"),
    "chunked twice": post(b"transfer-encoding: chunked, chunked"),
    "two transfer encodings": post(b"transfer-encoding: chunked", b"transfer-encoding: identity"),
    "gzip": post(b"transfer-encoding: gzip"),
    "misspelt chunked": post(b"transfer-encoding: xchunked"),
    "quoted chunked": post(b'transfer-encoding: "chunked"'),
    "chunked with parameter": post(b"transfer-encoding: chunked;q=1"),
    "chunked after vertical tab": post(b"transfer-encoding: \x0bchunked"),
    "space before the colon": post(b"transfer-encoding : chunked"),
    "space before the length's colon": post(b"content-length : 5"),
    "NUL in a value": post(b"x-a: \x00", b"content-length: 0"),
    "NUL in a name": post(b"x\x00a: 1", b"content-length: 0"),
    "no colon": post(b"transfer-encoding chunked"),
    "empty name": post(b": chunked"),
    "first header is indented": b"POST /iris HTTP/1.1\r\n host: x\r\n\r\n" + CHUNKED,
    "chunk size with plus": post(b"transfer-encoding: chunked", body=b"+5\r\nhello\r\n" + CHUNKED),
    "chunk size with 0x": post(b"transfer-encoding: chunked", body=b"0x5\r\nhello\r\n" + CHUNKED),
    "negative chunk size": post(b"transfer-encoding: chunked", body=b"-1\r\nhello\r\n" + CHUNKED),
    "no chunk size": post(b"transfer-encoding: chunked", body=b"\r\nhello\r\n" + CHUNKED),
    "chunk size beyond 64 bits": post(b"transfer-encoding: chunked", body=b"1%016d\r\n" % 0 + CHUNKED),
    "chunk longer than said": post(b"transfer-encoding: chunked", body=b"3\r\nhello\r\n" + CHUNKED),
    "HTTP/1.0 with chunked": post(b"transfer-encoding: chunked", version=b"HTTP/1.0"),
    "HTTP/0.9": b"GET /iris\r\n\r\n" + HIDDEN,
    "HTTP/1.2": post(b"content-length: 0", version=b"HTTP/1.2"),
    "HTTP/9.9": post(b"content-length: 0", version=b"HTTP/9.9"),
    "no host": b"GET /iris HTTP/1.1\r\n\r\n" + HIDDEN,
    "two hosts": b"GET /iris HTTP/1.1\r\nhost: x\r\nhost: y\r\n\r\n" + HIDDEN,
    "space in the target": b"GET /iris /x HTTP/1.1\r\nhost: x\r\n\r\n" + HIDDEN,
    "NUL in the target": b"GET /iris\x00 HTTP/1.1\r\nhost: x\r\n\r\n" + HIDDEN,
    "unknown method": b"SMUG /iris HTTP/1.1\r\nhost: x\r\n\r\n" + HIDDEN,
    "CONNECT": b"CONNECT x:443 HTTP/1.1\r\nhost: x\r\n\r\n" + HIDDEN,
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + HIDDEN,
}  # fmt: skip

CLEAR = {
    "pipelined": (post(b"content-length: 5", body=b"hello") + HIDDEN, 2),
    "hidden in a body of the right length": (post(b"content-length: " + LENGTH), 1),
    "hidden in a chunk": (
        post(
            b"transfer-encoding: chunked",
            body=f"{len(HIDDEN):x}\r\n".encode() + HIDDEN + b"\r\n0\r\n\r\n",
        ),
        1,
    ),
    "body after GET": (b"GET /iris HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nhello" + HIDDEN, 2),
    "chunk extension": (post(b"transfer-encoding: chunked", body=b"5;a=b\r\nhello\r\n0\r\n\r\n"), 1),
    "Chunked in capitals": (post(b"Transfer-Encoding: CHUNKED", body=b"5\r\nhello\r\n0\r\n\r\n"), 1),
    "LF alone ends a line": (b"POST /iris HTTP/1.1\nhost: x\ncontent-length: 5\n\nhello" + HIDDEN, 2),
    "folded header joins the value": (post(b"x-a: 1\r\n transfer-encoding: chunked", body=HIDDEN), 2),
    "folded framing is framing": (post(b"transfer-encoding:\r\n chunked"), 2),
    "CR in a value is dropped": (post(b"x-a: 1\rtransfer-encoding: chunked", body=HIDDEN), 2),
    "trailer": (
        post(b"transfer-encoding: chunked", body=b"0\r\ncontent-length: 50\r\nx: y\r\n\r\n"),
        1,
    ),
    "upgrade to HTTP/2 is ignored": (
        b"GET /iris HTTP/1.1\r\nhost: x\r\nconnection: upgrade, http2-settings\r\nupgrade: h2c\r\n"
        b"http2-settings: AAMAAABkAAQAAP__\r\n\r\n",
        1,
    ),
}


@pytest.fixture
def double(site: Any, replica: Callable[[str], ReplicaDouble]) -> ReplicaDouble:
    double = replica("1")
    site.serve(Upstream(host="127.0.0.1", port=double.port))
    return double


def exchange(site: Any, request: bytes) -> bytes:
    """Send raw bytes; all that comes back until the gateway closes, which it must."""
    received = b""
    with socket.create_connection(("127.0.0.1", site.home.gateway_port), timeout=3) as connection:
        connection.sendall(request)
        try:
            while piece := connection.recv(65536):
                received += piece
        except ConnectionResetError:
            pass
        except TimeoutError:
            received += b" and left open"
    return received


def test_ambiguous_requests_are_refused(site: Any, double: ReplicaDouble) -> None:
    wrong = []
    with ThreadPoolExecutor(16) as clients:
        answers = clients.map(lambda request: exchange(site, request), REFUSED.values())
    for name, received in zip(REFUSED, answers, strict=True):
        statuses = re.findall(rb"^HTTP/1.1 (\d+) ", received, re.MULTILINE)
        refused = all(status in (b"400", b"403", b"426", b"501") for status in statuses)
        if not refused or len(statuses) > 1 or received.endswith(b"open"):
            wrong.append(f"{name}: {received[:30]!r}...{received[-30:]!r}")
    assert not wrong, "\n".join(wrong)
    assert double.seen() == 0
    assert len(REFUSED) >= 30


@pytest.mark.parametrize("name", CLEAR)
def test_requests_are_counted_the_same_on_both_sides(site: Any, double: ReplicaDouble, name: str) -> None:
    request, count = CLEAR[name]
    with socket.create_connection(("127.0.0.1", site.home.gateway_port), timeout=15) as connection:
        connection.sendall(request)
        received = b""

        def answered() -> bool:
            nonlocal received
            received += connection.recv(65536)
            return received.count(b"HTTP/1.1 200 ") >= count

        wait_for(answered, within=5, what=f"{count} answers")
    assert double.seen() == count

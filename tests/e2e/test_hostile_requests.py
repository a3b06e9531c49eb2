"""Hostile requests through the gateway get a 4xx, cost nobody else anything and leave memory flat."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
from support.installation import Installation
from support.load import Load
from support.projects import write_versioned

MIB = 2**20


@pytest.fixture(scope="module")
def served(cortex: Installation, tmp_path_factory: pytest.TempPathFactory) -> Installation:
    folder = tmp_path_factory.mktemp("project")
    write_versioned(folder, version="1")
    cortex.run("deploy", "--yes", cwd=folder)
    return cortex


@contextmanager
def connection(served: Installation) -> Iterator[socket.socket]:
    url = urlsplit(served.gateway_url)
    with socket.create_connection((url.hostname, url.port), timeout=20) as sock:
        yield sock


def status_of(sock: socket.socket) -> int | None:
    """The status of the answer, or None when the connection was closed without one."""
    received = b""
    while b"\r\n" not in received:
        try:
            part = sock.recv(4096)
        except ConnectionResetError:
            return None
        if not part:
            return None
        received += part
    return int(received.split(b" ", 2)[1])


def post(body: bytes, *, length: int | None = None, headers: str = "content-type: application/json") -> bytes:
    declared = len(body) if length is None else length
    return (
        f"POST /counted HTTP/1.1\r\nhost: x\r\n{headers}\r\ncontent-length: {declared}\r\n\r\n".encode()
        + body
    )


HOSTILE = {
    "malformed JSON": post(b'{"n": '),
    "empty JSON": post(b""),
    "undecodable JSON": post(b'{"n": "\xff"}'),
    "deep JSON": post(b'{"n":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "unclosed deep JSON": post(b"[" * 1_000_000),
    "huge integer": post(b'{"n": ' + b"9" * 100_000 + b"}"),
    "unknown charset": post(b"x", headers="content-type: text/plain; charset=nothing"),
    "bad charset": post(b"\xff\xfe\xff", headers="content-type: text/plain; charset=utf-8"),
    "form without boundary": post(b"x", headers="content-type: multipart/form-data"),
    "1 GB declared": post(b"x" * 1000, length=10**9),
    "negative length": post(b"", length=-1),
    "header flood": post(b"{}", headers="\r\n".join(f"x-{n}: 1" for n in range(1000))),
    "huge header": post(b"{}", headers="x-big: " + "a" * 200_000),
    "two lengths": post(b"{}", headers="content-length: 1"),
    "length and chunked": post(b"0\r\n\r\n", headers="transfer-encoding: chunked"),
    "no HTTP at all": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "unknown verb": b"BREW /counted HTTP/1.1\r\nhost: x\r\n\r\n",
    "below the endpoint": b"GET /counted/../../etc/passwd HTTP/1.1\r\nhost: x\r\n\r\n",
    "encoded path": b"GET /counted/%2e%2e/%2e%2e/etc HTTP/1.1\r\nhost: x\r\n\r\n",
    "no such endpoint": b"GET /nothing HTTP/1.1\r\nhost: x\r\n\r\n",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_request_gets_a_4xx_or_is_cut_off(served: Installation, name: str) -> None:
    with connection(served) as sock:
        try:
            sock.sendall(HOSTILE[name])
        except (BrokenPipeError, ConnectionResetError):
            return
        status = status_of(sock)
    assert status is None or 400 <= status < 500, status


def test_truncated_body_reaches_no_handler(served: Installation) -> None:
    before = served.api("counted")["metrics"]["network_stats"]
    with connection(served) as sock:
        sock.sendall(post(b'{"n": 1}', length=100))
        sock.shutdown(socket.SHUT_WR)
        assert status_of(sock) in (None, 400)
    assert served.api("counted")["metrics"]["network_stats"]["code_5xx"] == before["code_5xx"]


def test_memory_stays_flat_and_others_are_served(served: Installation) -> None:
    load = Load(served.url("counted"), connections=2)
    load.start()
    for _ in range(3):
        storm(served)
    before = resident(served)
    for _ in range(15):
        storm(served)
    grown = resident(served) - before
    report = load.stop()
    assert grown < 64 * MIB, f"{grown / MIB:.0f} MiB more after the storm"
    assert report.failures == []


def storm(served: Installation) -> None:
    for request in HOSTILE.values():
        with connection(served) as sock:
            try:
                sock.sendall(request)
                status_of(sock)
            except (BrokenPipeError, ConnectionResetError):
                continue


def resident(served: Installation) -> int:
    """Memory of everything in this home, in bytes."""
    total = 0
    for process in served.processes():
        try:
            total += process.memory_info().rss
        except psutil.Error:
            continue
    return total


def test_the_big_body_that_is_allowed_arrives(served: Installation, tmp_path: Path) -> None:
    body = b'{"n": 7, "padding": "' + b"x" * (20 * MIB) + b'"}'
    file = tmp_path / "body.json"
    file.write_bytes(body)
    answer = served.run("predict", "counted", f"@{file}")
    assert '"n":7' in answer.stdout.replace(" ", "")

"""Bodies and requests meant to hurt get a 4xx, and the next request is answered as if nothing had been."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

if TYPE_CHECKING:
    from conftest import Served

SOURCE = """
    class Handler:
        def __init__(self, config):
            self.calls = 0

        def handle_post(self, payload):
            self.calls += 1
            return len(payload) if hasattr(payload, "__len__") else payload

        def handle_get(self):
            return self.calls
"""
LIMIT = 1_000_000


@pytest.mark.parametrize("size", [LIMIT - 1, LIMIT])
def test_bodies_up_to_the_limit(api: Served, size: int) -> None:
    assert api.client.post("/", content=b"x" * size).json() == size
    if api.carrier != "wsgi":
        assert api.client.post("/", content=iter([b"x" * (size - 1), b"x"])).json() == size


def test_a_declared_body_above_the_limit_is_413_at_once(api: Served) -> None:
    for length in (LIMIT + 1, 1 << 30, 1 << 62):
        head = f"POST / HTTP/1.1\r\nhost: x\r\nx-request-id: r\r\ncontent-length: {length}\r\n\r\n"
        answer = api.raw(head.encode() + b"some")
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert answer.endswith(
            b'{"code":"body_too_large","message":"the body is larger than 1000000 bytes","request_id":"r"}'
        )


def test_a_chunked_body_above_the_limit_is_413(api: Served) -> None:
    response = api.client.post("/", content=iter([b"x" * LIMIT, b"x"]))

    refused = (411, "length_required") if api.carrier == "wsgi" else (413, "body_too_large")
    assert (response.status_code, response.json()["code"]) == refused


def test_memory_stays_flat(api: Served) -> None:
    process = psutil.Process(api.process.pid)
    deep = b"[" * (LIMIT // 2) + b"]" * (LIMIT // 2)
    json = {"content-type": "application/json"}
    for _ in range(5):
        api.client.post("/", content=deep, headers=json)
    before = process.memory_info().rss
    for _ in range(60):
        assert api.client.post("/", content=deep, headers=json).status_code == 400
        api.raw(b"POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 1000000000\r\n\r\n")
    assert process.memory_info().rss - before < 32 * 1024 * 1024


@pytest.mark.parametrize("content_type", ["application/json", "text/plain", "application/octet-stream"])
def test_a_truncated_body_never_reaches_the_handler(api: Served, content_type: str) -> None:
    calls = api.client.get("/").json()
    head = f"POST / HTTP/1.1\r\nhost: x\r\ncontent-type: {content_type}\r\ncontent-length: 10\r\n\r\n"

    answer = api.raw(head.encode() + b"[1]", end=True)

    assert answer == b"" or answer.startswith(b"HTTP/1.1 400 ")
    assert api.client.get("/").json() == calls


@pytest.mark.parametrize("cut", [b"3\r\n[1]\r\n", b"9\r\n[1]", b"3\r\n[1]\r\n0\r\n", b""])
def test_a_chunked_body_that_is_cut_never_reaches_the_handler(api: Served, cut: bytes) -> None:
    calls = api.client.get("/").json()
    head = (
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
    )

    answer = api.raw(head + cut, end=True)

    assert answer == b"" or answer.startswith(b"HTTP/1.1 4")
    assert api.client.get("/").json() == calls


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 513 + b"]" * 513,
        b'{"a":' * 600 + b"1" + b"}" * 600,
        b"[" * 900_000,
        b"9" * 900_000,
        b"-" + b"9" * 5000,
        b'"' + b"\\" * 899_999,
        b'"' + b'\\"' * 400_000,
        b"\xff\xfe\x00",
        b"[1" + b" " * 900_000,
        "[".encode("utf-16") * 1000,
    ],
)
def test_bombs_are_400(api: Served, body: bytes) -> None:
    response = api.client.post("/", content=body, headers={"content-type": "application/json"})

    assert (response.status_code, response.json()["code"]) == (400, "invalid_json")
    assert len(response.content) < 4096


def test_512_levels_are_allowed_and_brackets_in_strings_are_none(api: Served) -> None:
    json = {"content-type": "application/json"}
    assert api.client.post("/", content=b"[" * 512 + b"]" * 512, headers=json).status_code == 200
    flat = b"[" + b",".join([b'["[[[[", {"{": "\\"{[\\\\"}]'] * 3000) + b"]"
    assert api.client.post("/", content=flat, headers=json).json() == 3000


@pytest.mark.parametrize(
    "data",
    [
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1x\r\n\r\nab",
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        b"GET / HTTP/1.1\r\nhost: x\r\nbad header: 1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"GET / HTTP/1.1\r\nhost: x\r\n" + b"a: b\r\n" * 20_000 + b"\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\na: " + b"b" * 2_000_000 + b"\r\n\r\n",
    ],
)
def test_what_is_not_http_is_refused(api: Served, data: bytes) -> None:
    answer = api.raw(data, end=True)

    assert answer == b"" or answer.startswith(b"HTTP/1.1 4")
    assert api.client.get("/").status_code == 200


def test_nothing_is_left_in_the_file_system(api: Served, tmp_path: Path) -> None:
    files = {"a": ("../../left-here", b"x" * 900_000)}
    assert api.client.post("/", files=files).json() == 1
    assert not list(tmp_path.parent.rglob("left-here"))

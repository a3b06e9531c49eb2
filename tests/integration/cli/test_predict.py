"""`predict`: what reaches the API, and where its answer goes."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from support.fake_operator import FakeOperator
from support.installation import BIN, Installation

GRPC = (
    "- {name: hello, kind: RealtimeAPI, networking: {endpoint: /hello.Greeter},"
    " handler: {type: python, path: handler.py, protobuf_path: hello.proto}}"
)
HELLO = "- {name: hello, kind: RealtimeAPI, handler: {type: python, path: handler.py}}"


@pytest.fixture(autouse=True)
def _deployed(operator: FakeOperator, cortex: Installation) -> None:
    operator.deployed(HELLO)


def test_json(cortex: Installation, operator: FakeOperator) -> None:
    done = cortex.run("predict", "hello", '{"a": 1}')
    assert (done.stdout, done.stderr) == ('{"a": 1}', "")
    ((request, headers, body),) = operator.calls
    assert (request, headers["content-type"], body) == ("POST ", "application/json", b'{"a": 1}')


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.json", b"[1]", "application/json"),
        ("a.dat", b'{"x": 1}', "application/json"),
        ("a.png", b"\x89PNG", "image/png"),
        ("a.csv", b"1", "text/csv"),
        ("a.txt", b"hello", "text/plain"),
        ("a", b"\xff\x00", "application/octet-stream"),
    ],
)
def test_files(
    cortex: Installation, operator: FakeOperator, tmp_path: Path, name: str, content: bytes, expected: str
) -> None:
    (tmp_path / name).write_bytes(content)
    done = subprocess.run(
        [str(BIN / "cortex"), "predict", "hello", f"@{name}"],
        cwd=tmp_path, env=dict(cortex.environ), capture_output=True, timeout=60, check=True,
    )  # fmt: skip
    assert done.stdout == content
    assert operator.calls[0][1]["content-type"] == expected


def test_stdin_headers_query_and_method(cortex: Installation, operator: FakeOperator) -> None:
    options = ("--header", "X-Key: a:b", "--query", "q=1=2", "--method", "put", "-H", "content-type:text/x")
    cortex.run("predict", "hello", "-", *options, stdin="some text")
    ((request, headers, body),) = operator.calls
    assert (request, headers["x-key"], headers["content-type"]) == ("PUT q=1%3D2", "a:b", "text/x")
    assert body == b"some text"


def test_no_data_is_an_empty_body(cortex: Installation, operator: FakeOperator) -> None:
    cortex.run("predict", "hello")
    assert operator.calls[0][0::2] == ("POST ", b"")


def test_other_status_is_exit_code_1_with_the_body_on_stderr(
    cortex: Installation, operator: FakeOperator
) -> None:
    done = cortex.run("predict", "hello", '"oh"', "--query", "status=503", expect=1)
    assert done.stdout == ""
    assert (
        done.stderr
        == f'error: {operator.endpoint}/api/hello?status=503 answered 503 Service Unavailable\n"oh"\n'
    )


def test_verbose(cortex: Installation) -> None:
    done = cortex.run("predict", "hello", "1", "-v")
    assert (done.stdout, done.stderr.splitlines()[0][:13]) == ("1", "200 OK after ")


def test_a_grpc_api_takes_another_client(cortex: Installation, operator: FakeOperator) -> None:
    operator.deployed(GRPC)
    address = operator.endpoint.removeprefix("http://")
    done = cortex.run("predict", "hello", "1", expect=1)
    assert done.stderr == (
        "error: 'hello' is a gRPC API, and this command speaks HTTP\n"
        f"hint: call it with a gRPC client at {address} (gRPC without TLS, service hello.Greeter)\n"
    )
    assert operator.calls == []


def test_mistakes(cortex: Installation) -> None:
    assert "error: none.json: No such file" in cortex.run("predict", "hello", "@none.json", expect=1).stderr
    assert "'x' must be KEY:VALUE" in cortex.run("predict", "hello", "-H", "x", expect=2).stderr
    cortex.run("predict", "nope", "1", expect=3)

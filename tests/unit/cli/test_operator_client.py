"""What answers of an operator mean."""

from __future__ import annotations

from typing import Any

import httpx
import msgspec
import pytest

from cortex.operator_client import NotAnOperator, OperatorClient
from cortex_core import errors
from cortex_core.errors import CortexError
from cortex_core.operator_api import DocumentProblem, Info, Problem


def client(answer: httpx.Response | Exception) -> OperatorClient:
    def respond(_: httpx.Request) -> httpx.Response:
        if isinstance(answer, Exception):
            raise answer
        return answer

    return OperatorClient("http://x", token="t", environment="prod", transport=httpx.MockTransport(respond))


def refusal(code: str, status: int = 400, **fields: Any) -> httpx.Response:
    return httpx.Response(status, content=msgspec.json.encode(Problem(code=code, message="no", **fields)))


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("not_found", errors.NotFound), ("conflict", errors.Conflict), ("timed_out", errors.TimedOut),
        ("invalid_project", errors.InvalidProject), ("invalid_config", CortexError),
        ("something new", CortexError),
    ],
)  # fmt: skip
def test_refusals(code: str, expected: type[CortexError]) -> None:
    with pytest.raises(expected, match=r"^no$") as raised:
        client(refusal(code, hint="do")).apis()
    assert (type(raised.value), raised.value.hint) == (expected, "do")


def test_problems_of_a_file_are_all_shown() -> None:
    problems = (
        DocumentProblem(line=1, column=1, text="a:1:1: x"),
        DocumentProblem(line=2, column=1, text="a:2:1: y"),
    )
    with pytest.raises(CortexError, match=r"^no\na:1:1: x\na:2:1: y$"):
        client(refusal("invalid_config", problems=problems)).apis()


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (httpx.ConnectError("refused"), errors.OperatorUnreachable),
        (httpx.ConnectTimeout("slow"), errors.OperatorUnreachable),
        (httpx.RemoteProtocolError("gone"), errors.OperatorUnreachable),
        (httpx.ReadTimeout("slow"), errors.TimedOut),
        (httpx.Response(200, content=b"<html>"), NotAnOperator),
        (httpx.Response(404, content=b"<html>"), NotAnOperator),
        (httpx.Response(502, content=b"<html>"), CortexError),
    ],
)
def test_no_answer_or_a_wrong_one(failure: httpx.Response | Exception, expected: type[CortexError]) -> None:
    with pytest.raises(CortexError) as raised:
        client(failure).apis()
    assert type(raised.value) is expected


def test_info_of_something_else() -> None:
    other = httpx.Response(200, content=msgspec.json.encode(Info(version="1", service="nginx")))
    with pytest.raises(NotAnOperator):
        client(other).info()

"""Calling an API."""

from __future__ import annotations

import json
import mimetypes
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cortex.console import Console
from cortex.endpoints import endpoint_of
from cortex_core.errors import CortexError, OperatorUnreachable, TimedOut
from cortex_core.operator_api import ApiStatus
from cortex_core.spec.types import is_grpc

CONNECT_TIMEOUT = 5.0
_MOST_ERROR_BYTES = 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class Body:
    """What is sent."""

    content: bytes
    content_type: str


@dataclass(frozen=True, kw_only=True)
class Call:
    """One request to an API.

    Attributes:
        timeout: seconds the answer may pause.
    """

    url: str
    method: str = "POST"
    body: Body | None = None
    headers: tuple[tuple[str, str], ...] = ()
    query: tuple[tuple[str, str], ...] = ()
    timeout: float = 60.0


def pairs(words: Sequence[str], separator: str) -> tuple[tuple[str, str], ...]:
    """Words like `key:value`, taken apart.

    Raises:
        ValueError: a word has no separator, or nothing before it.
    """
    split = [word.partition(separator) for word in words]
    for word, (key, found, _) in zip(words, split, strict=True):
        if not found or not key.strip():
            raise ValueError(f"'{word}' must be KEY{separator}VALUE")
    return tuple((key.strip(), value.strip() if separator == ":" else value) for key, _, value in split)


def read_body(data: str | None, *, stdin: Callable[[], bytes]) -> Body | None:
    """What a DATA argument means.

    Raises:
        CortexError: the file cannot be read.
    """
    if data is None:
        return None
    if data == "-":
        return _typed(stdin(), name=None)
    if not data.startswith("@"):
        return _typed(data.encode(), name=None)
    try:
        return _typed(Path(data[1:]).read_bytes(), name=data[1:])
    except OSError as error:
        raise CortexError(f"{data[1:]}: {error.strerror}") from error


def url_of(api: ApiStatus) -> str:
    """Where to send a request.

    Raises:
        CortexError: it takes more than a request.
    """
    if is_grpc(api.spec):
        raise CortexError(
            f"'{api.spec.name}' is a gRPC API, and this command speaks HTTP",
            hint=f"call it with a gRPC client at {endpoint_of(api)}",
        )
    return api.endpoint


def predict(call: Call, *, console: Console, verbose: bool = False) -> bool:
    """Send the request and print the answer as it comes: to stdout, or to stderr when the status is not 2xx.

    Returns:
        Whether the status was 2xx.

    Raises:
        OperatorUnreachable: nobody answers at the URL.
        TimedOut: the answer paused for too long.
    """
    import httpx

    headers = {"accept-encoding": "identity", "user-agent": "cortex"}
    if call.body is not None:
        headers["content-type"] = call.body.content_type
    is_plain = call.url.startswith("http://")
    timeout = httpx.Timeout(call.timeout, connect=CONNECT_TIMEOUT)
    started = time.monotonic()
    try:
        with (
            httpx.Client(timeout=timeout, verify=not is_plain, trust_env=not is_plain) as client,
            client.stream(
                call.method.upper(), call.url, params=list(call.query) or None,
                headers=[*_without(headers, call.headers), *call.headers],
                content=None if call.body is None else call.body.content,
            ) as response,
        ):  # fmt: skip
            if verbose:
                _describe(response, time.monotonic() - started, console)
            return _print_answer(response, console)
    except httpx.ConnectError as error:
        raise OperatorUnreachable(
            f"nobody answers at {call.url}", hint="look at the gateway with: cortex local status"
        ) from error
    except httpx.TimeoutException as error:
        raise TimedOut(f"{call.url} did not answer within {call.timeout:g} s") from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise CortexError(f"{call.url}: the connection broke: {error}") from error


def _print_answer(response: object, console: Console) -> bool:
    import httpx

    assert isinstance(response, httpx.Response)
    if response.is_success:
        last = b""
        for chunk in response.iter_raw():
            console.result_bytes(chunk)
            last = chunk
        if console.is_terminal and not last.endswith(b"\n"):
            console.result("")
        return True
    body = b""
    for chunk in response.iter_raw():
        body += chunk
        if len(body) > _MOST_ERROR_BYTES:
            break
    console.note(f"error: {response.request.url} answered {response.status_code} {response.reason_phrase}")
    if body:
        console.note(body.decode(errors="replace"))
    return False


def _describe(response: object, seconds: float, console: Console) -> None:
    import httpx

    assert isinstance(response, httpx.Response)
    console.note(f"{response.status_code} {response.reason_phrase} after {seconds * 1000:.0f} ms")
    for key, value in response.headers.items():
        console.note(f"{key}: {value}")


def _typed(content: bytes, *, name: str | None) -> Body:
    """JSON if it parses as such, else by the file's name, else text or bytes."""
    guessed = None if name is None else mimetypes.guess_type(name)[0]
    if guessed in (None, "application/json", "text/plain") and _parses_as_json(content):
        return Body(content=content, content_type="application/json")
    return Body(content=content, content_type=guessed or _plain_type(content))


def _plain_type(content: bytes) -> str:
    try:
        content.decode()
    except UnicodeDecodeError:
        return "application/octet-stream"
    return "text/plain; charset=utf-8"


def _parses_as_json(content: bytes) -> bool:
    try:
        json.loads(content)
    except (ValueError, RecursionError):
        return False
    return True


def _without(headers: dict[str, str], given: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    names = {key.lower() for key, _ in given}
    return [(key, value) for key, value in headers.items() if key not in names]

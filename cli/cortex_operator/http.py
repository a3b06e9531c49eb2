"""The operator's HTTP API; its routes and documents are those of `cortex_core.operator_api`."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cortex_core import errors, operator_api
from cortex_core.errors import CortexError
from cortex_core.operator_api import DeployRequest, DocumentProblem, LogRecord, Problem, RollbackRequest
from cortex_core.spec.problems import InvalidConfig
from cortex_operator.auth import is_authorized, is_local
from cortex_operator.backends.protocol import LogLine, LogQuery
from cortex_operator.operator import Operator
from cortex_operator.projects import is_digest
from cortex_operator.specs import ConflictingConfig
from cortex_operator.state import StateUnusable
from cortex_operator.without_state import OperatorWithoutState

MAX_PROJECT_BYTES = 64 * 1024 * 1024
MAX_DOCUMENT_BYTES = 4 * 1024 * 1024
MAX_WAIT = 30.0
UPLOAD_SILENCE = 60.0
"""Seconds without a byte of a body after which it is given up."""

logger = logging.getLogger(__name__)
D = TypeVar("D", bound=msgspec.Struct)


class Unauthorized(CortexError):
    """The token is missing or wrong."""


class Forbidden(CortexError):
    """The request was not meant for this operator."""


class BadRequest(CortexError):
    """The request cannot be understood."""


class NoSuchRoute(CortexError):
    """The path or its method is not part of the API."""


class TooLarge(CortexError):
    """The body is larger than it may be."""


ANSWERS: dict[type[CortexError], tuple[int, str]] = {
    ConflictingConfig: (409, "conflict"),
    InvalidConfig: (400, "invalid_config"),
    errors.InvalidProject: (400, "invalid_project"),
    errors.UnsafeArchive: (400, "invalid_project"),
    BadRequest: (400, "bad_request"),
    Unauthorized: (401, "unauthorized"),
    Forbidden: (403, "unauthorized"),
    errors.NotFound: (404, "not_found"),
    NoSuchRoute: (404, "not_found"),
    errors.Conflict: (409, "conflict"),
    TooLarge: (413, "bad_request"),
    StateUnusable: (503, "unavailable"),
    errors.TimedOut: (504, "timed_out"),
    CortexError: (500, "failed"),
}
"""Status and code of each expected error; the first class that fits counts. The others are our defects."""


def create_app(
    operator: Operator,
    *,
    token: str,
    hosts: Collection[str],
    stop: Callable[[], None],
    ready: Callable[[], Awaitable[None]],
    uploads: Path,
) -> ASGIApp:
    """The HTTP application.

    Args:
        token: the shared secret.
        hosts: accepted Host headers, with port.
        stop: called after a shutdown was answered.
        ready: awaited before everything but `/v1/info`; raises why the operator cannot be used.
        uploads: folder for bodies while they arrive.
    """
    api = Api(operator, stop=stop, ready=ready, uploads=uploads)
    return _application(
        [
            Route("/v1/info", api.info),
            Route("/v1/projects/{digest}", api.head_project, methods=["HEAD"]),
            Route("/v1/projects/{digest}", api.put_project, methods=["PUT"]),
            Route("/v1/deploy", api.deploy, methods=["POST"]),
            Route("/v1/deployments/{id}", api.deployment),
            Route("/v1/apis", api.apis),
            Route("/v1/apis/{name}", api.api),
            Route("/v1/apis/{name}", api.delete, methods=["DELETE"]),
            Route("/v1/apis/{name}/refresh", api.refresh, methods=["POST"]),
            Route("/v1/apis/{name}/rollback", api.rollback, methods=["POST"]),
            Route("/v1/apis/{name}/history", api.history),
            Route("/v1/apis/{name}/logs", api.logs),
            Route("/v1/events", api.events),
            Route("/v1/shutdown", api.shutdown, methods=["POST"]),
        ],
        token=token,
        hosts=hosts,
    )


def create_app_without_state(
    operator: OperatorWithoutState,
    why: CortexError,
    *,
    token: str,
    hosts: Collection[str],
    stop: Callable[[], None],
) -> ASGIApp:
    """Tells who it is and can be shut down; everything else is answered with `why`, and then it stops.

    Args:
        why: said to everybody who wants something.
        token, hosts, stop: see `create_app`.
    """

    async def refuse(_: Request) -> Response:
        stop()  # the next command starts a new one, which sees whether the database was put right
        raise why

    everything = ["GET", "HEAD", "POST", "PUT", "DELETE"]
    return _application(
        [
            Route("/v1/info", partial(_info, operator)),
            Route("/v1/shutdown", partial(_shutdown, operator.shut_down, stop), methods=["POST"]),
            Route("/{path:path}", refuse, methods=everything),
        ],
        token=token,
        hosts=hosts,
    )


def _application(routes: Sequence[Route], *, token: str, hosts: Collection[str]) -> ASGIApp:
    app = Starlette(
        routes=routes,
        exception_handlers={
            CortexError: _expected,
            HTTPException: _no_such_route,
            Exception: _unexpected,
        },
    )
    return Edge(app, token=token, hosts=hosts)


class Edge:
    """Checks who asks, gives the request an id, and turns errors into documents."""

    def __init__(self, app: ASGIApp, *, token: str, hosts: Collection[str]) -> None:
        self._app = app
        self._token = token
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        request = Request(scope)
        request_id = secrets.token_hex(8)
        scope.setdefault("state", {})["request_id"] = request_id
        answered = False

        async def send_with_id(message: Message) -> None:
            nonlocal answered
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), (b"x-request-id", request_id.encode())]
            answered = message["type"] == "http.response.body" and not message.get("more_body", False)
            await send(message)

        try:
            self._check(request)
            await self._app(scope, receive, send_with_id)
        except CortexError as refused:
            await (await _expected(request, refused))(scope, receive, send_with_id)
        except ClientDisconnect:
            return
        except Exception:
            logger.exception("%s %s failed, request %s", request.method, request.url.path, request_id)
            if not answered:
                raise

    def _check(self, request: Request) -> None:
        headers = request.headers
        if not is_local(headers.get("host"), headers.get("origin"), self._hosts):
            raise Forbidden("this address or origin may not talk to the operator")
        if request.url.path != "/v1/info" and not is_authorized(headers.get("authorization"), self._token):
            raise Unauthorized(
                "the operator's token is missing or wrong", hint="it is in operator/token of CORTEX_HOME"
            )


class Api:
    """One method a route."""

    def __init__(
        self,
        operator: Operator,
        *,
        stop: Callable[[], None],
        ready: Callable[[], Awaitable[None]],
        uploads: Path,
    ) -> None:
        self._operator = operator
        self._stop = stop
        self._ready = ready
        self._uploads = uploads

    async def info(self, request: Request) -> Response:
        return await _info(self._operator, request)

    async def head_project(self, request: Request) -> Response:
        await self._ready()
        found = await self._operator.has_project(_digest(request))
        return Response(status_code=200 if found else 404)

    async def put_project(self, request: Request) -> Response:
        await self._ready()
        digest = _digest(request)
        with tempfile.NamedTemporaryFile(dir=self._uploads, prefix=".upload-", suffix=".tar.gz") as upload:
            async for chunk in _body(request, MAX_PROJECT_BYTES):
                upload.write(chunk)
            upload.flush()
            new = await self._operator.add_project(digest, Path(upload.name))
        return _document(
            operator_api.Message(message="stored" if new else "known"), status=201 if new else 200
        )

    async def deploy(self, request: Request) -> Response:
        await self._ready()
        asked = await _read(request, DeployRequest)
        if asked.project_digest is not None and not is_digest(asked.project_digest):
            raise BadRequest("project_digest must be 64 hex digits")
        return _document(await self._operator.deploy(asked))

    async def deployment(self, request: Request) -> Response:
        await self._ready()
        wait = _number(request, "wait", default=0.0, largest=MAX_WAIT)
        after = _number(request, "after")
        deployment = await self._operator.deployment(
            request.path_params["id"], wait=wait or 0.0, after=None if after is None else int(after)
        )
        return _document(deployment)

    async def apis(self, _: Request) -> Response:
        await self._ready()
        return _document(await self._operator.statuses())

    async def api(self, request: Request) -> Response:
        await self._ready()
        return _document(await self._operator.status(_name(request)))

    async def delete(self, request: Request) -> Response:
        await self._ready()
        return _document(await self._operator.delete(_name(request), keep_cache=_flag(request, "keep_cache")))

    async def refresh(self, request: Request) -> Response:
        await self._ready()
        return _document(await self._operator.refresh(_name(request), force=_flag(request, "force")))

    async def rollback(self, request: Request) -> Response:
        await self._ready()
        asked = await _read(request, RollbackRequest)
        return _document(await self._operator.rollback(_name(request), asked.release_id))

    async def history(self, request: Request) -> Response:
        await self._ready()
        return _document(self._operator.history(_name(request)))

    async def logs(self, request: Request) -> Response:
        await self._ready()
        tail = _number(request, "tail")
        query = LogQuery(
            tail=None if tail is None else int(tail),
            since=_number(request, "since"),
            replica=request.query_params.get("replica"),
            follow=_flag(request, "follow"),
        )
        lines = self._operator.logs(_name(request), query)
        return StreamingResponse(_records(lines), media_type="text/plain; charset=utf-8")

    async def events(self, request: Request) -> Response:
        await self._ready()
        tail = _number(request, "tail")
        return _document(
            self._operator.events(
                api=request.query_params.get("api"), tail=None if tail is None else int(tail)
            )
        )

    async def shutdown(self, request: Request) -> Response:
        return await _shutdown(self._shut_down, self._stop, request)

    async def _shut_down(self) -> None:
        await self._ready()
        await self._operator.shut_down()


async def _info(operator: Operator | OperatorWithoutState, _: Request) -> Response:
    return _document(operator.info(pid=os.getpid()))


async def _shutdown(
    shut_down: Callable[[], Awaitable[None]], stop: Callable[[], None], request: Request
) -> Response:
    replicas = _flag(request, "replicas")
    if replicas:
        await shut_down()
    stop()
    done = "the operator, the gateway and all replicas are stopped" if replicas else "the operator stops"
    return _document(operator_api.Message(message=done))


async def _records(lines: AsyncIterator[LogLine]) -> AsyncIterator[bytes]:
    async for line in lines:
        yield msgspec.json.encode(LogRecord(replica=line.replica, line=line.text)) + b"\n"


def _document(value: Any, *, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status_code=status, media_type="application/json")


async def _expected(request: Request, error: Exception) -> Response:
    assert isinstance(error, CortexError)
    status, code = next(answer for kind, answer in ANSWERS.items() if isinstance(error, kind))
    problems = error.problems if isinstance(error, InvalidConfig) else ()
    problem = Problem(
        code=code,
        message=error.message,
        request_id=request.state.request_id,
        hint=error.hint,
        problems=tuple(
            DocumentProblem(line=each.line, column=each.column, text=each.render()) for each in problems
        ),
    )
    return _document(problem, status=status)


async def _unexpected(request: Request, _: Exception) -> Response:
    problem = Problem(
        code="internal",
        message="something went wrong in the operator; operator.log says what, beside the request's id",
        request_id=request.state.request_id,
    )
    return _document(problem, status=500)


async def _no_such_route(request: Request, _: Exception) -> Response:
    message = f"{request.method} {request.url.path} is not part of the operator's API"
    return await _expected(request, NoSuchRoute(message))


async def _body(request: Request, limit: int) -> AsyncIterator[bytes]:
    """The body in pieces, never more than it may have."""
    declared = request.headers.get("content-length", "0")
    received = int(declared) if declared.isdigit() else 0
    if received > limit:
        raise TooLarge(f"the body has {received} bytes, more than the {limit} it may have")
    received = 0
    stream = request.stream()
    while True:
        try:
            chunk = await asyncio.wait_for(anext(stream), UPLOAD_SILENCE)
        except StopAsyncIteration:
            return
        except asyncio.TimeoutError:
            raise errors.TimedOut(f"no byte of the body came for {UPLOAD_SILENCE:g} seconds") from None
        received += len(chunk)
        if received > limit:
            raise TooLarge(f"the body has more than the {limit} bytes it may have")
        yield chunk


async def _read(request: Request, kind: type[D]) -> D:
    body = b"".join([chunk async for chunk in _body(request, MAX_DOCUMENT_BYTES)])
    try:
        return msgspec.json.decode(body or b"{}", type=kind)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise BadRequest(f"the body is not a {kind.__name__}: {error}") from error


def _name(request: Request) -> str:
    return str(request.path_params["name"])


def _digest(request: Request) -> str:
    digest = str(request.path_params["digest"])
    if not is_digest(digest):
        raise BadRequest("a project's digest is 64 hex digits")
    return digest


def _flag(request: Request, key: str) -> bool:
    value = request.query_params.get(key, "false").lower()
    if value not in ("true", "false", "1", "0"):
        raise BadRequest(f"{key} must be true or false, got '{value}'")
    return value in ("true", "1")


def _number(
    request: Request, key: str, *, default: float | None = None, largest: float = 1e18
) -> float | None:
    text = request.query_params.get(key)
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= largest:
        raise BadRequest(f"{key} must be a number of at least 0, got '{text}'")
    return value

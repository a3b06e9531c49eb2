"""Requests of an application with models: what both carriers do around each.

An application without models is carried without any of this.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cortex_serve.models.request import Use, current

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

HEADER = "x-cortex-model"
_RAW_HEADER = HEADER.encode()


class WsgiWithModels:
    """A WSGI application whose requests use models.

    Args:
        carrier: the application.
        begin: makes what a request uses.
    """

    def __init__(
        self,
        carrier: Callable[[WSGIEnvironment, StartResponse], Iterable[bytes]],
        begin: Callable[[], Use],
    ) -> None:
        self._carrier = carrier
        self._begin = begin

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        use = self._begin()

        def start(status: str, headers: list[tuple[str, str]], *exc_info: Any) -> Any:
            named = use.header()
            return start_response(status, [*headers, (HEADER, named)] if named else headers, *exc_info)

        token = current.set(use)
        body: Iterable[bytes] = ()
        try:
            body = self._carrier(environ, start)
        finally:
            current.reset(token)
            if not hasattr(body, "close"):
                use.release()
        return _Body(body, use) if hasattr(body, "close") else body


class _Body:
    """A body whose request goes on until the server has closed it."""

    def __init__(self, body: Any, use: Use) -> None:
        self._body = body
        self._use = use

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._body)

    def close(self) -> None:
        try:
            self._body.close()
        finally:
            self._use.release()


class AsgiWithModels:
    """An ASGI application whose requests use models.

    Args:
        carrier: the application.
        begin: makes what a request uses.
    """

    def __init__(self, carrier: ASGIApp, begin: Callable[[], Use]) -> None:
        self._carrier = carrier
        self._begin = begin

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._carrier(scope, receive, send)
            return
        use = self._begin()

        async def send_named(message: Message) -> None:
            if message["type"] == "http.response.start" and (named := use.header()):
                message = {**message, "headers": [*message["headers"], (_RAW_HEADER, named.encode())]}
            await send(message)

        token = current.set(use)
        try:
            await self._carrier(scope, receive, send_named)
        finally:
            current.reset(token)
            use.release()

"""A handler that is built by its first request, on the one thread that all its requests run on.

Things that only the thread that made them may use (sqlite3 connections, sessions of some libraries) can so be
made by a constructor. The server offers no other way onto its thread than a request; the supervisor sends one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from cortex_serve.stats import Stats

if TYPE_CHECKING:
    from cortex_serve.application import Application


class BuiltByFirstRequest:
    """Stands for the application until that is built.

    Args:
        build: makes the application.
        ready: called with its statistics once it is made.
        failed: called with what was raised instead; must end the process.

    Attributes:
        wsgi: the application's, once it is built.
    """

    is_async = False
    batching = None

    def __init__(
        self,
        build: Callable[[], Application],
        *,
        ready: Callable[[Stats], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        self.wsgi: Callable[..., Iterable[bytes]] = self._build_and_answer
        self._build = build
        self._ready = ready
        self._failed = failed
        self._application: Application | None = None

    @property
    def asgi(self) -> Any:
        raise RuntimeError("only handlers that are not asynchronous are built by a request: serve `wsgi`")

    @property
    def stats(self) -> Stats:
        return self._application.stats if self._application else Stats()

    def close(self) -> None:
        if self._application is not None:
            self._application.close()

    def _build_and_answer(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        try:
            self._application = self._build()
            self.wsgi = self._application.wsgi
        except BaseException as error:
            self._failed(error)
            raise
        self._ready(self._application.stats)
        return self.wsgi(environ, start_response)

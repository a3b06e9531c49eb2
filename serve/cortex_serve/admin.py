"""The admin port: health, readiness, metrics and models of a replica, for those who run it.

It is served by the supervisor, so it answers also while all workers are busy, starting or dead.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeAlias

import msgspec
from prometheus_client import CONTENT_TYPE_LATEST

from cortex_core.operator_api import ModelStatus

JSON = "application/json"
_TIMEOUT = 10.0

Page: TypeAlias = Callable[[], tuple[int, str, bytes]]
"""Answers one path: status, content type, body."""


@dataclass(frozen=True, kw_only=True)
class Pages:
    """What is shown.

    Attributes:
        health: what the supervisor and its workers are doing.
        unready: why the replica is not ready; nothing when it is.
        metrics: in Prometheus's text format.
        models: every version of every model that is known.
    """

    health: Callable[[], dict[str, Any]]
    unready: Callable[[], list[str]]
    metrics: Callable[[], bytes]
    models: Callable[[], list[ModelStatus]]

    def by_path(self) -> dict[str, Page]:
        return {
            "/healthz": lambda: (200, JSON, _json(self.health())),
            "/readyz": self._readiness,
            "/metrics": lambda: (200, CONTENT_TYPE_LATEST, self.metrics()),
            "/models": lambda: (200, JSON, msgspec.json.encode(self.models()) + b"\n"),
        }

    def _readiness(self) -> tuple[int, str, bytes]:
        reasons = self.unready()
        return (503 if reasons else 200), JSON, _json({"ready": not reasons, "reasons": reasons})


def serve(listener: socket.socket, pages: Pages) -> None:
    """Answer on a bound, listening socket, in the background, for as long as the process lives."""
    server = _Server(listener.getsockname()[:2], _Handler, bind_and_activate=False)
    server.socket.close()
    server.socket = listener
    server.pages = pages.by_path()
    threading.Thread(target=server.serve_forever, name="cortex-admin", daemon=True).start()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    pages: dict[str, Page]

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that left is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = _TIMEOUT
    wbufsize = -1  # head and body in one piece
    server: _Server

    def do_GET(self) -> None:
        page = self.server.pages.get(self.path.partition("?")[0])
        if page is None:
            known = ", ".join(self.server.pages)
            self._answer(404, JSON, _json({"code": "not_found", "message": f"there is {known}"}))
        else:
            self._answer(*page())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class's name
        """Probes are not worth a line."""

    def _answer(self, status: int, content_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-type", content_type)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _json(value: object) -> bytes:
    return json.dumps(value).encode() + b"\n"

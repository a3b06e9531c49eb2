"""grpc.health.v1: whether the server as a whole, "", and its service are being served."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
from grpc_health.v1 import health_pb2

_NAME = "grpc.health.v1.Health"
_STATUS = health_pb2.HealthCheckResponse


class Health:
    """Says SERVING, then NOT_SERVING; also when all threads of the handler are busy.

    Args:
        service: the full name of what is served.
        leaving: set when the server is about to leave.
    """

    def __init__(self, service: str, leaving: asyncio.Event) -> None:
        self._known = ("", service)
        self._leaving = leaving

    def handlers(self) -> Any:
        """The service, as grpcio takes it."""
        parse, encode = health_pb2.HealthCheckRequest.FromString, _STATUS.SerializeToString
        return grpc.method_handlers_generic_handler(
            _NAME,
            {
                "Check": grpc.unary_unary_rpc_method_handler(self._check, parse, encode),
                "Watch": grpc.unary_stream_rpc_method_handler(self._watch, parse, encode),
            },
        )

    async def _check(self, request: Any, context: Any) -> Any:
        if request.service not in self._known:
            await context.abort(
                grpc.StatusCode.NOT_FOUND, f"there is no service {request.service[:200]!r} here"
            )
        return _STATUS(status=self._status())

    async def _watch(self, request: Any, context: Any) -> None:
        """Two statuses at most, then the end: an open stream would keep the server from leaving."""
        is_known = request.service in self._known
        await context.write(_STATUS(status=self._status() if is_known else _STATUS.SERVICE_UNKNOWN))
        if not self._leaving.is_set():
            await self._leaving.wait()
            if is_known:
                await context.write(_STATUS(status=_STATUS.NOT_SERVING))

    def _status(self) -> Any:
        return _STATUS.NOT_SERVING if self._leaving.is_set() else _STATUS.SERVING

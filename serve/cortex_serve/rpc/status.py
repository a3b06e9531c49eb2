"""How an RPC that failed ends: the status its client gets, and the one that the log has for it."""

from __future__ import annotations

import grpc

from cortex_core.models.errors import ModelError, UnknownModel, UnknownVersion
from cortex_serve.rpc.method import InvalidMessage
from cortex_serve.stats import CLIENT_CLOSED

MAX_DETAILS = 2048
"""Bytes of a status' text. On the wire they are up to three times as many, and most clients take 8 KiB of metadata."""


def of(error: BaseException) -> tuple[grpc.StatusCode, str]:
    """Code and text for what a method raised: its own errors are for its author, who finds them in the log."""
    if isinstance(error, InvalidMessage):
        return grpc.StatusCode.INVALID_ARGUMENT, str(error)
    if isinstance(error, ModelError):
        is_unknown = isinstance(error, UnknownModel | UnknownVersion)
        code = grpc.StatusCode.NOT_FOUND if is_unknown else grpc.StatusCode.UNAVAILABLE
        return code, getattr(error, "summary", None) or error.message
    return grpc.StatusCode.INTERNAL, "internal server error"


def sendable(details: str) -> str:
    """A status' text as UTF-8, which names of files may not be, and not too long."""
    return details.encode(errors="backslashreplace")[:MAX_DETAILS].decode(errors="ignore")


def in_http(code: grpc.StatusCode) -> int:
    """The status of HTTP that means the same."""
    return _HTTP.get(code, 500)


_HTTP = {
    grpc.StatusCode.CANCELLED: CLIENT_CLOSED,
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.FAILED_PRECONDITION: 400,
    grpc.StatusCode.OUT_OF_RANGE: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ABORTED: 409,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}
"""As google.rpc.Code maps them; everything else is 500."""

"""Answers of the gateway itself: in which words, and for whom.

HTTP clients get JSON `{"code", "message", "request_id"}`; gRPC clients the same message as the text of a status.
The first answer that fits is taken.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

from cortex_operator.gateway.envoy_document import Document, header
from cortex_operator.gateway.limits import BODY_TIMEOUT, MAX_BODY, MAX_HEADERS, MAX_HEADERS_KIB

TIMEOUT = "timeout"
"""What a route's metadata says about its time limit."""
METADATA = "cortex"

_API = "%ROUTE_NAME%"
_WHY = "%LOCAL_REPLY_BODY%"


class Grpc(IntEnum):
    """Status codes of gRPC."""

    DEADLINE_EXCEEDED = 4
    RESOURCE_EXHAUSTED = 8
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What is said when.

    Attributes:
        when: a filter of Envoy's access log.
        code: stable word for programs.
        message: for people.
        grpc: the status for gRPC clients; None where none can be.
        grpc_message: where they need other words.
        becomes: another HTTP status than Envoy's own.
        retry_after: seconds.
    """

    when: Document
    code: str
    message: str
    grpc: Grpc | None
    grpc_message: str | None = None
    becomes: int | None = None
    retry_after: int | None = None


def local_replies() -> Document:
    """`local_reply_config`. gRPC clients first: a filter that samples is asked anew in each entry, so what it says
    for them must not let them fall through to the words for others."""
    answers = list(_answers())
    for_grpc = [_to_grpc(answer, answer.grpc) for answer in answers if answer.grpc is not None]
    return {
        "mappers": [*for_grpc, _other_to_grpc(), *map(_to_http, answers)],
        "body_format": _json("error", _WHY),
    }


def _answers() -> Iterator[Answer]:
    yield from _overloaded()
    for flag, what in (("UH", "is ready"), ("UF", "can be reached")):
        yield Answer(
            when=_flags(flag),
            code="no_replica",
            message=f"no replica of '{_API}' {what}",
            grpc=Grpc.UNAVAILABLE,
        )
    yield Answer(
        when=_flags("UT"),
        code="timeout",
        message=f"'{_API}' did not answer within %METADATA(ROUTE:{METADATA}:{TIMEOUT})%",
        grpc=Grpc.DEADLINE_EXCEEDED,
    )
    yield Answer(
        when=_flags("UC", "UPE"),
        code="replica_failed",
        message=f"a replica of '{_API}' ended before it had answered; the request may have been processed",
        becomes=502,
        grpc=Grpc.UNAVAILABLE,
    )
    yield Answer(
        when=_upgrade(),
        code="forbidden",
        message="neither CONNECT nor a change of protocol is served",
        grpc=None,
    )
    for status, code, message, grpc in (
        (403, "forbidden", _WHY, Grpc.UNIMPLEMENTED),
        (413, "too_large", f"the body is larger than {MAX_BODY // 1024**2} MiB", Grpc.RESOURCE_EXHAUSTED),
        (415, "unsupported", _WHY, None),
        (426, "unsupported", "HTTP/1.0 is not served; use HTTP/1.1", None),
        (
            431,
            "headers_too_large",
            f"more than {MAX_HEADERS} headers or {MAX_HEADERS_KIB} KiB",
            Grpc.RESOURCE_EXHAUSTED,
        ),
        (400, "bad_request", f"not a valid request: {_WHY} (%RESPONSE_CODE_DETAILS%)", Grpc.INTERNAL),
        (503, "unavailable", _WHY, Grpc.UNAVAILABLE),
    ):
        yield Answer(when=_status(status), code=code, message=message, grpc=grpc)
    for status, message in (
        (408, f"the request did not arrive within {BODY_TIMEOUT} s"),
        (504, "the request took too long"),
    ):
        yield Answer(
            when=_status(status),
            code="timeout",
            message=message,
            grpc=Grpc.DEADLINE_EXCEEDED,
            grpc_message="the call took longer than its deadline or the API's request_timeout allows",
        )
    yield Answer(
        when=_status(404),
        code="not_found",
        message="no API has the endpoint '%PATH(NQ):200%'",
        grpc=Grpc.UNIMPLEMENTED,
        grpc_message="no API has the method '%PATH(NQ):200%'",
    )
    yield Answer(
        when=_status(501),
        code="unsupported",
        message="the request's transfer encoding is not supported",
        grpc=Grpc.UNIMPLEMENTED,
        grpc_message=_WHY,
    )


def _overloaded() -> Iterator[Answer]:
    """To come again after 1 or 2 s, at random so that the refused do not all come back together."""
    half = {
        "runtime_filter": {
            "runtime_key": "cortex.retry_after",
            "percent_sampled": {"numerator": 50, "denominator": "HUNDRED"},
            "use_independent_randomness": True,
        }
    }
    full, message = _flags("UO"), f"'{_API}' has as many requests in flight as it may; try again"
    exhausted, memory = _flags("OM"), "the gateway is out of memory; try again"
    for when, text, after in ((_all(full, half), message, 1), (full, message, 2), (exhausted, memory, 2)):
        yield Answer(when=when, code="overloaded", message=text, grpc=Grpc.UNAVAILABLE, retry_after=after)


def _to_http(answer: Answer) -> Document:
    wait = [header("retry-after", str(answer.retry_after))] if answer.retry_after else []
    return {
        "filter": answer.when,
        "headers_to_add": [*_CORS, *wait],
        "body_format_override": _json(answer.code, answer.message),
        **({"status_code": answer.becomes} if answer.becomes else {}),
    }


def _to_grpc(answer: Answer, status: Grpc) -> Document:
    wait = [header("grpc-retry-pushback-ms", str(answer.retry_after * 1000))] if answer.retry_after else []
    return {
        "filter": _all(_GRPC, answer.when),
        "headers_to_add": [header("grpc-status", str(int(status))), *wait],
        "body_format_override": _text(answer.grpc_message or answer.message),
    }


def _other_to_grpc() -> Document:
    return {"filter": _GRPC, "body_format_override": _text(_WHY)}


def _json(code: str, message: str) -> Document:
    return {"json_format": {"code": code, "message": message, "request_id": "%REQ(X-REQUEST-ID)%"}}


def _text(message: str) -> Document:
    return {"text_format_source": {"inline_string": message}}


# --- when ---------------------------------------------------------------------------------------------------


def _all(*filters: Document) -> Document:
    return {"and_filter": {"filters": list(filters)}}


def _flags(*flags: str) -> Document:
    return {"response_flag_filter": {"flags": list(flags)}}


def _status(code: int) -> Document:
    value = {"default_value": code, "runtime_key": f"cortex.status_{code}"}
    return {"status_code_filter": {"comparison": {"op": "EQ", "value": value}}}


def _upgrade() -> Document:
    """What Envoy answers with 403 by itself."""
    asked = [
        {"header_filter": {"header": {"name": "upgrade", "present_match": True}}},
        {"header_filter": {"header": {"name": ":method", "string_match": {"exact": "CONNECT"}}}},
    ]
    return _all(_status(403), {"or_filter": {"filters": asked}})


_GRPC = {
    "header_filter": {
        "header": {
            "name": "content-type",
            "string_match": {"safe_regex": {"regex": r"application/grpc(\+.*)?"}},
        }
    }
}

_CORS = (
    header("access-control-allow-origin", "%REQ(ORIGIN)%"),
    header("access-control-allow-credentials", "true"),
    header("access-control-expose-headers", "content-length, content-range, x-request-id"),
)
"""So that a page in a browser can read why it was refused."""

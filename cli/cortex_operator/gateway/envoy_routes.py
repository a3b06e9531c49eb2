"""Which request goes to which API: the entries of Envoy's route table, in order.

what is refused whatever its path
gRPC: /<package>.<Service>/<Method>     one API each
      health and reflection             the API that metadata `x-cortex-api` names, or the only one there is
HTTP: endpoints                         exact, so that one below another one is still found
      what is below them, the deepest first; for gRPC APIs also the endpoint itself: refused
everything else                         refused
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from cortex_core.runtime import NOT_BEGUN, REQUEST_TIMEOUT
from cortex_operator.gateway.envoy_answers import METADATA, TIMEOUT
from cortex_operator.gateway.envoy_document import TYPE, Document, extension, header, seconds
from cortex_operator.gateway.limits import (
    MAX_BODY,
    RETRIED_MESSAGE,
    RETRIES,
    RETRY_BACKOFF,
    RETRY_BACKOFF_MAX,
)
from cortex_operator.gateway.protocol import Route

BUFFER_FILTER = "envoy.filters.http.buffer"
API_METADATA = "x-cortex-api"
"""Metadata by which a client of the services that all gRPC APIs have says which API it means."""
REQUEST_START = "x-request-start"
"""Header that tells a replica when its time for the request began: once the gateway had all of it."""

_SHARED_SERVICES = (
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
)
_SHARED = "_shared"
_LATER = 0.3
"""Seconds after a replica should have ended a call by itself, at which the gateway ends it: before a process that hangs
is replaced, which would tell its client that the replica failed."""
_LONGER = 60.0
"""Seconds by which a request may be silent longer than it may last: it is always the latter that ends it."""


def shared_cluster(api: str) -> str:
    """The cluster of a gRPC API's replicas for the services that all have. A `Watch` of health lasts: where methods are
    called, it would count as a call, for the API's limit, for choosing a process, and for whether a replica may go."""
    return f"{api}{_SHARED}"


def is_shared(cluster: str) -> bool:
    return cluster.endswith(_SHARED)  # names of APIs have no underscore


def entries(apis: Sequence[Route]) -> list[Document]:
    """The route table; the first entry that matches counts."""
    ordered = sorted(apis, key=lambda route: route.endpoint)
    grpc = [route for route in ordered if route.protocol == "grpc"]
    return [
        _body_too_large(),
        _ambiguous_host(),
        _tunnel(),
        *(_methods(route) for route in grpc),
        *_shared_services(grpc),
        *(entry for route in ordered if route.protocol == "http" for entry in _endpoint(route)),
        *(_below_endpoint(route) for route in reversed(ordered)),
        _refused("unknown", {"prefix": "/"}, 404),
    ]


# --- HTTP ---------------------------------------------------------------------------------------------------


def _endpoint(route: Route) -> Iterator[Document]:
    """The endpoint itself, with and without a trailing slash, is the replica's root."""
    timeout = REQUEST_TIMEOUT if route.timeout is None else route.timeout
    for path in (route.endpoint, route.endpoint + "/"):
        yield {
            "name": route.api,
            "match": {"path": path},
            "route": {
                "cluster": route.api,
                "prefix_rewrite": "/",
                "timeout": seconds(timeout),
                "idle_timeout": seconds(timeout + _LONGER),
                "retry_policy": _retry_policy(),
            },
            "metadata": {"filter_metadata": {METADATA: {TIMEOUT: f"{timeout:g} s"}}},
            **_request_start(route),
        }


def _request_start(route: Route) -> Document:
    """Only what we say ourselves; when there is a time limit."""
    if route.timeout is None:
        return {"request_headers_to_remove": [REQUEST_START]}
    return {"request_headers_to_add": [header(REQUEST_START, "%EMIT_TIME(%s.%3f)%")]}


def _below_endpoint(route: Route) -> Document:
    if route.protocol == "grpc":
        why = f"'{route.api}' is a gRPC API: call it with a gRPC client"
        return _refused(route.api, {"path_separated_prefix": route.endpoint}, 415, why)
    why = f"only {route.endpoint} itself can be called, nothing below it"
    return _refused(route.api, {"path_separated_prefix": route.endpoint}, 403, why)


# --- gRPC ---------------------------------------------------------------------------------------------------


def _methods(route: Route) -> Document:
    """The methods of an API's service."""
    return _calls(route, {"prefix": f"{route.endpoint}/"}, cluster=route.api, limit=route.timeout)


def _shared_services(grpc: Sequence[Route]) -> Iterator[Document]:
    """Services that every gRPC API has."""
    for service in _SHARED_SERVICES if grpc else ():
        match = {"prefix": f"/{service}/"}
        for route in grpc:
            named = {"name": API_METADATA, "string_match": {"exact": route.api}}
            yield _calls(route, {**match, "headers": [named]}, cluster=shared_cluster(route.api), limit=None)
        unnamed = {"name": API_METADATA, "present_match": False}
        if len(grpc) == 1:
            cluster = shared_cluster(grpc[0].api)
            yield _calls(grpc[0], {**match, "headers": [unnamed]}, cluster=cluster, limit=None)
        names = ", ".join(route.api for route in grpc)
        why = f"{service}: say with metadata {API_METADATA} which API is meant: {names}"
        yield _refused("unknown", {**match, "grpc": {}}, 501, why)


def _calls(route: Route, match: Document, *, cluster: str, limit: float | None) -> Document:
    """Calls go through as they come: nobody knows which of them are streams.

    A call may take as long as its client gives it, at most the limit.
    """
    longest = seconds(0 if limit is None else limit + _LATER)
    return {
        "name": route.api,
        "match": {**match, "grpc": {}},
        "route": {
            "cluster": cluster,
            "timeout": "0s",
            "idle_timeout": "0s",
            "max_stream_duration": {"max_stream_duration": longest, "grpc_timeout_header_max": longest},
            "retry_policy": _retry_policy(),
        },
        "request_headers_to_remove": [REQUEST_START],
        "request_body_buffer_limit": RETRIED_MESSAGE,
        **_unbuffered(),
    }


# --- both ---------------------------------------------------------------------------------------------------


def _retry_policy() -> Document:
    """Only what no replica has seen a byte of, or what one says that it has not begun, is sent again, elsewhere if there
    is an elsewhere."""
    return {
        "retry_on": "connect-failure,refused-stream,reset-before-request,retriable-headers",
        "retriable_headers": [{"name": NOT_BEGUN, "present_match": True}],
        "num_retries": RETRIES,
        "retry_back_off": {
            "base_interval": seconds(RETRY_BACKOFF),
            "max_interval": seconds(RETRY_BACKOFF_MAX),
        },
        "retry_host_predicate": [
            extension(
                "envoy.retry_host_predicates.previous_hosts",
                "extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate",
            )
        ],
        "host_selection_retry_max_attempts": 3,
    }


def _body_too_large() -> Document:
    """A declared length beyond the limit is refused before any of it is read."""
    beyond = {"start": MAX_BODY + 1, "end": 2**63 - 1}
    headers = [{"name": "content-length", "range_match": beyond}]
    return _refused("too-large", {"prefix": "/", "headers": headers}, 413)


def _ambiguous_host() -> Document:
    """Two Host headers arrive here joined by a comma."""
    headers = [{"name": ":authority", "string_match": {"contains": ","}}]
    return _refused("ambiguous-host", {"prefix": "/", "headers": headers}, 400, "more than one Host")


def _tunnel() -> Document:
    """Envoy refuses CONNECT by itself, but only where it matches a route."""
    return _refused("tunnel", {"connect_matcher": {}}, 403)


def _refused(name: str, match: Document, status: int, why: str = "") -> Document:
    """An answer of the gateway's own; `envoy_answers` says with which words. The body is not waited for."""
    return {
        "name": name,
        "match": match,
        "direct_response": {"status": status, "body": {"inline_string": why}},
        **_unbuffered(),
    }


def _unbuffered() -> dict[str, Any]:
    buffer = {"@type": TYPE + "extensions.filters.http.buffer.v3.BufferPerRoute", "disabled": True}
    return {"typed_per_filter_config": {BUFFER_FILTER: buffer}}

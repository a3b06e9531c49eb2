"""Envoy's configuration as data: routes in, documents out; nothing here touches a file or a process.

Envoy reads four kinds of documents from one folder, its working directory:

    bootstrap.json              the process: admin socket, limits, the listener and how it treats HTTP, and the
                                same once more for what is relayed
    routes.json                 RDS: which path goes to which cluster; the listener itself never changes,
                                so no connection is ever closed by a deploy
    clusters.json               CDS: one cluster an API, its circuit breaker
    endpoints/<api>.json        EDS: the replicas of one API and whether they are draining

The last three carry a version that is a digest of what they say; Envoy reports which version it serves.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Any

from cortex_operator.gateway.protocol import Route

Document = dict[str, Any]

ADMIN_SOCKET = "admin.sock"
BOOTSTRAP = "bootstrap.json"
ROUTES = "routes.json"
CLUSTERS = "clusters.json"
ENDPOINTS = "endpoints"
RELAYS_SOCKET = "relays.sock"
LISTENER = "gateway"
"""Name of the listener and of its statistics."""

MAX_BODY = 64 * 1024**2
MAX_HEADERS = 100
MAX_HEADERS_KIB = 60
MAX_HEAP = 1024**3
MAX_CONNECTIONS = 10_000
BUFFER = 256 * 1024
"""Bytes of one connection that Envoy holds in memory before it makes the sender wait."""

REQUEST_TIMEOUT = 3600
"""Seconds a replica may take; also how long a connection may be silent while it works."""
HEADERS_TIMEOUT = 10
BODY_TIMEOUT = 300
"""Seconds in which a whole request must have arrived."""
IDLE_TIMEOUT = 300
UPSTREAM_IDLE_TIMEOUT = 30
"""Seconds; must be shorter than the replica's, so that it is always Envoy that closes an idle connection."""

RETRIES = 36
"""With at most `RETRY_BACKOFF_MAX` between them, jittered from zero, they span about 4.5 s: a replica that is
restarted within 3 s costs waiting requests time, not an error."""
RETRY_BACKOFF = 0.025
RETRY_BACKOFF_MAX = 0.25

REQUEST_ID = "^[A-Za-z0-9._-]+$"
REQUEST_ID_LENGTH = 128

UNLIMITED = 1_000_000

_TYPE = "type.googleapis.com/envoy."


def bootstrap(*, address: str, port: int, version: str) -> Document:
    """The process-wide document.

    Args:
        address: to listen on.
        port: to listen on.
        version: Envoy's, so that an upgraded Envoy has another bootstrap.
    """
    return {
        "node": {"id": "cortex-gateway", "cluster": "cortex", "metadata": {"envoy": version}},
        "admin": {"address": {"pipe": {"path": ADMIN_SOCKET, "mode": 0o600}}},
        "dynamic_resources": {"cds_config": _file(CLUSTERS)},
        "static_resources": {"listeners": [_listener(address, port), _relays()]},
        "overload_manager": _overload_manager(),
        # What follows a chunk must be its end; without this, Envoy skips to the next line.
        "layered_runtime": {
            "layers": [
                {"name": "strict", "static_layer": {"envoy.reloadable_features.strict_chunk_parsing": True}}
            ]
        },
        "stats_flush_interval": "1s",
    }


def routes(apis: Iterable[Route]) -> Document:
    """RDS: exact endpoints first, so that an endpoint below another one is still found; then what is below
    them, the deepest first."""
    ordered = sorted(apis, key=lambda route: route.endpoint)
    return _discovery(
        [
            {
                "@type": _TYPE + "config.route.v3.RouteConfiguration",
                "name": LISTENER,
                "request_headers_to_remove": ["x-envoy-external-address"],
                "virtual_hosts": [
                    {
                        "name": LISTENER,
                        "domains": ["*"],
                        "routes": [
                            _body_too_large(),
                            _ambiguous_host(),
                            _tunnel(),
                            *(entry for route in ordered for entry in _endpoint(route)),
                            *(_below_endpoint(route) for route in reversed(ordered)),
                            _unknown_endpoint(),
                        ],
                    }
                ],
            }
        ]
    )


def clusters(apis: Iterable[Route]) -> Document:
    """CDS: one cluster an API."""
    named = {route.api: _cluster(route) for route in apis}
    return _discovery([named[name] for name in sorted(named)])


def joined(known: Document, wanted: Document) -> Document:
    """CDS: the wanted clusters, and of the known ones those that are not among them."""
    named = {resource["name"]: resource for resource in [*known["resources"], *wanted["resources"]]}
    return _discovery([named[name] for name in sorted(named)])


def endpoints(route: Route) -> Document:
    """EDS: the replicas of one API."""
    return _discovery(
        [
            {
                "@type": _TYPE + "config.endpoint.v3.ClusterLoadAssignment",
                "cluster_name": route.api,
                "endpoints": [
                    {
                        "lb_endpoints": [
                            {
                                "health_status": "DRAINING" if upstream.draining else "HEALTHY",
                                "endpoint": {"address": _address(upstream.host, upstream.port)},
                            }
                            for upstream in sorted(route.upstreams)
                        ]
                    }
                ],
            }
        ]
    )


def encode(document: Document) -> bytes:
    return json.dumps(document, indent=1).encode()


def _discovery(resources: Sequence[Document]) -> Document:
    digest = hashlib.sha256(json.dumps(resources, sort_keys=True).encode()).hexdigest()[:16]
    return {"version_info": digest, "resources": list(resources)}


def _file(path: str) -> Document:
    return {"path_config_source": {"path": f"./{path}"}, "resource_api_version": "V3"}


def _address(host: str, port: int) -> Document:
    return {"socket_address": {"address": host, "port_value": port}}


def _extension(name: str, proto: str, **fields: Any) -> Document:
    return {"name": name, "typed_config": {"@type": _TYPE + proto, **fields}}


def _seconds(value: float) -> str:
    return f"{value:g}s"


# --- the listener -------------------------------------------------------------------------------------------


def _listener(address: str, port: int) -> Document:
    return {
        "name": LISTENER,
        "address": _address(address, port),
        # With `standby`, which has made sure before that the port is no other gateway's.
        "enable_reuse_port": True,
        "per_connection_buffer_limit_bytes": BUFFER,
        "filter_chains": [{"filters": [_http_connection_manager()]}],
    }


def _relays() -> Document:
    """For `relay`. One request a connection, so that clients soon come directly."""
    return {
        "name": "relays",
        "address": {"pipe": {"path": RELAYS_SOCKET, "mode": 0o600}},
        "per_connection_buffer_limit_bytes": BUFFER,
        "listener_filters": [
            _extension(
                "envoy.filters.listener.proxy_protocol",
                "extensions.filters.listener.proxy_protocol.v3.ProxyProtocol",
            )
        ],
        "filter_chains": [{"filters": [_http_connection_manager(max_requests_per_connection=1)]}],
    }


def _http_connection_manager(**connection: int) -> Document:
    return _extension(
        "envoy.filters.network.http_connection_manager",
        "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix=LISTENER,
        rds={"route_config_name": LISTENER, "config_source": _file(ROUTES)},
        http_filters=[_buffer(), _router()],
        server_name="cortex",
        server_header_transformation="APPEND_IF_ABSENT",
        # Clients are strangers: what they say in x-envoy-* headers is dropped.
        use_remote_address=True,
        internal_address_config={"cidr_ranges": [{"address_prefix": "255.255.255.255", "prefix_len": 32}]},
        generate_request_id=True,
        preserve_external_request_id=True,
        always_set_request_id_in_response=True,
        early_header_mutation_extensions=[_replace_invalid_request_id()],
        normalize_path=True,
        merge_slashes=True,
        # Replicas only ever see "/", so an escaped slash is harmless and simply matches no endpoint.
        path_with_escaped_slashes_action="KEEP_UNCHANGED",
        max_request_headers_kb=MAX_HEADERS_KIB,
        common_http_protocol_options={
            "idle_timeout": _seconds(IDLE_TIMEOUT),
            "max_headers_count": MAX_HEADERS,
            "headers_with_underscores_action": "ALLOW",
            **connection,
        },
        http2_protocol_options={
            "max_concurrent_streams": 100,
            "initial_stream_window_size": 64 * 1024,
            "initial_connection_window_size": 1024**2,
        },
        request_headers_timeout=_seconds(HEADERS_TIMEOUT),
        request_timeout=_seconds(BODY_TIMEOUT),
        stream_idle_timeout=_seconds(REQUEST_TIMEOUT),
        stream_flush_timeout=_seconds(BODY_TIMEOUT),
        local_reply_config=_local_replies(),
    )


def _buffer() -> Document:
    """Bodies arrive here completely before a replica hears of the request: a slow sender holds none."""
    return _extension(
        "envoy.filters.http.buffer", "extensions.filters.http.buffer.v3.Buffer", max_request_bytes=MAX_BODY
    )


def _router() -> Document:
    return _extension(
        "envoy.filters.http.router", "extensions.filters.http.router.v3.Router", suppress_envoy_headers=True
    )


def _replace_invalid_request_id() -> Document:
    header = "request.headers['x-request-id']"
    valid = f"size({header}) <= {REQUEST_ID_LENGTH} && {header}.matches('{REQUEST_ID}')"
    # What cannot be there is absent, and COALESCE goes on to a new id.
    keep_valid = f"{valid} ? {header} : request.headers[' ']"
    first = json.dumps({"operators": [{"command": "CEL", "param": keep_valid}, {"command": "UNIQUE_ID"}]})
    return _extension(
        "envoy.http.early_header_mutation.header_mutation",
        "extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation",
        mutations=[
            {
                "append": {
                    "header": {"key": "x-request-id", "value": f"%COALESCE({first})%"},
                    "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
                }
            }
        ],
    )


def _overload_manager() -> Document:
    """Refuse rather than grow: by memory, and by connections."""

    def at(share: float) -> Document:
        return {"name": "envoy.resource_monitors.fixed_heap", "threshold": {"value": share}}

    def between(start: float, end: float) -> Document:
        return {
            "name": "envoy.resource_monitors.fixed_heap",
            "scaled": {"scaling_threshold": start, "saturation_threshold": end},
        }

    return {
        "refresh_interval": "0.25s",
        "buffer_factory_config": {"minimum_account_to_track_power_of_two": 20},
        "resource_monitors": [
            _extension(
                "envoy.resource_monitors.fixed_heap",
                "extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig",
                max_heap_size_bytes=MAX_HEAP,
            ),
            _extension(
                "envoy.resource_monitors.global_downstream_max_connections",
                "extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
                max_active_downstream_connections=MAX_CONNECTIONS,
            ),
        ],
        "actions": [
            {"name": "envoy.overload_actions.shrink_heap", "triggers": [at(0.8)]},
            {
                "name": "envoy.overload_actions.reset_high_memory_stream",
                "triggers": [between(0.85, 0.95)],
            },
            {"name": "envoy.overload_actions.disable_http_keepalive", "triggers": [at(0.92)]},
            {"name": "envoy.overload_actions.stop_accepting_requests", "triggers": [at(0.95)]},
        ],
    }


# --- answers of the gateway itself --------------------------------------------------------------------------

_API = "%ROUTE_NAME%"


def _header(name: str, value: str) -> Document:
    return {"header": {"key": name, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}


_CORS = (
    _header("access-control-allow-origin", "%REQ(ORIGIN)%"),
    _header("access-control-allow-credentials", "true"),
    _header("access-control-expose-headers", "content-length, content-range, x-request-id"),
)
"""So that a page in a browser can read why it was refused."""


def _local_replies() -> Document:
    """Every answer that no replica gave is JSON `{"code", "message", "request_id"}`; the first match wins."""
    return {
        "mappers": [
            *_overloaded(),
            _reply(_flags("UH"), "no_replica", f"no replica of '{_API}' is ready"),
            _reply(_flags("UF"), "no_replica", f"no replica of '{_API}' can be reached"),
            _reply(_flags("UT"), "timeout", f"'{_API}' did not answer within {REQUEST_TIMEOUT} s"),
            _reply(
                _flags("UC", "UPE"),
                "replica_failed",
                f"a replica of '{_API}' ended before it had answered; the request may have been processed",
                becomes=502,
            ),
            _reply(_upgrade(), "forbidden", "neither CONNECT nor a change of protocol is served"),
            _reply(_status(403), "forbidden", "%LOCAL_REPLY_BODY%"),
            _reply(_status(404), "not_found", "no API has the endpoint '%PATH(NQ):200%'"),
            _reply(_status(408), "timeout", f"the request did not arrive within {BODY_TIMEOUT} s"),
            _reply(_status(413), "too_large", f"the body is larger than {MAX_BODY // 1024**2} MiB"),
            _reply(_status(426), "unsupported", "HTTP/1.0 is not served; use HTTP/1.1"),
            _reply(
                _status(431), "headers_too_large", f"more than {MAX_HEADERS} headers or {MAX_HEADERS_KIB} KiB"
            ),
            _reply(
                _status(400),
                "bad_request",
                "not a valid request: %LOCAL_REPLY_BODY% (%RESPONSE_CODE_DETAILS%)",
            ),
            _reply(_status(501), "unsupported", "the request's transfer encoding is not supported"),
            _reply(_status(503), "unavailable", "%LOCAL_REPLY_BODY%"),
        ],
        "body_format": _body("error", "%LOCAL_REPLY_BODY%"),
    }


def _overloaded() -> list[Document]:
    """503 with Retry-After, 1 or 2 s at random so that the refused do not all come back together."""
    message = f"'{_API}' has as many requests in flight as it may; try again"
    half = {
        "runtime_filter": {
            "runtime_key": "cortex.retry_after",
            "percent_sampled": {"numerator": 50, "denominator": "HUNDRED"},
            "use_independent_randomness": True,
        }
    }
    overflow = _flags("UO")
    return [
        _reply({"and_filter": {"filters": [overflow, half]}}, "overloaded", message, retry_after=1),
        _reply(overflow, "overloaded", message, retry_after=2),
        _reply(_flags("OM"), "overloaded", "the gateway is out of memory; try again", retry_after=2),
    ]


def _reply(
    filter_: Document, code: str, message: str, *, becomes: int | None = None, retry_after: int | None = None
) -> Document:
    headers = [*_CORS, *([_header("retry-after", str(retry_after))] if retry_after else [])]
    status = {"status_code": becomes} if becomes else {}
    return {
        "filter": filter_,
        "headers_to_add": headers,
        "body_format_override": _body(code, message),
        **status,
    }


def _upgrade() -> Document:
    """What Envoy answers with 403 by itself."""
    asked = [
        {"header_filter": {"header": {"name": "upgrade", "present_match": True}}},
        {"header_filter": {"header": {"name": ":method", "string_match": {"exact": "CONNECT"}}}},
    ]
    return {"and_filter": {"filters": [_status(403), {"or_filter": {"filters": asked}}]}}


def _flags(*flags: str) -> Document:
    return {"response_flag_filter": {"flags": list(flags)}}


def _status(code: int) -> Document:
    value = {"default_value": code, "runtime_key": f"cortex.status_{code}"}
    return {"status_code_filter": {"comparison": {"op": "EQ", "value": value}}}


def _body(code: str, message: str) -> Document:
    return {"json_format": {"code": code, "message": message, "request_id": "%REQ(X-REQUEST-ID)%"}}


# --- routes -------------------------------------------------------------------------------------------------


def _endpoint(route: Route) -> list[Document]:
    """The endpoint itself, with and without a trailing slash, is the replica's root."""
    return [
        {
            "name": route.api,
            "match": {"path": path},
            "route": {
                "cluster": route.api,
                "prefix_rewrite": "/",
                "timeout": _seconds(REQUEST_TIMEOUT),
                "idle_timeout": _seconds(REQUEST_TIMEOUT),
                "retry_policy": _retry_policy(),
            },
        }
        for path in (route.endpoint, route.endpoint + "/")
    ]


def _retry_policy() -> Document:
    """Only what no replica has seen a byte of is sent again, elsewhere if there is an elsewhere."""
    return {
        "retry_on": "connect-failure,refused-stream,reset-before-request",
        "num_retries": RETRIES,
        "retry_back_off": {
            "base_interval": _seconds(RETRY_BACKOFF),
            "max_interval": _seconds(RETRY_BACKOFF_MAX),
        },
        "retry_host_predicate": [
            _extension(
                "envoy.retry_host_predicates.previous_hosts",
                "extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate",
            )
        ],
        "host_selection_retry_max_attempts": 3,
    }


def _below_endpoint(route: Route) -> Document:
    why = f"only {route.endpoint} itself can be called, nothing below it"
    return _refused(route.api, {"path_separated_prefix": route.endpoint}, 403, why)


def _unknown_endpoint() -> Document:
    return _refused("unknown", {"prefix": "/"}, 404)


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
    """An answer of the gateway's own; `_local_replies` says with which words. The body is not waited for."""
    unbuffered = {"@type": _TYPE + "extensions.filters.http.buffer.v3.BufferPerRoute", "disabled": True}
    return {
        "name": name,
        "match": match,
        "direct_response": {"status": status, "body": {"inline_string": why}},
        "typed_per_filter_config": {"envoy.filters.http.buffer": unbuffered},
    }


# --- clusters -----------------------------------------------------------------------------------------------


def _cluster(route: Route) -> Document:
    return {
        "@type": _TYPE + "config.cluster.v3.Cluster",
        "name": route.api,
        "type": "EDS",
        "eds_cluster_config": {"eds_config": _file(f"{ENDPOINTS}/{route.api}.json")},
        "connect_timeout": "1s",
        "per_connection_buffer_limit_bytes": BUFFER,
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
        "load_balancing_policy": {"policies": [{"typed_extension_config": _least_requests()}]},
        "circuit_breakers": {"thresholds": [_limits(route.max_concurrency)]},
        "outlier_detection": _step_around_unreachable(),
        "typed_extension_protocol_options": _http1(),
    }


def _least_requests() -> Document:
    """Look at all replicas, not at two: they often have one thread, and a wrong choice doubles the wait."""
    return _extension(
        "envoy.load_balancing_policies.least_request",
        "extensions.load_balancing_policies.least_request.v3.LeastRequest",
        selection_method="FULL_SCAN",
    )


def _limits(max_concurrency: int) -> Document:
    """Requests are what is limited; connections and retries must never be the reason."""
    return {
        "max_requests": max_concurrency,
        "max_connections": UNLIMITED,
        "max_pending_requests": UNLIMITED,
        "max_retries": max_concurrency,
    }


def _step_around_unreachable() -> Document:
    """A replica that cannot be connected to has no requests and would attract all of them: leave it out for a
    second while at least as many others remain. Answers with 5xx are the handler's, and never a reason."""
    return {
        "split_external_local_origin_errors": True,
        "consecutive_local_origin_failure": 1,
        "enforcing_consecutive_local_origin_failure": 100,
        "enforcing_local_origin_success_rate": 0,
        "enforcing_consecutive_5xx": 0,
        "enforcing_consecutive_gateway_failure": 0,
        "enforcing_success_rate": 0,
        "enforcing_failure_percentage": 0,
        "max_ejection_percent": 50,
        "interval": "0.25s",
        "base_ejection_time": "0.5s",
        "max_ejection_time": "1s",
    }


def _http1() -> Document:
    name = "extensions.upstreams.http.v3.HttpProtocolOptions"
    return {
        f"envoy.{name}": {
            "@type": _TYPE + name,
            "explicit_http_config": {"http_protocol_options": {}},
            "common_http_protocol_options": {"idle_timeout": _seconds(UPSTREAM_IDLE_TIMEOUT)},
        }
    }

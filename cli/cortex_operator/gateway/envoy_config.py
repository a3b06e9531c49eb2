"""Envoy's configuration as data: routes in, documents out; nothing here touches a file or a process.

Envoy reads four kinds of documents from one folder, its working directory:

    bootstrap.json              the process: admin socket, limits, the listener and how it treats HTTP, and the
                                same once more for what is relayed; the socket of `roll_call`
    routes.json                 RDS: which path goes to which cluster; the listener itself never changes,
                                so no connection is ever closed by a deploy
    clusters.json               CDS: one cluster an API, its circuit breaker; of a gRPC API a second one, for the
                                services that all have
    endpoints/<api>.json        EDS: the replicas of one API and whether they are draining

The last three carry a version that is a digest of what they say; Envoy reports which version it serves.
"""

from __future__ import annotations

import hashlib
import json
import socket
from collections.abc import Iterable, Iterator, Sequence

from cortex_core.runtime import NOT_BEGUN, REQUEST_TIMEOUT
from cortex_operator.gateway.envoy_answers import local_replies
from cortex_operator.gateway.envoy_document import TYPE, Document, extension, header, seconds
from cortex_operator.gateway.envoy_routes import BUFFER_FILTER, entries, shared_cluster
from cortex_operator.gateway.limits import (
    BODY_TIMEOUT,
    CLIENT_BUFFER,
    CONNECT_TIMEOUT,
    CONNECTION_WINDOW,
    HEADERS_TIMEOUT,
    IDLE_TIMEOUT,
    MAX_BODY,
    MAX_CONNECTIONS,
    MAX_HEADERS,
    MAX_HEADERS_KIB,
    MAX_HEAP,
    PING_INTERVAL,
    PING_TIMEOUT,
    REPLICA_BUFFER,
    SHARED_CALLS,
    STREAM_WINDOW,
    STREAMS,
    UPSTREAM_IDLE_TIMEOUT,
)
from cortex_operator.gateway.protocol import Route

ADMIN_SOCKET = "admin.sock"
BOOTSTRAP = "bootstrap.json"
ROUTES = "routes.json"
CLUSTERS = "clusters.json"
ENDPOINTS = "endpoints"
RELAYS_SOCKET = "relays.sock"
ROLL_CALL_SOCKET = "roll-call.sock"
LISTENER = "gateway"
"""Name of the listener and of its statistics."""

REQUEST_ID = "^[A-Za-z0-9._-]+$"
REQUEST_ID_LENGTH = 128

UNLIMITED = 1_000_000

_RUNTIME = {
    # What follows a chunk must be its end; without this, Envoy skips to the next line.
    "envoy.reloadable_features.strict_chunk_parsing": True,
    # A request counts for a process while it waits for a connection. Without this, of several that come at once two go to
    # one process while another one has nothing to do.
    "envoy.reloadable_features.least_request_lb_count_pending_requests": True,
    # No request is dealt with in the turn of the loop in which it was read. Without this, Envoy makes answers of its own
    # before it sends any, and hangs up when a third one would follow two unsent ones, a limit that cannot be set.
    "http.max_requests_per_io_cycle": 0,
}


def bootstrap(*, address: str, port: int, version: str, threads: int, stall_timeout: float) -> Document:
    """The process-wide document.

    Args:
        address: to listen on.
        port: to listen on.
        version, threads: Envoy's, so that one that is upgraded, or has more of them, has another bootstrap.
        stall_timeout: seconds for which a client may take nothing of what there is for it.
    """
    return {
        "node": {
            "id": "cortex-gateway",
            "cluster": "cortex",
            "metadata": {"envoy": version, "threads": threads},
        },
        "admin": {"address": {"pipe": {"path": ADMIN_SOCKET, "mode": 0o600}}},
        "dynamic_resources": {"cds_config": _file(CLUSTERS)},
        "static_resources": {"listeners": [_listener(address, port, stall_timeout), _relays(), _roll_call()]},
        "overload_manager": _overload_manager(),
        "layered_runtime": {"layers": [{"name": "strict", "static_layer": _RUNTIME}]},
        "stats_flush_interval": "1s",
    }


def routes(apis: Iterable[Route]) -> Document:
    """RDS: see `envoy_routes`."""
    return _discovery(
        [
            {
                "@type": TYPE + "config.route.v3.RouteConfiguration",
                "name": LISTENER,
                "request_headers_to_remove": ["x-envoy-external-address"],
                "response_headers_to_remove": [NOT_BEGUN],
                "virtual_hosts": [{"name": LISTENER, "domains": ["*"], "routes": entries(list(apis))}],
            }
        ]
    )


def clusters(apis: Iterable[Route]) -> Document:
    """CDS: one cluster an API, and one for the services that all gRPC APIs have."""
    named = {cluster["name"]: cluster for route in apis for cluster in _clusters(route)}
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
                "@type": TYPE + "config.endpoint.v3.ClusterLoadAssignment",
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


def endpoints_file(api: str) -> str:
    return f"{ENDPOINTS}/{api}.json"


def encode(document: Document) -> bytes:
    return json.dumps(document, indent=1).encode()


def _discovery(resources: Sequence[Document]) -> Document:
    digest = hashlib.sha256(json.dumps(resources, sort_keys=True).encode()).hexdigest()[:16]
    return {"version_info": digest, "resources": list(resources)}


def _file(path: str) -> Document:
    return {"path_config_source": {"path": f"./{path}"}, "resource_api_version": "V3"}


def _address(host: str, port: int) -> Document:
    return {"socket_address": {"address": host, "port_value": port}}


# --- the listener -------------------------------------------------------------------------------------------


def _listener(address: str, port: int, stall_timeout: float) -> Document:
    return {
        "name": LISTENER,
        "address": _address(address, port),
        # With `standby`, which has made sure before that the port is no other gateway's.
        "enable_reuse_port": True,
        "socket_options": [_end_stalled(stall_timeout)],
        "per_connection_buffer_limit_bytes": CLIENT_BUFFER,
        "listener_filters": [
            extension(
                "envoy.filters.listener.http_inspector",
                "extensions.filters.listener.http_inspector.v3.HttpInspector",
            )
        ],
        # Who says nothing at first is taken for HTTP/1, which bounds it; HTTP/2 is understood there, too.
        "continue_on_listener_filters_timeout": True,
        "filter_chains": [
            {
                "filter_chain_match": {"application_protocols": ["h2c"]},
                "filters": [_http_connection_manager(request_timeout=0)],
            },
            {"filters": [_http_connection_manager()]},
        ],
    }


def _end_stalled(after: float) -> Document:
    """Envoy has no limit for a client that takes nothing, but the system has; connections inherit it."""
    return {
        "level": socket.IPPROTO_TCP,
        "name": socket.TCP_USER_TIMEOUT,
        "int_value": int(after * 1000),
        "state": "STATE_PREBIND",
    }


def _relays() -> Document:
    """For `relay`. One request a connection, so that clients soon come directly."""
    return {
        "name": "relays",
        "address": {"pipe": {"path": RELAYS_SOCKET, "mode": 0o600}},
        "per_connection_buffer_limit_bytes": CLIENT_BUFFER,
        "listener_filters": [
            extension(
                "envoy.filters.listener.proxy_protocol",
                "extensions.filters.listener.proxy_protocol.v3.ProxyProtocol",
            )
        ],
        "filter_chains": [{"filters": [_http_connection_manager(max_requests_per_connection=1)]}],
    }


def _roll_call() -> Document:
    """For `roll_call`. Each of Envoy's threads gets as many connections as any other, however many clients there are."""
    echo = extension("envoy.filters.network.echo", "extensions.filters.network.echo.v3.Echo")
    return {
        "name": "roll-call",
        "address": {"pipe": {"path": ROLL_CALL_SOCKET, "mode": 0o600}},
        "connection_balance_config": {"exact_balance": {}},
        "ignore_global_conn_limit": True,
        "filter_chains": [{"filters": [echo]}],
    }


def _http_connection_manager(*, request_timeout: int = BODY_TIMEOUT, **connection: int) -> Document:
    """How HTTP is treated.

    Args:
        request_timeout: seconds in which a whole request must arrive. 0 for HTTP/2, where a stream of messages may go
            on without an answer; a body that comes slowly there is bounded by its route's `idle_timeout` and by memory.
        connection: further options of the connection.
    """
    return extension(
        "envoy.filters.network.http_connection_manager",
        "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix=LISTENER,
        rds={"route_config_name": LISTENER, "config_source": _file(ROUTES)},
        http_filters=[_buffer(), _grpc_stats(), _router()],
        server_name="cortex",
        server_header_transformation="APPEND_IF_ABSENT",
        # Clients are strangers: what they say in x-envoy-* headers is dropped.
        use_remote_address=True,
        internal_address_config={"cidr_ranges": [{"address_prefix": "255.255.255.255", "prefix_len": 32}]},
        generate_request_id=True,
        preserve_external_request_id=True,
        always_set_request_id_in_response=True,
        early_header_mutation_extensions=[_mutate_headers()],
        normalize_path=True,
        merge_slashes=True,
        # Replicas only ever see "/", so an escaped slash is harmless and simply matches no endpoint.
        path_with_escaped_slashes_action="KEEP_UNCHANGED",
        max_request_headers_kb=MAX_HEADERS_KIB,
        common_http_protocol_options={
            "idle_timeout": seconds(IDLE_TIMEOUT),
            "max_headers_count": MAX_HEADERS,
            "headers_with_underscores_action": "ALLOW",
            **connection,
        },
        http2_protocol_options={
            "max_concurrent_streams": STREAMS,
            **_windows(),
            "connection_keepalive": {
                "interval": seconds(PING_INTERVAL),
                "timeout": seconds(PING_TIMEOUT),
            },
        },
        request_headers_timeout=seconds(HEADERS_TIMEOUT),
        request_timeout=seconds(request_timeout),
        stream_idle_timeout=seconds(REQUEST_TIMEOUT),
        stream_flush_timeout=seconds(BODY_TIMEOUT),
        local_reply_config=local_replies(),
    )


def _windows() -> Document:
    return {"initial_stream_window_size": STREAM_WINDOW, "initial_connection_window_size": CONNECTION_WINDOW}


def _buffer() -> Document:
    """Bodies arrive here completely before a replica hears of the request: a slow sender holds none."""
    return extension(BUFFER_FILTER, "extensions.filters.http.buffer.v3.Buffer", max_request_bytes=MAX_BODY)


def _grpc_stats() -> Document:
    """HTTP says 200 whatever becomes of a call."""
    return extension(
        "envoy.filters.http.grpc_stats",
        "extensions.filters.http.grpc_stats.v3.FilterConfig",
        stats_for_all_methods=False,
    )


def _router() -> Document:
    return extension(
        "envoy.filters.http.router",
        "extensions.filters.http.router.v3.Router",
        suppress_envoy_headers=True,
    )


def _mutate_headers() -> Document:
    """Replace an invalid request id."""
    given = "request.headers['x-request-id']"
    valid = f"size({given}) <= {REQUEST_ID_LENGTH} && {given}.matches('{REQUEST_ID}')"
    # What cannot be there is absent, and COALESCE goes on to a new id.
    keep_valid = f"{valid} ? {given} : request.headers[' ']"
    first = json.dumps({"operators": [{"command": "CEL", "param": keep_valid}, {"command": "UNIQUE_ID"}]})
    return extension(
        "envoy.http.early_header_mutation.header_mutation",
        "extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation",
        mutations=[{"append": header("x-request-id", f"%COALESCE({first})%")}],
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
            extension(
                "envoy.resource_monitors.fixed_heap",
                "extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig",
                max_heap_size_bytes=MAX_HEAP,
            ),
            extension(
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


# --- clusters -----------------------------------------------------------------------------------------------


def _clusters(route: Route) -> Iterator[Document]:
    yield _cluster(route, route.api, route.max_concurrency)
    if route.protocol == "grpc":
        yield _cluster(route, shared_cluster(route.api), SHARED_CALLS)


def _cluster(route: Route, name: str, max_requests: int) -> Document:
    return {
        "@type": TYPE + "config.cluster.v3.Cluster",
        "name": name,
        "type": "EDS",
        "eds_cluster_config": {"service_name": route.api, "eds_config": _file(endpoints_file(route.api))},
        "connect_timeout": seconds(CONNECT_TIMEOUT),
        "per_connection_buffer_limit_bytes": REPLICA_BUFFER,
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
        "load_balancing_policy": {"policies": [{"typed_extension_config": _least_requests()}]},
        "circuit_breakers": {"thresholds": [_limits(max_requests)]},
        "outlier_detection": _step_around_unreachable(route),
        "typed_extension_protocol_options": _protocol(route),
    }


def _least_requests() -> Document:
    """Look at all replicas, not at two: they often have one thread, and a wrong choice doubles the wait."""
    return extension(
        "envoy.load_balancing_policies.least_request",
        "extensions.load_balancing_policies.least_request.v3.LeastRequest",
        selection_method="FULL_SCAN",
    )


def _limits(max_requests: int) -> Document:
    """Requests are what is limited; connections and retries must never be the reason."""
    return {
        "max_requests": max_requests,
        "max_connections": UNLIMITED,
        "max_pending_requests": UNLIMITED,
        "max_retries": max_requests,
    }


def _step_around_unreachable(route: Route) -> Document:
    """A replica that cannot be connected to has no requests and would attract all of them: leave it out for a
    second. Answers with 5xx are the handler's, and never a reason.

    One must be left that gets requests, or they would be refused instead of waiting for it. Envoy takes its
    share of all, also of those that are leaving, which may be twice as many.
    """
    has_others = sum(not upstream.draining for upstream in route.upstreams) > 1
    return {
        "split_external_local_origin_errors": True,
        "consecutive_local_origin_failure": 1,
        "enforcing_consecutive_local_origin_failure": 100,
        "enforcing_local_origin_success_rate": 0,
        "enforcing_consecutive_5xx": 0,
        "enforcing_consecutive_gateway_failure": 0,
        "enforcing_success_rate": 0,
        "enforcing_failure_percentage": 0,
        "always_eject_one_host": has_others,
        "max_ejection_percent": 33 if has_others else 0,
        "interval": "0.25s",
        "base_ejection_time": "0.5s",
        "max_ejection_time": "1s",
    }


def _idle_timeout(route: Route) -> float:
    """By when a call may be thought to hang, no connection to its process is left that was idle when it began: what
    comes over one would be lost with the process, who has to connect is turned away."""
    return UPSTREAM_IDLE_TIMEOUT if route.timeout is None else min(UPSTREAM_IDLE_TIMEOUT, route.timeout / 2)


def _protocol(route: Route) -> Document:
    name = "extensions.upstreams.http.v3.HttpProtocolOptions"
    spoken = (
        {"http2_protocol_options": _windows()} if route.protocol == "grpc" else {"http_protocol_options": {}}
    )
    return {
        f"envoy.{name}": {
            "@type": TYPE + name,
            "explicit_http_config": spoken,
            "common_http_protocol_options": {"idle_timeout": seconds(_idle_timeout(route))},
        }
    }

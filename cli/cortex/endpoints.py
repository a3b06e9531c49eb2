"""Where an API is called, in words."""

from __future__ import annotations

from urllib.parse import urlsplit

from cortex_core.operator_api import ApiStatus
from cortex_core.spec.types import is_grpc


def endpoint_of(api: ApiStatus) -> str:
    """A URL; of a gRPC API what its clients want to know: `host:port`, and the service."""
    if not is_grpc(api.spec):
        return api.endpoint
    service = api.spec.networking.endpoint.strip("/")
    return f"{urlsplit(api.endpoint).netloc} (gRPC without TLS, service {service})"

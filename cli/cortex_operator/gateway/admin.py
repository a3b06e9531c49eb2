"""What a running Envoy says about itself, asked over its admin socket."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from cortex_operator.gateway.protocol import Upstream
from cortex_operator.gateway.short_path import short_path
from cortex_operator.gateway.traffic import Traffic, in_classes

TIMEOUT = 5.0
_GRPC_STATUS = re.compile(r"envoy_cluster_grpc_(\d+)(?:_total)?")


class AdminUnreachable(Exception):
    """Envoy does not answer at its admin socket: it starts, it died, or it hangs."""


class Admin:
    """Envoy's admin interface.

    Args:
        folder: where the socket lies.
        socket: its file name.
    """

    def __init__(self, folder: Path, socket: str) -> None:
        self._folder = folder
        self._socket = socket

    async def is_ready(self) -> bool:
        """Whether it accepts requests; False also when nobody answers."""
        try:
            return (await self._get("/ready")).is_success
        except AdminUnreachable:
            return False

    async def state(self, suffixes: str) -> Mapping[str, str | int]:
        """Counters, gauges and texts by their full name.

        Args:
            suffixes: regular expression that the end of a wanted name matches.
        """
        found = (await self._get("/stats", format="json", filter=f"(?:{suffixes})$")).json()
        return {entry["name"]: entry["value"] for entry in found["stats"] if "name" in entry}

    async def requests(self) -> dict[str, dict[Upstream, int]]:
        """Requests in flight by cluster and host."""
        found = (await self._get("/clusters", format="json")).json()
        return {cluster["name"]: dict(_hosts(cluster)) for cluster in found.get("cluster_statuses", ())}

    async def traffic(self) -> dict[str, Traffic]:
        """What was answered, by API."""
        wanted = r"^cluster\.[^.]+\.(?:upstream_rq_(?:\dxx|time)|grpc\.\d+)$"
        text = (await self._get("/stats/prometheus", filter=wanted)).text
        return _traffic(text)

    async def _get(self, path: str, **query: str) -> httpx.Response:
        try:
            with short_path(self._folder) as folder:
                # Without TLS contexts and environment lookups, making a client is cheap enough to keep none.
                transport = httpx.AsyncHTTPTransport(uds=f"{folder}/{self._socket}", verify=False)
                async with httpx.AsyncClient(transport=transport, timeout=TIMEOUT, trust_env=False) as client:
                    return await client.get(f"http://envoy{path}", params=query)
        except (httpx.TransportError, FileNotFoundError) as error:
            raise AdminUnreachable(f"{type(error).__name__}: {error}") from error


def _hosts(cluster: Mapping[str, Any]) -> Iterator[tuple[Upstream, int]]:
    for host in cluster.get("host_statuses", ()):
        address = host["address"]["socket_address"]
        active = (int(stat.get("value", 0)) for stat in host["stats"] if stat["name"] == "rq_active")
        yield Upstream(host=address["address"], port=address["port_value"]), sum(active)


def _traffic(text: str) -> dict[str, Traffic]:
    classes: dict[str, dict[int, int]] = {}
    statuses: dict[str, dict[int, int]] = {}
    times: dict[str, dict[str, float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            api = sample.labels["envoy_cluster_name"]
            if (status := sample.labels.get("envoy_response_code_class")) is not None:
                classes.setdefault(api, {})[int(status)] = int(sample.value)
            elif (grpc := _GRPC_STATUS.fullmatch(sample.name)) is not None:
                statuses.setdefault(api, {})[int(grpc[1])] = int(sample.value)
            elif "le" not in sample.labels:
                times.setdefault(api, {})[sample.name.rpartition("_")[2]] = sample.value
    # HTTP says 200 to most calls of gRPC, whatever becomes of them.
    classes.update({api: in_classes(counts) for api, counts in statuses.items()})
    return {
        api: Traffic(
            classes=classes.get(api, {}),
            timed=int(times.get(api, {}).get("count", 0)),
            milliseconds=times.get(api, {}).get("sum", 0.0),
        )
        for api in {*classes, *times}
    }

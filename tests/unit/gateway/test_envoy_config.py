"""The documents that Envoy reads; their effect is tested with the real Envoy in tests/integration/gateway."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex_operator.gateway import envoy_config
from cortex_operator.gateway.protocol import Route, Upstream

GOLDEN = Path(__file__).parents[2] / "golden" / "envoy"

IRIS = Route(
    api="iris",
    endpoint="/iris",
    upstreams=(
        Upstream(host="127.0.0.1", port=40002),
        Upstream(host="127.0.0.1", port=40001, draining=True),
    ),
    max_concurrency=1024,
)
NESTED = Route(api="iris-v2", endpoint="/iris/v2", upstreams=(), max_concurrency=3, timeout=2.5)
SPEECH = Route(
    api="speech",
    endpoint="/speech.Recognizer",
    upstreams=(Upstream(host="127.0.0.1", port=40003),),
    max_concurrency=16,
    protocol="grpc",
    timeout=60.0,
)


@pytest.mark.parametrize(
    ("name", "document"),
    [
        (
            "bootstrap.json",
            envoy_config.bootstrap(
                address="127.0.0.1", port=8888, version="1.40.0", threads=2, stall_timeout=60
            ),
        ),
        ("routes.json", envoy_config.routes([IRIS, NESTED, SPEECH])),
        ("clusters.json", envoy_config.clusters([IRIS, NESTED, SPEECH])),
        ("endpoints.json", envoy_config.endpoints(IRIS)),
    ],
)
def test_documents_are_as_reviewed(name: str, document: dict[str, Any]) -> None:
    """A wanted change: write the new document to the golden file and look at the difference."""
    written = json.loads((GOLDEN / name).read_text())
    assert document == written


@pytest.mark.parametrize("serving", range(12))
def test_one_is_left_for_requests_to_wait_for_whoever_else_is_leaving(serving: int) -> None:
    for leaving in range(2 * serving + 1):
        upstreams = tuple(
            Upstream(host="127.0.0.1", port=1 + number, draining=number >= serving)
            for number in range(serving + leaving)
        )
        [cluster] = envoy_config.clusters([dataclasses.replace(IRIS, upstreams=upstreams)])["resources"]
        rule = cluster["outlier_detection"]
        left_out = max(rule["always_eject_one_host"], rule["max_ejection_percent"] * len(upstreams) // 100)
        assert left_out == 0 if serving < 2 else 1 <= left_out < serving


def test_order_of_routes_and_replicas_does_not_matter() -> None:
    turned = dataclasses.replace(IRIS, upstreams=IRIS.upstreams[::-1])
    assert envoy_config.routes([IRIS, NESTED]) == envoy_config.routes([NESTED, IRIS])
    assert envoy_config.clusters([IRIS, NESTED]) == envoy_config.clusters([NESTED, IRIS])
    assert envoy_config.endpoints(IRIS) == envoy_config.endpoints(turned)


def test_the_version_changes_exactly_with_what_the_document_says() -> None:
    replaced = dataclasses.replace(IRIS, upstreams=())
    wider = dataclasses.replace(IRIS, max_concurrency=1025)
    moved = dataclasses.replace(IRIS, endpoint="/flowers")

    def versions(route: Route) -> tuple[str, str, str]:
        documents = (
            envoy_config.routes([route]),
            envoy_config.clusters([route]),
            envoy_config.endpoints(route),
        )
        return tuple(document["version_info"] for document in documents)  # type: ignore[return-value]  # three of them

    def differences(route: Route) -> list[bool]:
        return [before != after for before, after in zip(versions(IRIS), versions(route), strict=True)]

    assert differences(IRIS) == [False, False, False]
    assert differences(replaced) == [False, False, True]
    assert differences(wider) == [False, True, False]
    assert differences(moved) == [True, False, False]


def test_clusters_are_joined_with_the_wanted_ones_in_front() -> None:
    known = envoy_config.clusters([dataclasses.replace(IRIS, max_concurrency=1), NESTED])
    joined = envoy_config.joined(known, envoy_config.clusters([IRIS]))
    assert joined == envoy_config.clusters([IRIS, NESTED])


def _matched(document: dict[str, Any], path: str) -> dict[str, Any]:
    """The first route that matches a path, as Envoy would find it."""
    for route in document["resources"][0]["virtual_hosts"][0]["routes"]:
        match = route["match"]
        if match.get("headers") or "connect_matcher" in match:
            continue
        below = match.get("path_separated_prefix")
        if (
            match.get("path") == path
            or (below and path.startswith(below + "/"))
            or (match.get("prefix") == "/")
        ):
            return dict(route)
    raise AssertionError("no route matches")


segments = st.lists(st.text("abc_-.", min_size=1, max_size=2), min_size=1, max_size=3)
endpoints = st.lists(segments.map(lambda parts: "/" + "/".join(parts)), unique=True, max_size=6)


@given(endpoints, st.data())
def test_every_endpoint_is_found_and_nothing_else(endpoints: list[str], data: st.DataObject) -> None:
    routes = [
        Route(api=f"api-{number}", endpoint=endpoint, upstreams=(), max_concurrency=1)
        for number, endpoint in enumerate(endpoints)
    ]
    document = envoy_config.routes(routes)
    for route in routes:
        for path in (route.endpoint, route.endpoint + "/"):
            assert _matched(document, path)["route"]["cluster"] == route.api
    path = "/" + "/".join(data.draw(segments))
    if path not in endpoints:
        enclosing = [route for route in routes if path.startswith(route.endpoint + "/")]
        found = _matched(document, path)
        assert found["direct_response"]["status"] == (403 if enclosing else 404)
        if enclosing:
            assert found["name"] == max(enclosing, key=lambda route: len(route.endpoint)).api

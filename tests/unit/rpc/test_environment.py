"""Clients of a gRPC worker cannot fill its log with what grpcio's core has to say of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.serve_project import release_of

from cortex_serve.environment import handler_environment


@pytest.mark.parametrize(
    ("handler", "inherited", "expected"),
    [
        ({"protobuf_path": "talk.proto"}, {}, "NONE"),
        ({"protobuf_path": "talk.proto"}, {"GRPC_VERBOSITY": "INFO"}, "INFO"),
        ({"protobuf_path": "talk.proto", "env": {"GRPC_VERBOSITY": "DEBUG"}}, {}, "DEBUG"),
        ({}, {}, None),
    ],
)
def test_who_decides_what_grpcio_says(
    handler: dict[str, object], inherited: dict[str, str], expected: str | None
) -> None:
    release = release_of(Path("/nowhere"), **handler)
    environment = handler_environment(
        release, path=Path("release.json"), project=Path("/nowhere"), port=1, inherited=inherited
    )
    assert environment.get("GRPC_VERBOSITY") == expected

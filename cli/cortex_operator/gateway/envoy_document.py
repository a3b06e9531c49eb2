"""What all of Envoy's documents are written with."""

from __future__ import annotations

from typing import Any

Document = dict[str, Any]

TYPE = "type.googleapis.com/envoy."


def extension(name: str, proto: str, **fields: Any) -> Document:
    return {"name": name, "typed_config": {"@type": TYPE + proto, **fields}}


def seconds(value: float) -> str:
    return f"{value:g}s"


def header(name: str, value: str) -> Document:
    """A header to set, whatever it said before."""
    return {"header": {"key": name, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}

"""A typed spec as people would write it: what `build` makes of a file, the other way round."""

from __future__ import annotations

from typing import Any

import msgspec

from cortex_core.spec.types import Struct
from cortex_core.spec.units import duration_text

_DURATIONS = ("Nanoseconds", "Nanoseconds | None")
"""How the types of durations are named."""


def as_written(spec: Struct) -> dict[str, Any]:
    """A specification as it would stand in an API file: durations as text, nothing that is absent."""
    written: dict[str, Any] = msgspec.to_builtins(spec)
    for field in msgspec.structs.fields(type(spec)):
        value = getattr(spec, field.name)
        if value is None:
            written.pop(field.encode_name, None)
        elif isinstance(value, Struct):
            written[field.encode_name] = as_written(value)
        elif isinstance(value, tuple):
            written[field.encode_name] = [
                as_written(each) if isinstance(each, Struct) else each for each in value
            ]
        elif type(spec).__annotations__.get(field.name) in _DURATIONS:
            written[field.encode_name] = duration_text(value)
    return written

"""Metadata that a method wants sent: held against what HTTP/2 can carry, while the method can still be told.

grpcio finds out when it sends, after the method: the client then gets another status than the log, or waits for ever.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, TypeAlias

Metadata: TypeAlias = "tuple[tuple[str, str | bytes], ...]"

_KEY = re.compile(r"[0-9a-z_.-]+")
_VALUE = re.compile(r"[ -~]*")
_ENDS_THE_PROCESS = ("grpc-timeout", "grpclb_client_stats")
"""Keys at which grpcio calls `abort`, the one of C."""


def sendable(metadata: Iterable[Any] | None) -> Metadata:
    """Pairs of a key and a value, as they may be sent.

    Raises:
        TypeError: a key or a value is of the wrong type.
        ValueError: it has characters that cannot be sent, or the key is none that may be set.
    """
    return tuple(_pair(key, value) for key, value in metadata or ())


def _pair(key: Any, value: Any) -> tuple[str, str | bytes]:
    if not isinstance(key, str):
        raise TypeError(f"a key of metadata must be a str, got {key!r}")
    if not _KEY.fullmatch(key):
        raise ValueError(f"a key of metadata may have a-z, 0-9, '_', '-' and '.', got {key!r}")
    if key in _ENDS_THE_PROCESS:
        raise ValueError(f"{key!r} is no key of metadata that can be set")
    if key.endswith("-bin"):
        if not isinstance(value, bytes):
            raise TypeError(f"the value of {key!r} in metadata must be bytes, got {value!r}")
    elif not isinstance(value, str | bytes):
        raise TypeError(f"the value of {key!r} in metadata must be a str, got {value!r}")
    elif not _VALUE.fullmatch(value.decode("latin-1") if isinstance(value, bytes) else value):
        raise ValueError(
            f"the value of {key!r} in metadata may have printable ASCII, got {value!r}; "
            "any bytes may be the value of a key that ends in '-bin'"
        )
    return key, value

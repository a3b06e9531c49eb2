"""What may be sent as metadata, and what is said of the rest."""

from __future__ import annotations

from typing import Any

import pytest

from cortex_serve.rpc.metadata import sendable


def test_what_may_be_sent() -> None:
    given = [("x-a", "text ~"), ("x_b.2", b"text"), ("x-c-bin", b"\x00\xff"), ("x-d", "")]
    assert sendable(iter(given)) == tuple(given)
    assert sendable(None) == sendable(()) == ()


@pytest.mark.parametrize(
    "key", ["", "X-A", "x a", ":path", "größe", "x\n", "grpc-timeout", "grpclb_client_stats"]
)
def test_keys_that_cannot_be_sent(key: str) -> None:
    with pytest.raises(ValueError, match="key of metadata"):
        sendable([(key, "a")])


@pytest.mark.parametrize("value", ["a\nb", "größe", "\t", "\x7f", "\udc80", b"\xff", b"\r"])
def test_values_that_cannot_be_sent(value: Any) -> None:
    with pytest.raises(ValueError, match="the value of 'x-a' in metadata may have printable ASCII"):
        sendable([("x-a", value)])


@pytest.mark.parametrize(("key", "value"), [("x-a", 5), ("x-a", None), ("x-a-bin", "text"), (b"x-a", "text")])
def test_wrong_types(key: Any, value: Any) -> None:
    with pytest.raises(TypeError, match="metadata must be"):
        sendable([(key, value)])

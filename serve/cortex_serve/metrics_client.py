"""`metrics_client`: a handler's own metrics, sent as statsd datagrams (with DogStatsD's tags) and forgotten.

Sending never waits and never fails, whether anybody listens or not.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from contextlib import suppress
from typing import Literal

PORT = 9125
RESERVED = ("cortex_", "istio_")

_SEPARATORS = str.maketrans(dict.fromkeys(":|#,@\n", "_"))


class MetricsClient:
    """Sends metrics to a statsd server.

    Args:
        host: its address; a name is looked up once.
        port: its UDP port.
    """

    def __init__(self, host: str = "127.0.0.1", port: int = PORT) -> None:
        self._address = (host, port)
        self._socket: socket.socket | None = None

    def increment(self, metric: str, value: float = 1, tags: Mapping[str, str] | None = None) -> None:
        """Add to a counter."""
        self._send(metric, value, "c", tags)

    def gauge(self, metric: str, value: float, tags: Mapping[str, str] | None = None) -> None:
        """Set a gauge."""
        self._send(metric, value, "g", tags)

    def histogram(self, metric: str, value: float, tags: Mapping[str, str] | None = None) -> None:
        """Add an observation to a histogram."""
        self._send(metric, value, "h", tags)

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()

    def _send(
        self, metric: str, value: float, kind: Literal["c", "g", "h"], tags: Mapping[str, str] | None
    ) -> None:
        if metric.startswith(RESERVED):
            raise ValueError(
                f"{metric!r}: names of metrics must not start with {' or '.join(map(repr, RESERVED))}"
            )
        line = f"{_clean(metric)}:{value}|{kind}"
        if tags:
            line += "|#" + ",".join(f"{_clean(name)}:{_clean(tag)}" for name, tag in tags.items())
        with suppress(OSError):
            self._connected().send(line.encode("utf-8", "replace"))

    def _connected(self) -> socket.socket:
        if self._socket is None:
            connection = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            connection.setblocking(False)
            self._socket = connection
            connection.connect(self._address)
        return self._socket


def _clean(text: object) -> str:
    return str(text).translate(_SEPARATORS)

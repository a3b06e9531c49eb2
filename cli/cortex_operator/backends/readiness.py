"""Asking a replica whether it is ready."""

from __future__ import annotations

from typing import Literal

import httpx

from cortex_operator.backends.ports import HOST

DEADLINE = 2.0
"""Seconds within which the admin port must answer."""

Answer = Literal["ready", "not ready", "silent"]


class Readiness:
    """Asks the admin ports of replicas."""

    def __init__(self) -> None:
        self._client = httpx.AsyncClient(
            timeout=DEADLINE,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=30),
            trust_env=False,
            verify=False,  # noqa: S501 - plain HTTP on the loopback; loading certificates takes 40 ms
        )

    async def ask(self, admin_port: int) -> Answer:
        """What `/readyz` says; "silent" if nobody answers in time."""
        try:
            response = await self._client.get(f"http://{HOST}:{admin_port}/readyz")
        except httpx.HTTPError:
            return "silent"
        return "ready" if response.status_code == httpx.codes.OK else "not ready"

    async def close(self) -> None:
        await self._client.aclose()


def interval(seconds: float) -> float:
    """How long to wait before asking again one that has not been ready for so many seconds: 2 % of them."""
    return min(0.5, max(0.02, seconds / 50))

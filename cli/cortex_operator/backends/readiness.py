"""Asking a replica whether it is ready."""

from __future__ import annotations

from typing import Literal

import httpx
import msgspec

from cortex_core.spec.types import Struct
from cortex_operator.backends.ports import HOST

DEADLINE = 2.0
"""Seconds within which the admin port must answer."""

LONGEST_REASON = 300


class Answer(Struct, frozen=True):
    """What a replica says.

    Attributes:
        state: "silent" if nobody answers in time.
        waiting_for: what keeps one from being ready that says so, in a few words.
    """

    state: Literal["ready", "not ready", "silent"]
    waiting_for: str | None = None


class _Page(Struct, frozen=True):
    """`/readyz` when it is not ready: why in general, then in particular."""

    reasons: tuple[str, ...] = ()


_READY, _SILENT = Answer(state="ready"), Answer(state="silent")
_page = msgspec.json.Decoder(_Page)


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
        """What `/readyz` says."""
        try:
            response = await self._client.get(f"http://{HOST}:{admin_port}/readyz")
        except httpx.HTTPError:
            return _SILENT
        if response.status_code == httpx.codes.OK:
            return _READY
        return Answer(state="not ready", waiting_for=_particulars(response.content))

    async def close(self) -> None:
        await self._client.aclose()


def interval(seconds: float) -> float:
    """How long to wait before asking again one that has not been ready for so many seconds: 2 % of them."""
    return min(0.5, max(0.02, seconds / 50))


def _particulars(page: bytes) -> str | None:
    try:
        reasons = _page.decode(page).reasons[1:]
    except msgspec.DecodeError:
        return None
    text = "; ".join(reasons)
    return (text if len(text) <= LONGEST_REASON else f"{text[: LONGEST_REASON - 1]}…") or None

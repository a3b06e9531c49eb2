"""Looks at bytes."""

from typing import Any


class Handler:
    def __init__(self, config: dict[str, Any]) -> None:
        pass

    def handle_post(self, payload: bytes) -> Any:
        return {"bytes": len(payload), "last": payload[-1]}

"""Gives back what it got."""

from typing import Any


class Handler:
    def __init__(self, config: dict[str, Any]) -> None:
        pass

    def handle_post(self, payload: Any) -> Any:
        return payload

"""A model as accelerators have them: a call costs much, an item little, and there is one call at a time."""

import threading
import time
from typing import Any

CALL = 0.002
ITEM = 0.00005


class Handler:
    def __init__(self, config: dict[str, Any]) -> None:
        self.free = threading.Lock()

    def handle_post(self, payload: list[Any]) -> list[Any]:
        with self.free:
            time.sleep(CALL + ITEM * len(payload))
        return [{"double": 2 * item["n"]} for item in payload]

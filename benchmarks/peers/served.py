"""What a peer's program serves; told by environment variables, because some peers start processes of their own."""

import importlib
import json
import os
from typing import Any

WORKLOAD = os.environ["BENCH_WORKLOAD"]
PORT = int(os.environ["BENCH_PORT"])
BATCH_SIZE = int(os.environ["BENCH_BATCH_SIZE"])
"""0: no batches."""


def new_handler() -> Any:
    module = importlib.import_module(f"handlers.{WORKLOAD}")
    return module.Handler(json.loads(os.environ["BENCH_CONFIG"]))

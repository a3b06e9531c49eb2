"""What a deployed replica says about itself at its admin port."""

from __future__ import annotations

import http.client
import json
from typing import Any

import psutil

from support.installation import Installation
from support.raw_http import Address


def admin_address(cortex: Installation, api: str) -> Address:
    """Where a running replica of an API answers."""
    for process in cortex.processes():
        try:
            words = process.cmdline()
        except psutil.Error:
            continue
        if "--admin-port" in words and words[words.index("--replica") + 1].startswith(f"{api}-"):
            return "127.0.0.1", int(words[words.index("--admin-port") + 1])
    raise AssertionError(f"no replica of {api} runs")


def health(cortex: Installation, api: str) -> dict[str, Any]:
    connection = http.client.HTTPConnection(*admin_address(cortex, api), timeout=10)
    try:
        connection.request("GET", "/healthz")
        said: dict[str, Any] = json.loads(connection.getresponse().read())
        return said
    finally:
        connection.close()


def ready_workers(cortex: Installation, api: str) -> set[int]:
    """Their process ids."""
    return {worker["pid"] for worker in health(cortex, api)["workers"] if worker["state"] == "ready"}

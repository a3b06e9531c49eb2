"""What a deployed replica says about itself at its admin port."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from typing import Any

import psutil

from support.installation import Installation
from support.raw_http import Address


def admin_address(cortex: Installation, api: str) -> Address:
    """Where a running replica of an API answers."""
    address = next(admin_addresses(cortex, api), None)
    assert address is not None, f"no replica of {api} runs"
    return address


def admin_addresses(cortex: Installation, api: str) -> Iterator[Address]:
    """The same of all that run, those that leave included."""
    for process in cortex.processes():
        try:
            words = process.cmdline()
        except psutil.Error:
            continue
        if "--admin-port" in words and words[words.index("--replica") + 1].startswith(f"{api}-"):
            yield "127.0.0.1", int(words[words.index("--admin-port") + 1])


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

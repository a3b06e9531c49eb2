"""A worker shares its process with the handler: what it imports is little, and so is the time it takes."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from support.replicas import RunningReplica

Start = Callable[..., RunningReplica]

NOT_IN_A_WORKER = {
    "boto3",
    "cortex",
    "cortex_operator",
    "docker",
    "filelock",
    "granian.server",
    "httpx",
    "jsonschema",
    "multiprocessing",
    "platformdirs",
    "prometheus_client",
    "psutil",
    "pydantic",
    "rich",
    "typer",
    "uvicorn",
    "yaml",
}

GENERIC_NAMES = {"admin", "control", "handler", "log", "main", "server", "stats", "worker"}


@pytest.mark.parametrize("keyword", ["def", "async def"])
def test_what_a_worker_does_not_import(start: Start, keyword: str) -> None:
    source = f"""
        import sys

        class Handler:
            def __init__(self, config):
                pass

            {keyword} handle_get(self):
                return sorted(sys.modules)
    """
    modules = set(json.loads(start(source).request("GET")[1]))
    assert "cortex_serve.worker" in modules or "__main__" in modules
    assert sorted(modules & NOT_IN_A_WORKER) == []
    assert sorted(modules & GENERIC_NAMES) == ["handler"]  # the user's

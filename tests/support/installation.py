"""A person's Cortex: a home of its own, free ports, and the command line as they type it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil

BIN = Path(sys.executable).parent


def free_ports(count: int) -> list[int]:
    """Ports nobody listens on now, all different."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def wait_for(condition: Callable[[], Any], *, within: float, what: str) -> Any:
    """The first true value of `condition`, asked for every 20 ms for `within` seconds."""
    deadline = time.monotonic() + within
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"{what}: not within {within} s"
        time.sleep(0.02)


class Installation:
    """One CORTEX_HOME, and `cortex` in it.

    Args:
        folder: an existing one for the home.
        environ: further variables of its processes.

    Attributes:
        gateway: host and port of its gateway.
    """

    def __init__(self, folder: Path, environ: Mapping[str, str] | None = None) -> None:
        self.home = folder / "home"
        gateway, operator = free_ports(2)
        self.gateway = "127.0.0.1", gateway
        self.gateway_url = f"http://127.0.0.1:{gateway}"
        self.environ: Mapping[str, str] = {
            **os.environ,
            **(environ or {}),
            "CORTEX_HOME": str(self.home),
            "CORTEX_CLI_CONFIG_DIR": str(folder / "config"),
            "CORTEX_GATEWAY_PORT": str(gateway),
            "CORTEX_OPERATOR_PORT": str(operator),
        }

    def run(
        self,
        *words: str,
        cwd: Path | None = None,
        expect: int | None = 0,
        timeout: float = 90,
        stdin: str = "",
    ) -> subprocess.CompletedProcess[str]:
        """Run `cortex <words>`; its exit code must be `expect` unless that is None."""
        done = subprocess.run(
            [str(BIN / "cortex"), *words],
            cwd=cwd,
            env=dict(self.environ),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert expect is None or done.returncode == expect, (
            f"cortex {' '.join(words)} → {done.returncode}\n--- stdout\n{done.stdout}\n--- stderr\n{done.stderr}"
        )
        return done

    def json(self, *words: str) -> Any:
        return json.loads(self.run(*words, "-o", "json").stdout)

    def api(self, name: str) -> Any:
        """The API as `cortex get NAME -o json` shows it."""
        return self.json("get", name)[0]

    def url(self, endpoint: str) -> str:
        return f"{self.gateway_url}/{endpoint.lstrip('/')}"

    def processes(self) -> list[psutil.Process]:
        """Every process that belongs to this home."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("CORTEX_HOME") == str(self.home) and process.pid != os.getpid():
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def down(self) -> None:
        """`cortex local down`, after which nothing of this home may be left."""
        self.run("local", "down")
        left = [" ".join(process.cmdline()) for process in self.processes() if process.is_running()]
        assert left == []

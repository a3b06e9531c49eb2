"""Real replicas: `cortex-serve` processes for handlers written in a test."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import dedent
from typing import Any

import psutil

from cortex_core import release as releases
from cortex_core.spec.types import (
    Autoscaling,
    Compute,
    Handler,
    Networking,
    RealtimeAPI,
    UpdateStrategy,
)

ECHO = """
    class Handler:
        def __init__(self, config):
            pass

        def handle_post(self, payload):
            return payload
"""


def until(condition: Callable[[], Any], *, within: float = 10.0) -> Any:
    """What `condition` returns as soon as that is true."""
    deadline = time.monotonic() + within
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"not so within {within} s: {condition}")
        time.sleep(0.01)
    return value


class NeverStarted(Exception):
    """The process ended before it listened; what its log says."""


@dataclass
class RunningReplica:
    """A `cortex-serve` process and how to look at it.

    Attributes:
        port: of the first worker, or of all when they share one.
        worker_ports: of each worker.
    """

    process: subprocess.Popen[bytes]
    log_file: Path
    port: int = 0
    admin_port: int = 0
    worker_ports: tuple[int, ...] = ()
    status: int | None = None
    _turn: int = field(default=0, repr=False)

    def request(
        self, method: str = "POST", body: bytes = b"{}", path: str = "/", *, port: int | None = None
    ) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", port or self._any_port(), timeout=20)
        try:
            connection.request(method, path, body, {"content-type": "application/json"})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def connect(self, *, timeout: float = 20.0, port: int | None = None) -> socket.socket:
        return socket.create_connection(("127.0.0.1", port or self._any_port()), timeout=timeout)

    def _any_port(self) -> int:
        """One worker's after the other's, as a gateway without anything else to do would choose."""
        self._turn += 1
        return self.worker_ports[self._turn % len(self.worker_ports)] if self.worker_ports else self.port

    def admin(self, path: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.admin_port, timeout=5)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    def ready(self) -> bool:
        try:
            return self.admin("/readyz")[0] == 200
        except ConnectionError:
            return False

    def health(self) -> dict[str, Any]:
        health: dict[str, Any] = json.loads(self.admin("/healthz")[1])
        return health

    def worker_pids(self) -> list[int]:
        return [worker["pid"] for worker in self.health()["workers"] if worker["state"] == "ready"]

    def metric(self, name: str) -> float:
        """The sum of all series of a metric."""
        lines = self.admin("/metrics")[1].splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith((name + "{", name + " ")))

    def log(self) -> list[dict[str, Any]]:
        """All lines of the newest log file; an incomplete last line is left out."""
        if not self.log_file.exists():
            return []
        text = self.log_file.read_text()
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]

    def ports(self) -> tuple[tuple[int, ...], int] | None:
        """The workers' ports and the admin port, once it has said which they are."""
        said = (line for line in self.log() if "ports" in line)
        return next(((tuple(line["ports"]), line["admin_port"]) for line in said), None)

    def messages(self) -> list[str]:
        return [line["message"] for line in self.log()]

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self, *, within: float = 10.0) -> int:
        self.status = self.process.wait(within)
        return self.status

    def stop(self, *, within: float = 10.0) -> int:
        self.signal(signal.SIGTERM)
        return self.wait(within=within)

    def family(self) -> list[psutil.Process]:
        root = psutil.Process(self.process.pid)
        return [root, *root.children(recursive=True)]


def write_release(
    folder: Path,
    source: str,
    *,
    processes: int,
    threads: int,
    max_replica_concurrency: int = 1024,
    **handler: Any,
) -> Path:
    """Make a project with `handler.py` and the release document for it; returns the document's path."""
    project = folder / "project"
    project.mkdir(exist_ok=True)
    (project / "handler.py").write_text(dedent(source))
    api = RealtimeAPI(
        name="trial",
        handler=Handler(
            type="python",
            path="handler.py",
            processes_per_replica=processes,
            threads_per_process=threads,
            **handler,
        ),
        networking=Networking(endpoint="/trial"),
        compute=Compute(),
        autoscaling=Autoscaling(
            target_replica_concurrency=float(processes * threads),
            max_replica_concurrency=max_replica_concurrency,
        ),
        update_strategy=UpdateStrategy(),
    )
    release = releases.make_release(
        api, project_digest="0" * 64, project_url="file:///nowhere", runtime_version="0"
    )
    path = folder / "release.json"
    path.write_bytes(releases.encode(release))
    return path


@contextmanager
def start_replica(
    folder: Path,
    source: str,
    *,
    processes: int = 1,
    threads: int = 1,
    wait: bool = True,
    share: bool = False,
    worker_ports: Sequence[int] = (),
    ports: tuple[int, int] | None = None,
    options: Sequence[str] = (),
    files: Mapping[str, str] | None = None,
    environ: Mapping[str, str] | None = None,
    **handler: Any,
) -> Iterator[RunningReplica]:
    """Start a replica in `folder` and end whatever is left of it afterwards.

    Args:
        wait: return when it is ready, not at once.
        share: one port for all workers, not one for each.
        worker_ports: what to ask for, if not any free ones.
        ports: one port for all and the admin port; None is any free ones, which the log tells.
        options: more arguments of `cortex-serve`.
        files: more files of the project.
        environ: more environment variables.
        handler: more fields of `handler` in the API's spec.
    """
    logs = folder / "logs"
    logs.mkdir(exist_ok=True)
    held = hold_port() if share and not ports else None
    port, admin_port = ports or (held.getsockname()[1] if held else 0, 0)
    asked_for = [word for each in worker_ports or [port] for word in ("--port", str(each))]
    release = write_release(folder, source, processes=processes, threads=threads, **handler)
    for name, text in (files or {}).items():
        (folder / "project" / name).write_text(dedent(text))
    command = [
        sys.executable, "-m", "cortex_serve", str(release), "--project", str(folder / "project"),
        "--replica", "trial-0", "--host", "127.0.0.1", *asked_for, "--admin-port", str(admin_port),
        "--log-dir", str(logs), *options,
    ]  # fmt: skip
    process = subprocess.Popen(command, env={**os.environ, **(environ or {})}, stderr=subprocess.PIPE)
    replica = RunningReplica(process, logs / "trial-0.jsonl")
    try:
        known = ((port,), admin_port) if ports else None
        until(lambda: process.poll() is not None or known or replica.ports())
        listening = known or replica.ports()
        if listening is None and wait:
            raise NeverStarted("\n".join(replica.messages()))
        if listening is not None:
            replica.worker_ports, replica.admin_port = listening
            replica.port = replica.worker_ports[0]
        if wait:
            until(replica.ready)
        yield replica
    finally:
        _end(process)
        if held is not None:
            held.close()


def hold_port() -> socket.socket:
    """A bound socket that never listens: nobody else is given its port, a replica may listen there."""
    held = socket.socket()
    for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
        held.setsockopt(socket.SOL_SOCKET, option, 1)
    held.bind(("127.0.0.1", 0))
    return held


def _end(process: subprocess.Popen[bytes]) -> None:
    with suppress(psutil.NoSuchProcess):
        for each in psutil.Process(process.pid).children(recursive=True):
            each.kill()
    process.kill()
    process.communicate()

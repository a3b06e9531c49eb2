"""Handler projects served by a process of their own, over real sockets."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from support import serve_project
from support.installation import wait_for
from support.model_agent import RemoteAgent

CARRIERS = ("wsgi", "asgi", "uvicorn")


class Served:
    """A served project."""

    def __init__(
        self, carrier: str, process: subprocess.Popen[bytes], address: tuple[str, int], log: Path
    ) -> None:
        self.carrier = carrier
        self.process = process
        self.address = address
        self.url = f"http://{address[0]}:{address[1]}/"
        self.client = httpx.Client(base_url=self.url, timeout=20, trust_env=False)
        self._log = log

    def log(self, *, request_id: str | None = None) -> list[dict[str, Any]]:
        """Lines written so far, those of one request if named; access lines have a key "access"."""
        lines = [line for line in self._log.read_text().splitlines() if line.startswith("{")]
        return [line for line in map(json.loads, lines) if request_id in (None, line.get("request_id"))]

    def wait_for_log(self, text: str) -> dict[str, Any]:
        def found() -> dict[str, Any] | None:
            return next((line for line in self.log() if text in line.get("text", "")), None)

        line: dict[str, Any] = wait_for(found, within=10, what=f"{text!r} in the log")
        return line

    def wait_for_access(self, request_id: str) -> list[Any]:
        """Method, path and status of a request that was answered; its line comes after the answer."""

        def found() -> list[Any] | None:
            lines = self.log(request_id=request_id)
            return next((line["access"] for line in lines if "access" in line), None)

        access: list[Any] = wait_for(found, within=10, what=f"the access line of {request_id!r}")
        return access

    def raw(self, data: bytes, *, end: bool = False) -> bytes:
        """Send bytes over a new connection; what comes back until it closes or rests for a second."""
        with socket.create_connection(self.address, timeout=10) as connection:
            received = b""
            try:
                connection.sendall(data)
                if end:
                    connection.shutdown(socket.SHUT_WR)
                connection.settimeout(1)
                while piece := connection.recv(65536):
                    received += piece
            except OSError:  # it rests, or the server has hung up
                pass
            return received

    def close(self) -> None:
        self.client.close()
        self.process.terminate()
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def start(
    folder: Path,
    source: str,
    *,
    carrier: str,
    threads: int = 2,
    max_body_bytes: int = 1_000_000,
    max_in_flight: int = 1024,
    agent: RemoteAgent | None = None,
    cache_size: int = 0,
    **handler: Any,
) -> Served:
    """Serve a project of one module, with models if there is an agent for them.

    Args:
        handler: more keys of the API file's section, as `Handler` has them.
    """
    project = folder / "project"
    project.mkdir(exist_ok=True)
    (project / "handler.py").write_text(textwrap.dedent(source))
    log = folder / "log"
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
        address = listener.getsockname()
        numbers = (listener.fileno(), threads, max_body_bytes, max_in_flight)
        arguments = (str(project), carrier, *map(str, numbers), json.dumps(handler))
        inherited: tuple[int, ...] = (listener.fileno(),)
        if agent is not None:
            arguments += (str(agent.folder), *map(str, agent.descriptors), str(cache_size))
            inherited += agent.descriptors
        with log.open("wb") as stderr:
            process = subprocess.Popen(
                [sys.executable, serve_project.__file__, *arguments],
                pass_fds=inherited,
                stderr=stderr,
                cwd=folder,
            )
    served = Served(carrier, process, address, log)

    def answers() -> bool:
        assert process.poll() is None, log.read_text()
        try:
            return httpx.get(served.url + "info", timeout=2, trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    wait_for(answers, within=20, what="the project is served")
    return served


@pytest.fixture(scope="module", params=CARRIERS)
def api(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The project in the module's SOURCE, carried in every way there is."""
    served = start(tmp_path_factory.mktemp("api"), request.module.SOURCE, carrier=request.param)
    yield served
    served.close()


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Served]]:
    """Serve a project's source by a named carrier."""
    running: list[Served] = []

    def serve_one(source: str, **options: Any) -> Served:
        running.append(start(tmp_path, source, **options))
        return running[-1]

    yield serve_one
    for served in running:
        served.close()

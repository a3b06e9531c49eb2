"""The service Talk: handlers that are served over gRPC by a process of their own, and stubs to call them with."""

from __future__ import annotations

import importlib
import json
import os
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import grpc

from support import serve_rpc
from support.installation import wait_for
from support.model_agent import RemoteAgent

PROTO = """
    syntax = "proto3";
    package tested;

    import "shared/text.proto";
    import "google/protobuf/empty.proto";

    service Talk {
      rpc Echo (shared.Text) returns (shared.Text);
      rpc Count (shared.Text) returns (stream shared.Text);
      rpc Join (stream shared.Text) returns (shared.Text);
      rpc Chat (stream shared.Text) returns (stream shared.Text);
      rpc Nothing (google.protobuf.Empty) returns (google.protobuf.Empty);
    }
"""
SHARED_PROTO = """
    syntax = "proto3";
    package shared;

    message Text { string text = 1; }
"""


class Stubs:
    """The service as its clients see it.

    Attributes:
        Text, Empty: classes of messages.
    """

    def __init__(self, folder: Path) -> None:
        write_protos(folder)
        done = subprocess.run(
            [
                sys.executable, "-m", "grpc_tools.protoc", f"-I{folder}", f"--python_out={folder}",
                f"--grpc_python_out={folder}", "talk.proto", "shared/text.proto",
            ],
            cwd=folder, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        sys.path.insert(0, str(folder))
        try:
            self._grpc = importlib.import_module("talk_pb2_grpc")
            self.Text: Any = importlib.import_module("shared.text_pb2").Text
            self.Empty: Any = importlib.import_module("google.protobuf.empty_pb2").Empty
        finally:
            sys.path.remove(str(folder))

    def stub(self, channel: Any) -> Any:
        return self._grpc.TalkStub(channel)


class Served:
    """A served project.

    Attributes:
        stub: a client.
    """

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path, stubs: Stubs) -> None:
        self.process = process
        self.port = port
        self.stubs = stubs
        self.channel = self.connect()
        self.stub = stubs.stub(self.channel)
        self._log = log

    def connect(self) -> Any:
        """A connection of its own."""
        options = [
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.enable_http_proxy", 0),
            ("grpc.enable_retries", 0),
            ("grpc.max_receive_message_length", -1),
        ]
        return grpc.insecure_channel(f"127.0.0.1:{self.port}", options=options)

    def text(self, text: str = "") -> Any:
        return self.stubs.Text(text=text)

    def log(self, *, request_id: str | None = None) -> list[dict[str, Any]]:
        """Lines written so far, those of one request if named; access lines have a key "access"."""
        whole, _, _ = self._log.read_text().rpartition("\n")  # the rest is being written
        lines = [line for line in whole.splitlines() if line.startswith("{")]
        return [line for line in map(json.loads, lines) if request_id in (None, line.get("request_id"))]

    def wait_for_line(self, matches: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        line: dict[str, Any] = wait_for(
            lambda: next((line for line in self.log() if matches(line)), None),
            within=10,
            what="a line of the log",
        )
        return line

    def wait_for_log(self, text: str) -> dict[str, Any]:
        return self.wait_for_line(lambda line: text in line.get("text", ""))

    def wait_for_access(self, request_id: str) -> tuple[str, int]:
        """Path and status of an RPC's line in the access log, when that is written."""
        line = self.wait_for_line(lambda line: "access" in line and line["request_id"] == request_id)
        assert line["access"][0] == "GRPC"
        return line["access"][1], line["access"][2]

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(15)

    def close(self) -> None:
        self.channel.close()
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def write_protos(folder: Path) -> None:
    (folder / "shared").mkdir(parents=True, exist_ok=True)
    (folder / "talk.proto").write_text(textwrap.dedent(PROTO))
    (folder / "shared/text.proto").write_text(textwrap.dedent(SHARED_PROTO))


def start(
    folder: Path,
    source: str,
    stubs: Stubs,
    *,
    threads: int = 2,
    max_in_flight: int = 1024,
    agent: RemoteAgent | None = None,
    port: int = 0,
    environ: Mapping[str, str] | None = None,
    **handler: Any,
) -> Served:
    """Serve a project of one module, with models if there is an agent for them.

    Args:
        port: any free one if it is 0.
        environ: further variables of the process.
        handler: more keys of the API file's section, as `Handler` has them.
    """
    project = folder / "project"
    write_protos(project)
    (project / "handler.py").write_text(textwrap.dedent(source))
    log = folder / "log"
    with socket.socket() as held:  # as a supervisor does
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if not port:
            held.bind(("127.0.0.1", 0))
            port = held.getsockname()[1]
        arguments = [str(project), str(port), str(threads), str(max_in_flight), json.dumps(handler)]
        inherited: tuple[int, ...] = ()
        if agent is not None:
            arguments += [str(agent.folder), *map(str, agent.descriptors)]
            inherited = agent.descriptors
        path = os.pathsep.join(filter(None, (str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH"))))
        with log.open("wb") as stderr:
            process = subprocess.Popen(
                [sys.executable, serve_rpc.__file__, *arguments],
                pass_fds=inherited, stderr=stderr, cwd=folder, env={**os.environ, "PYTHONPATH": path, **(environ or {})},
            )  # fmt: skip

        def is_served() -> bool:
            assert process.poll() is None, log.read_text()
            return "{}\n" in log.read_text()

        wait_for(is_served, within=20, what="the project is served")
    return Served(process, port, log, stubs)

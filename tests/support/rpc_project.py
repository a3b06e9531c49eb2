"""A gRPC API with all four forms, and its client side, compiled as anyone would."""

from __future__ import annotations

import functools
import importlib.util
import sys
import tempfile
from importlib import resources
from pathlib import Path
from types import ModuleType
from typing import Any

from grpc_tools import protoc

PROTO = """\
syntax = "proto3";

package rpcs;

service Forms {
  rpc Once(Ask) returns (Told);
  rpc Fan(Ask) returns (stream Told);
  rpc Gather(stream Ask) returns (Told);
  rpc Chat(stream Ask) returns (stream Told);
  rpc Fail(Ask) returns (Told);
  rpc FailLater(Ask) returns (stream Told);
  rpc Abort(Ask) returns (Told);
}

message Ask {
  int64 number = 1;
  int32 count = 2;
  double seconds = 3;
  bytes padding = 4;
  Ask inner = 5;
}

message Told {
  int64 number = 1;
  string rpc = 2;
  int32 count = 3;
  int64 version = 4;
  int64 release = 5;
  bytes padding = 6;
  repeated string metadata = 7;
  int64 replica = 8;
}
"""

HANDLER = """
import os
import time
from pathlib import Path

import grpc

FILES = ("first.txt", "second.txt", "deeper/third.txt")


class Handler:
    def __init__(self, config, proto_module_pb2{argument}):
        self.pb2 = proto_module_pb2
        self.release = config["release"]
        self.record = os.open(config["record"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self.client = {client}

    def load_model(self, model_path):
        lines = [line for name in FILES for line in (Path(model_path) / name).read_text().split()]
        (version,) = {{int(line) for line in lines if line != "end"}}
        return version

    def Once(self, payload, context):
        time.sleep(payload.seconds)
        self.note("Once", payload)
        context.set_trailing_metadata((("x-trailing", "once"),))
        told = self.told(payload, "Once")
        told.metadata.extend(f"{{key}}={{value}}" for key, value in context.invocation_metadata() if key == "x-said")
        return told

    def Fan(self, payload):
        try:
            for number in range(payload.count):
                yield self.told(payload, "Fan", number)
                time.sleep(payload.seconds)
        finally:
            self.note("Fan", payload)

    def Gather(self, payload):
        asked = list(payload)
        return self.told(asked[-1], "Gather", len(asked))

    def Chat(self, payload):
        for count, asked in enumerate(payload):
            yield self.told(asked, "Chat", count)

    def Fail(self, payload):
        raise ValueError("a secret of the handler")

    def FailLater(self, payload):
        yield self.told(payload, "FailLater")
        raise ValueError("a secret of the handler")

    def Abort(self, payload, context):
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not today")

    def told(self, asked, rpc, count=1):
        version = self.client.get_model() if self.client is not None else 0
        return self.pb2.Told(
            number=asked.number,
            rpc=rpc,
            count=count,
            version=version,
            release=self.release,
            replica=os.getppid(),
            padding=asked.padding,
        )

    def note(self, rpc, asked):
        os.write(self.record, f"{{rpc}} {{asked.number}}\\n".encode())
"""


def write_rpc_project(
    folder: Path,
    *,
    release: int,
    models: str | None = None,
    processes: int = 1,
    threads: int = 4,
    extra: str = "",
) -> None:
    """The API `rpcs`, at `/rpcs.Forms`; and `plain` beside it over HTTP, at `/plain`.

    Args:
        release: what its answers name.
        models: the location of its model; None: it has none.
        extra: further lines of its `handler`.
    """
    source = HANDLER.format(
        argument=", model_client" if models else "", client="model_client" if models else "None"
    )
    (folder / "handler.py").write_text(source)
    (folder / "rpcs.proto").write_text(PROTO)
    (folder / "plain.py").write_text(PLAIN)
    reloading = f"    multi_model_reloading:\n      path: {models}\n" if models else ""
    (folder / "cortex.yaml").write_text(f"""\
- name: rpcs
  kind: RealtimeAPI
  handler:
    type: python
    path: handler.py
    protobuf_path: rpcs.proto
    processes_per_replica: {processes}
    threads_per_process: {threads}
    config: {{release: {release}, record: "{folder.parent / "noted"}"}}
{reloading}{extra}- name: plain
  kind: RealtimeAPI
  handler:
    type: python
    path: plain.py
""")


PLAIN = """
class Handler:
    def __init__(self, config):
        pass

    def handle_post(self, payload):
        return {"n": payload["n"], "version": "1"}
"""


@functools.cache
def compiled() -> tuple[ModuleType, ModuleType]:
    """The modules `rpcs_pb2` and `rpcs_pb2_grpc`."""
    folder = Path(tempfile.mkdtemp())
    (folder / "rpcs.proto").write_text(PROTO)
    well_known = str(resources.files("grpc_tools") / "_proto")
    words = [
        "protoc",
        f"-I{folder}",
        f"-I{well_known}",
        f"--python_out={folder}",
        f"--grpc_python_out={folder}",
    ]
    assert protoc.main([*words, "rpcs.proto"]) == 0
    return _imported(folder, "rpcs_pb2"), _imported(folder, "rpcs_pb2_grpc")


def ask(number: int, **fields: Any) -> Any:
    """A message."""
    return compiled()[0].Ask(number=number, **fields)


def _imported(folder: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # the second imports the first
    spec.loader.exec_module(module)
    return module

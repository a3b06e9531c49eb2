"""A unary gRPC echo: ours, and grpcio's own server with as many threads, in alternating rounds; load by h2load."""

from __future__ import annotations

import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import grpc
import load
from contenders import START, Running, Site, peer, served_by_us
from environments import Unavailable
from rounds import Result, Row
from workloads import Workload

CONNECTIONS, STREAMS = 4, 8
CALLS = 256
"""Checked before anything is measured, all different."""

METHOD = "/trial.Echo/Say"

PROTO = """
syntax = "proto3";
package trial;

message Saying {
  int64 n = 1;
  repeated double values = 2;
}

message Said {
  int64 n = 1;
  repeated double values = 2;
}

service Echo {
  rpc Say (Saying) returns (Said);
}
"""

HANDLER = """
class Handler:
    def __init__(self, config, proto_module_pb2):
        self.messages = proto_module_pb2

    def Say(self, payload, context):
        return self.messages.Said(n=payload.n, values=payload.values)
"""


def run(*, threads: int, seconds: float, rounds: int, folder: Path, say: Callable[[str], None]) -> Row:
    """Compare the two with so many threads each."""
    title = f"gRPC echo, {threads} thread{'s' if threads > 1 else ''}"
    starts: dict[str, Callable[[Path, int], AbstractContextManager[Running]]] = {"ours": _ours, "bare": _bare}
    samples: dict[str, list[load.Sample]] = {name: [] for name in starts}
    problems: dict[str, str] = {}
    wrong: dict[str, int] = {}
    running: dict[str, Running] = {}
    with ExitStack() as stack:
        for name, start in starts.items():
            say(f"{title}: starting {TITLES[name]}")
            own = folder / f"grpc-{threads}-{name}"
            own.mkdir()
            try:
                server = stack.enter_context(start(own, threads))
                wrong[name] = _wrong_answers(server)
            except (Unavailable, grpc.RpcError, OSError) as error:
                problems[name] = " ".join(str(error).split())[-300:]
                say(f"{TITLES[name]} CANNOT BE MEASURED: {problems[name]}")
            else:
                running[name] = server
        for number in range(rounds):
            for name, server in list(running.items()):
                say(f"{title}: round {number + 1} of {rounds}, {TITLES[name]}")
                try:
                    samples[name].append(_measured(server, seconds))
                except load.LoadFailed as error:
                    problems[name], samples[name] = str(error), []
                    del running[name]
                    say(f"{TITLES[name]} CANNOT BE MEASURED: {error}")
    return Row(
        name=f"grpc-{threads}",
        title=title,
        results=tuple(
            Result(
                contender=name,
                title=TITLES[name],
                samples=tuple(samples[name]),
                problem=problems.get(name, ""),
                wrong=wrong.get(name, 0),
            )
            for name in starts
        ),
    )


TITLES = {"ours": "ours", "bare": "bare grpcio"}


def _ours(folder: Path, threads: int) -> AbstractContextManager[Running]:
    return served_by_us(
        folder, HANDLER, threads=threads, files={"echo.proto": PROTO}, protobuf_path="echo.proto"
    )


@contextmanager
def _bare(folder: Path, threads: int) -> Iterator[Running]:
    (folder / "echo.proto").write_text(PROTO)
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", "-I.", "--python_out=.", "--grpc_python_out=.", "echo.proto"],
        cwd=folder, check=True, timeout=60,
    )  # fmt: skip
    workload = Workload(name="grpc", title="", handler="echo", payload=_message, expected=_message)
    with peer("grpcio_server", environment=None, style=str(threads))(
        workload, Site(folder=folder, config={})
    ) as it:
        yield it


def _measured(server: Running, seconds: float) -> load.Sample:
    echoed = _framed(_message(1))
    asked = load.Asked(url=server.url + METHOD, body=echoed, content_type="application/grpc", answer=echoed)
    return load.calm(
        lambda: load.grpc(asked, clients=CONNECTIONS, streams=STREAMS, seconds=seconds, family=server.family)
    )


def _wrong_answers(server: Running) -> int:
    with grpc.insecure_channel(server.url.removeprefix("http://")) as channel:
        grpc.channel_ready_future(channel).result(START)
        say = channel.unary_unary(METHOD)  # bytes in, bytes out
        with ThreadPoolExecutor(CONNECTIONS * STREAMS) as threads:
            answers = threads.map(lambda number: say(_message(number), timeout=30), range(CALLS))
            return sum(answer != _message(number) for number, answer in enumerate(answers))


def _message(number: int) -> bytes:
    """`Saying` and `Said` on the wire: the number, and three doubles."""
    values = struct.pack("<3d", 1.5, 2.5, 3.5)
    return b"\x08" + _varint(10_000 + number) + b"\x12" + _varint(len(values)) + values


def _varint(number: int) -> bytes:
    low, rest = number & 0x7F, number >> 7
    return bytes([low | 0x80]) + _varint(rest) if rest else bytes([low])


def _framed(message: bytes) -> bytes:
    return b"\x00" + struct.pack(">I", len(message)) + message

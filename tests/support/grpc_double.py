"""A stand-in for a replica that speaks gRPC: a small server in a process of its own, with all four forms of calls.

Its service is `speech.Recognizer`; messages are plain bytes. The client's metadata says how:

    Echo      one → one      `seconds` waits first; `bytes` is the answer's size; `abort` aborts with that status
    Count     one → many     `count` messages, `seconds` between them
    Sum       many → one     the sum of the messages' sizes
    Chat      many → many    each message comes back

Every answer begins with the double's version and a space; `Seen` answers how many calls arrived.
SIGTERM ends it as a replica ends: no new calls, those in flight are finished.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc

SERVICE = "speech.Recognizer"
GRACE = 30.0


class GrpcDouble:
    """A running stand-in; `port` is kept by `start` after `kill`.

    Args:
        version: what its answers begin with.
        threads: how many calls it works on at a time.
    """

    def __init__(self, version: str = "1", threads: int = 16) -> None:
        self.version = version
        self.port = 0
        self._threads = threads
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> GrpcDouble:
        """Start it and return when it listens."""
        argv = [sys.executable, str(Path(__file__)), self.version, str(self.port), str(self._threads)]
        environ = {"PATH": os.environ["PATH"], "GRPC_VERBOSITY": "NONE"}
        self._process = subprocess.Popen(argv, stdout=subprocess.PIPE, env=environ)
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        return self

    def terminate(self) -> None:
        """End it gracefully and wait for it."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(number)
        self._process.wait(GRACE + 5)
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._process = None


class Caller:
    """A client of the service over one connection.

    Args:
        target: host and port.
        metadata: sent with every call.
    """

    def __init__(self, target: str, **metadata: str) -> None:
        options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        self.channel = grpc.insecure_channel(target, options=options)
        self._metadata = metadata

    def echo(self, message: bytes = b"", *, timeout: float | None = 20, **metadata: str) -> bytes:
        answer: bytes = self.one_to_one("Echo")(message, timeout=timeout, metadata=self._sent(metadata))
        return answer

    def count(self, *, timeout: float | None = 20, **metadata: str) -> Any:
        """The call, to be iterated."""
        call = self.channel.unary_stream(_path("Count"))
        return call(b"", timeout=timeout, metadata=self._sent(metadata))

    def sum(self, messages: Iterator[bytes], *, timeout: float | None = 20) -> bytes:
        call = self.channel.stream_unary(_path("Sum"))
        answer: bytes = call(messages, timeout=timeout, metadata=self._sent({}))
        return answer

    def chat(self, messages: Iterator[bytes], *, timeout: float | None = 20) -> Any:
        call = self.channel.stream_stream(_path("Chat"))
        return call(messages, timeout=timeout, metadata=self._sent({}))

    def one_to_one(self, method: str, service: str = SERVICE) -> Any:
        return self.channel.unary_unary(_path(method, service))

    def close(self) -> None:
        self.channel.close()

    def __enter__(self) -> Caller:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _sent(self, metadata: dict[str, str]) -> list[tuple[str, str]]:
        return [*self._metadata.items(), *metadata.items()]


def _path(method: str, service: str = SERVICE) -> str:
    return f"/{service}/{method}"


class _Service:
    def __init__(self, version: str) -> None:
        self.prefix = f"{version} ".encode()
        self.calls = 0
        self._lock = threading.Lock()

    def echo(self, message: bytes, context: grpc.ServicerContext) -> bytes:
        told = self._begin(context)
        if "abort" in told:
            context.abort(grpc.StatusCode[told["abort"]], "as you wish")
        time.sleep(float(told.get("seconds", 0)))
        return self.prefix + (b"x" * int(told["bytes"]) if "bytes" in told else message)

    def count(self, _: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        told = self._begin(context)
        for number in range(int(told["count"])):
            yield self.prefix + str(number).encode()
            time.sleep(float(told.get("seconds", 0)))

    def sum(self, messages: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        self._begin(context)
        return self.prefix + str(sum(len(each) for each in messages)).encode()

    def chat(self, messages: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        self._begin(context)
        for each in messages:
            yield self.prefix + each

    def seen(self, _: bytes, context: grpc.ServicerContext) -> bytes:
        return str(self.calls).encode()

    def health(self, _: bytes, context: grpc.ServicerContext) -> bytes:
        """Not the real service: it says who answers."""
        return self.prefix.strip()

    def _begin(self, context: grpc.ServicerContext) -> dict[str, str]:
        with self._lock:
            self.calls += 1
        return {key: str(value) for key, value in context.invocation_metadata()}

    def handler(self) -> grpc.GenericRpcHandler:
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "Echo": grpc.unary_unary_rpc_method_handler(self.echo),
                "Count": grpc.unary_stream_rpc_method_handler(self.count),
                "Sum": grpc.stream_unary_rpc_method_handler(self.sum),
                "Chat": grpc.stream_stream_rpc_method_handler(self.chat),
                "Seen": grpc.unary_unary_rpc_method_handler(self.seen),
            },
        )


def _serve(version: str, port: int, threads: int) -> None:
    ending = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ending.set())
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    server = grpc.server(ThreadPoolExecutor(threads), options=options)
    service = _Service(version)
    server.add_generic_rpc_handlers((service.handler(), _health(service)))
    bound = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    print(bound, flush=True)
    ending.wait()
    server.stop(GRACE).wait()


def _health(service: _Service) -> grpc.GenericRpcHandler:
    check = grpc.unary_unary_rpc_method_handler(service.health)
    return grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": check})


if __name__ == "__main__":
    _serve(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))

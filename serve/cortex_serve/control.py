"""What the supervisor and a worker say to each other, over a socket pair that keeps messages apart.

supervisor → worker   `COLLECT`; and the end of the stream: it is gone, end at once
worker → supervisor   `Loaded` once if it waits for a first request to build its handler,
                      `Ready` once, then `Report` each second and whenever it is asked
"""

from __future__ import annotations

import socket

import msgspec

from cortex_core.spec.types import Struct
from cortex_serve.stats import StatsSnapshot

COLLECT = b"collect"
MAX_MESSAGE = 65536


class WorkerSettings(Struct):
    """What a worker is told on its command line; the descriptors are inherited.

    Attributes:
        release: path of the release document.
        project: folder of the extracted project.
        replica: the replica's id.
        supervisor: its pid.
        listener: this worker's listening socket.
        control: this worker's end of the socket pair.
        log: writing end of the pipe for finished log lines.
        turn: a file; whoever holds its lock may run a handler's constructor.
        first_request: whether the supervisor sends one on `Loaded`.
    """

    release: str
    project: str
    replica: str
    supervisor: int
    listener: int
    control: int
    log: int
    turn: int
    first_request: bool


class Loaded(Struct, tag=True):
    """Requests are accepted; the thread that gets the first one builds the handler."""


class Ready(Struct, tag=True):
    """The handler is built and requests are accepted."""


class Report(Struct, tag=True):
    """What the worker counted so far."""

    requests: StatsSnapshot
    log_lines_dropped: int


Message = Loaded | Ready | Report

_decoder: msgspec.json.Decoder[Message] = msgspec.json.Decoder(Message)


def encode(message: Message | WorkerSettings) -> bytes:
    return msgspec.json.encode(message)


def decode(data: bytes) -> Message:
    return _decoder.decode(data)


def decode_settings(data: str) -> WorkerSettings:
    return msgspec.json.decode(data, type=WorkerSettings)


def pair() -> tuple[socket.socket, socket.socket]:
    """Two connected ends; each `send` is one `recv`."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

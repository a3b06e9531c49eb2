"""What the supervisor and a worker say to each other, over a socket pair that keeps messages apart.

supervisor → worker   `Collect`; `HangUp` before it is aborted; with models: `Follow` for each new snapshot,
                      `Here` for each `Want`;
                      and the end of the stream: it is gone, end at once
worker → supervisor   `Loaded` once if it waits for a first request to build its handler,
                      `Ready` once, then `Report` twice a second and whenever it is asked;
                      with models: `ModelLoading`, then `ModelLoaded` or `ModelFailed`, in the end `ModelDropped`,
                      for each servable; `Want` for one it needs on disk
"""

from __future__ import annotations

import socket
from collections.abc import Iterable

import msgspec

from cortex_core.spec.types import Struct
from cortex_serve.batching.counts import BatchCounts
from cortex_serve.stats import StatsSnapshot

MAX_MESSAGE = 65536


class WorkerSettings(Struct):
    """What a worker is told on its command line; the descriptors are inherited.

    Attributes:
        release: path of the release document.
        project: folder of the extracted project.
        replica: the replica's id.
        supervisor: its pid.
        listener: this worker's bound socket, which it has listen when it serves; -1 if it opens one itself.
        host, port: where it serves.
        control: this worker's end of the socket pair.
        log: writing end of the pipe for finished log lines.
        turn: a file; whoever holds its lock may run a handler's constructor.
        first_request: whether the supervisor sends one on `Loaded`.
        models: folder with the replica's models and their snapshot; None for an API without models.
        cells: shared memory with a number for each model; -1 for an API without models.
    """

    release: str
    project: str
    replica: str
    supervisor: int
    listener: int
    host: str
    port: int
    control: int
    log: int
    turn: int
    first_request: bool
    models: str | None = None
    cells: int = -1


class Loaded(Struct, tag=True):
    """Requests are accepted; the thread that gets the first one builds the handler."""


class Ready(Struct, tag=True):
    """The handler is built and requests are accepted."""


class ModelCounts(Struct):
    """What the models of a worker did since it started.

    Attributes:
        hits: requests whose model was in memory.
        misses: requests that had to wait for a load.
        evictions: servables that left memory to make room.
        held: servables in memory now.
    """

    hits: int = 0
    misses: int = 0
    evictions: int = 0
    held: int = 0


def total(counts: Iterable[ModelCounts]) -> ModelCounts:
    """The sum over workers."""
    every = list(counts)
    return ModelCounts(
        **{name: sum(getattr(each, name) for each in every) for name in ModelCounts.__struct_fields__}
    )


class Report(Struct, tag=True):
    """What the worker counted so far."""

    requests: StatsSnapshot
    log_lines_dropped: int
    models: ModelCounts | None = None
    batches: BatchCounts | None = None


class ModelLoading(Struct, tag=True):
    """The user's code loads a servable from here on; if the worker dies now, that may be why."""

    serial: int


class ModelLoaded(Struct, tag=True):
    """A servable is in memory, warmed up, and can be given out.

    Attributes:
        seconds: the load took.
    """

    serial: int
    seconds: float


class ModelFailed(Struct, tag=True):
    """A servable could not be loaded. The worker has logged the traceback.

    Attributes:
        error: what went wrong, one line.
        transient: whether the same may work later (no memory, no room in the cache, a network).
    """

    serial: int
    error: str
    transient: bool


class ModelDropped(Struct, tag=True):
    """A servable is in memory no longer, and no request uses it any more."""

    serial: int


class Want(Struct, tag=True):
    """A request needs a servable on disk. It stays there until `ModelFailed` or `ModelDropped`.

    Attributes:
        serial: of the servable.
        used: servables that requests used since the last `Want`, each once, the last used last.
    """

    serial: int
    used: tuple[int, ...] = ()


class Collect(Struct, tag=True):
    """Report now."""


class HangUp(Struct, tag=True):
    """Close all connections that can be closed: it is thought to hang, and ended in a moment."""


class Follow(Struct, tag=True):
    """A newer snapshot was published."""


class Here(Struct, tag=True):
    """The answer to a `Want`.

    Attributes:
        directory: absolute path of its files; None when they cannot be had.
        error: why not, one line.
        transient: whether the same may work later.
    """

    serial: int
    directory: str | None = None
    error: str | None = None
    transient: bool = False


Message = Loaded | Ready | Report | ModelLoading | ModelLoaded | ModelFailed | ModelDropped | Want
"""From a worker."""

Order = Collect | HangUp | Follow | Here
"""To a worker."""

_decoder: msgspec.json.Decoder[Message] = msgspec.json.Decoder(Message)
_order_decoder: msgspec.json.Decoder[Order] = msgspec.json.Decoder(Order)


def encode(message: Message | Order | WorkerSettings) -> bytes:
    return msgspec.json.encode(message)


def decode(data: bytes) -> Message:
    return _decoder.decode(data)


def decode_order(data: bytes) -> Order:
    return _order_decoder.decode(data)


def decode_settings(data: str) -> WorkerSettings:
    return msgspec.json.decode(data, type=WorkerSettings)


def pair() -> tuple[socket.socket, socket.socket]:
    """Two connected ends; each `send` is one `recv`."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

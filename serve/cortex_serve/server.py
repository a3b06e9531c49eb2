"""HTTP/1.1 on an inherited listening socket, by granian; the only module that knows granian's insides.

Handlers that are plain methods are carried by granian's WSGI interface: parsing in Rust, the handler right on
one of `threads` threads, no event loop in between. Those with `async def` are carried by its ASGI interface:
twice as fast as uvicorn without uvloop and httptools, and with the same sockets, limits and shutdown. Requests
that are batched come over the ASGI interface too, but without its event loop: an `Exchange` for each.

Shutdown (`run` on SIGTERM):

    announce   for `ANNOUNCE` seconds connections are still accepted and answered, each answer closes its
               connection, so who keeps connections open learns that this worker goes
    close      who is connected is accepted, then nothing more is; idle connections are closed, requests that
               have begun are answered
    linger     a connection that has no request in flight for `LINGER` seconds is given up

Used of granian 2.8 (the dependency is pinned to it): `WSGIWorker`, `ASGIWorker`, `SocketHolder`,
`WorkerSignal` and `CallbackScheduler` of its extension module, in the way of its `server/mp.py`.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import logging
import os
import resource
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from cortex_core.runtime import IDLE_TIMEOUT
from cortex_serve.listeners import BACKLOG, MAX_CONNECTIONS, turn_away, waiting
from cortex_serve.response import AnswerCut

if TYPE_CHECKING:
    import asyncio

ANNOUNCE = 0.3
LAST = 0.5
"""Seconds for accepting who is connected already, before nothing more is accepted."""
READ = 0.05
"""Seconds for reading the first bytes of those."""
LINGER = 5.0
_POLL = 0.1
_BLINK = 0.01
_IDLE_THREAD = 30


class Application(Protocol):
    """What is served."""

    @property
    def is_async(self) -> bool:
        """Whether to serve `asgi`; `wsgi` otherwise."""

    @property
    def wsgi(self) -> Callable[..., Iterable[bytes]]:
        """Read for every request."""

    @property
    def asgi(self) -> Callable[..., Awaitable[None]]: ...

    @property
    def batching(self) -> Callable[[Exchange], bool] | None:
        """Is offered each request before `asgi`, on the server's thread, and says whether it took it."""


def run(
    application: Application,
    *,
    listener: int,
    threads: int,
    in_flight: Callable[[], int],
    started: Callable[[], None],
    leaves: Callable[[], None],
    left: Callable[[], None],
) -> None:
    """Serve until SIGTERM, then finish what is in flight. Must be called by the main thread.

    Args:
        application: answers the requests.
        listener: descriptor of a bound, listening TCP socket; it is closed in the end.
        threads: how many requests run at once (when the application is not async).
        in_flight: how many requests are being answered now.
        started: called once requests are accepted.
        leaves: called on SIGTERM; the socket is nobody else's any more.
        left: called when nothing is in flight any more. What it waits for may still run on the event loop.
    """
    server = _Server(listener, in_flight, started, leaves, left)
    if application.is_async:
        _run_async(application, server)
    else:
        _run_threads(application, server, threads)


class _Server:
    """One granian worker and its way down."""

    def __init__(
        self,
        listener: int,
        in_flight: Callable[[], int],
        started: Callable[[], None],
        leaves: Callable[[], None],
        left: Callable[[], None],
    ) -> None:
        self.granian = _granian()
        self.leaving = False
        self.started = started
        self._leaves = leaves
        self._left = left
        self._listener = listener
        self._in_flight = in_flight
        self._signal = self.granian.WorkerSignal()
        self._done = threading.Event()
        self._signal.add_cb(self._done.set)

    def serve(self, worker_type: Any, scheduler: Any, loop: object, *, threads: int) -> None:
        """Accept connections in the background."""
        socket_holder = self.granian.SocketHolder(self._listener, False, BACKLOG)
        worker = worker_type(
            worker_id=1,
            sock=(None, socket_holder),
            ipc=None,
            threads=1,
            py_threads=threads,
            py_threads_idle_timeout=_IDLE_THREAD,
            backpressure=_max_connections(),
            http_mode="1",
            http1_opts=_Http1(header_read_timeout=int(IDLE_TIMEOUT * 1000)),
        )
        worker.serve_mtr(scheduler, loop, self._signal)
        self.started()

    def leave(self) -> None:
        """Announce, close and linger; returns when the worker may end."""
        self._answer_the_last()
        self._left()

    def _answer_the_last(self) -> None:
        self.leaving = True
        self._leaves()
        self._done.wait(ANNOUNCE)
        self._accept_the_last()
        self._signal.set()
        quiet_since = time.monotonic()
        while not self._done.wait(_POLL):
            if self._in_flight():
                quiet_since = time.monotonic()
            elif time.monotonic() - quiet_since > LINGER:
                return
        while self._in_flight():  # its client has gone, which is no reason to break off in the middle
            time.sleep(_POLL)

    def _accept_the_last(self) -> None:
        """Connections that wait when the socket is closed are reset, and those of which nothing was read yet are
        closed, whatever their clients have sent already."""
        turn_away(self._listener)
        until = time.monotonic() + LAST
        while waiting(self._listener) and time.monotonic() < until:
            self._done.wait(_BLINK)
        self._done.wait(READ)


def _run_threads(application: Application, server: _Server, threads: int) -> None:
    def answer(protocol: Any, environ: dict[str, Any]) -> None:
        head = _Head()
        body = application.wsgi(environ, head)
        headers = [*head.headers, ("connection", "close")] if server.leaving else head.headers
        if isinstance(body, list):
            protocol.response_bytes(head.status, headers, body[0] if len(body) == 1 else b"".join(body))
        else:
            protocol.response_iter(head.status, headers, _Chunks(body))

    signals = _signals()
    granian = server.granian
    scheduler = granian.CallbackScheduler(_NoLoop, answer, None, None, None)
    server.serve(granian.WSGIWorker, scheduler, None, threads=threads)
    while signal.SIGTERM not in os.read(signals, 64):
        pass
    server.leave()


def _signals() -> int:
    """A pipe from which the numbers of signals can be read.

    The interpreter writes them whichever thread a signal interrupts. What it has the main thread call would wait for that
    thread to come back from its read, which a signal that came just before does not end.
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    return reading


def _run_async(application: Application, server: _Server) -> None:
    import asyncio

    async def until_terminated() -> None:
        loop = asyncio.get_running_loop()
        if application.batching is not None:
            _let_listeners_hear(loop)
        terminated = asyncio.Event()
        loop.add_signal_handler(signal.SIGTERM, terminated.set)
        scheduler = _scheduler(application, server, loop)
        server.serve(server.granian.ASGIWorker, scheduler, loop, threads=1)
        await terminated.wait()
        await loop.run_in_executor(None, server.leave)

    asyncio.run(until_terminated())


def _scheduler(application: Application, server: _Server, loop: asyncio.AbstractEventLoop) -> Any:
    """Starts a task on the loop for each request that granian's threads bring."""
    waiting: deque[Any] = deque()
    tasks: set[Any] = set()
    woken = False

    async def answer(request: Any) -> None:
        send = _closing(request.proto.send) if server.leaving else request.proto.send
        try:
            await application.asgi(request.scope, request.proto.receive, send)
        except BaseException as error:  # noqa: BLE001  # granian answers 500 and logs it
            request.err(error)
        else:
            request.done()

    def start_waiting() -> None:
        nonlocal woken
        woken = False  # before looking: who adds a request from here on wakes the loop again
        while waiting:
            request = waiting.popleft()
            task = loop.create_task(answer(request))
            request.taskref(task)
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    def schedule(request: Any) -> None:
        nonlocal woken
        if application.batching is not None and application.batching(Exchange(request, server, loop)):
            return
        waiting.append(request)
        if not woken:
            woken = True
            loop.call_soon_threadsafe(start_waiting)

    scheduler = server.granian.CallbackScheduler(loop, answer, None, None, None)
    scheduler._schedule_fn = schedule
    return scheduler


class Exchange:
    """A request and the way back to its client, for who answers without a task (`batching.carrier.Exchange`)."""

    __slots__ = ("_listening", "_protocol", "_request", "_server", "loop", "scope")

    def __init__(self, request: Any, server: _Server, loop: asyncio.AbstractEventLoop) -> None:
        self.scope: dict[str, Any] = request.scope
        self.loop = loop
        self._request = request
        self._protocol = request.proto
        self._server = server
        self._listening: Any = None

    @property
    def receive(self) -> Callable[[], Awaitable[dict[str, Any]]]:
        receive: Callable[[], Awaitable[dict[str, Any]]] = self._protocol.receive
        return receive

    @property
    def send(self) -> Callable[[Any], Awaitable[None]]:
        send: Callable[[Any], Awaitable[None]] = self._protocol.send
        return _closing(send) if self._server.leaving else send

    def listen(self, heard: Callable[[dict[str, Any]], None]) -> None:
        self._listening = self._protocol.receive()
        self._listening.add_done_callback(_Listener(heard))

    def forget(self) -> None:
        if self._listening is not None:
            self._listening.remove_done_callback(None)
            self._listening.cancel()

    def end(self) -> None:
        self._request.done()
        self._request = self._protocol = self._listening = None

    def answer(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        send = self.send
        send({"type": "http.response.start", "status": status, "headers": headers})
        send({"type": "http.response.body", "body": body})


class _Listener:
    """The callback of one of granian's futures that is called on granian's thread, not on the event loop's.

    The future keeps it, and is kept by who listens; the collector does not see such a ring when it passes through
    granian. So it is opened when the message has come.
    """

    __slots__ = ("_heard",)

    def __init__(self, heard: Callable[[dict[str, Any]], None]) -> None:
        self._heard: Callable[[dict[str, Any]], None] | None = heard

    def __call__(self, future: Any) -> None:
        heard, self._heard = self._heard, None
        if heard is not None:
            heard(future.result())


def _let_listeners_hear(loop: asyncio.AbstractEventLoop) -> None:
    """Have the loop call listeners at once, where granian asks it to call them soon."""

    def at_once(schedule: Callable[..., Any]) -> Callable[..., Any]:
        def call(callback: Callable[..., object], *arguments: Any, context: Any = None) -> Any:
            if type(callback) is _Listener:
                return callback(*arguments)
            return schedule(callback, *arguments, context=context)

        return call

    loop.call_soon = at_once(loop.call_soon)  # type: ignore[method-assign,assignment]  # the only way in: futures name the loop
    loop.call_soon_threadsafe = at_once(loop.call_soon_threadsafe)  # type: ignore[method-assign,assignment]  # as above


def _closing(send: Callable[[Any], Awaitable[None]]) -> Callable[[Any], Awaitable[None]]:
    def send_with_close(message: dict[str, Any]) -> Awaitable[None]:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]}
        return send(message)

    return send_with_close


def _max_connections() -> int:
    """As many as are allowed and leave the handler half of the descriptors: without any, accepting would spin."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_CONNECTIONS if soft == resource.RLIM_INFINITY else min(MAX_CONNECTIONS, soft // 2)


class _Head:
    """`start_response` of a WSGI call; keeps what it is given."""

    __slots__ = ("headers", "status")

    status: int
    headers: list[tuple[str, str]]

    def __call__(self, status: str, headers: list[tuple[str, str]], _exc_info: object = None) -> None:
        self.status = int(status[:3])
        self.headers = headers


class _Chunks:
    """A WSGI body that is no list, as granian wants it."""

    __slots__ = ("__next__", "close")

    def __init__(self, body: Iterable[bytes]) -> None:
        self.__next__ = iter(body).__next__
        self.close = getattr(body, "close", lambda: None)


def _is_news(record: logging.LogRecord) -> bool:
    return f"\n{AnswerCut.__name__}: " not in record.getMessage()


class _NoLoop:
    """Stands where granian wants an event loop and, serving with threads, never uses it."""

    call_soon = None


@dataclass(frozen=True, kw_only=True)
class _Http1:
    """granian's HTTP1Settings: milliseconds, bytes."""

    header_read_timeout: int
    keep_alive: bool = True
    max_buffer_size: int = 417_792
    pipeline_flush: bool = False


def _granian() -> Any:
    """granian's extension module, without the package around it.

    The package imports its whole command line, multiprocessing and asyncio with it: 75 ms at every start.
    """
    name = "granian._granian"
    if name not in sys.modules:
        package = importlib.util.find_spec("granian")
        if package is None:
            raise ModuleNotFoundError("granian is not installed", name="granian")
        spec = importlib.machinery.PathFinder.find_spec(name, package.submodule_search_locations)
        if spec is None or spec.loader is None:
            raise ModuleNotFoundError(f"granian at {package.origin} has no extension module", name=name)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        sys.modules[name] = module
    logging.getLogger("_granian").setLevel(logging.WARNING)
    logging.getLogger("_granian.utils").addFilter(_is_news)
    return sys.modules[name]

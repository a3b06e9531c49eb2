"""A handler served over gRPC: loading it, and the server until its end.

    load_handler ─▶ create_application ─▶ run: start, check health through the own port, started() … SIGTERM, drain

One server for all handlers: grpcio's on an event loop. Coroutines run on the loop, plain methods on as many threads as
the API has, so a full house of calls never keeps health checks, refusals and deadlines waiting, and a client that is
slow to send its request takes no thread.

Shutdown (`run` on SIGTERM):

    announce   health says NOT_SERVING; everything is still served for `ANNOUNCE` seconds, and for as long as there
               is not that much time without a new RPC, but not longer than `LINGER`: what grpcio has received and
               not yet handed over when it closes, it cancels
    close      GOAWAY: clients and proxies open no more streams here; what has begun is finished
    end        connections without an RPC for `LINGER` seconds are given up; what is left after `SHUTDOWN_GRACE` seconds
               is cancelled
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from types import ModuleType
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from cortex_core.errors import CortexError
from cortex_core.release import Release
from cortex_core.runtime import REQUEST_TIMEOUT, SHUTDOWN_GRACE
from cortex_core.spec.types import RealtimeAPI, request_timeout_of, requests_per_process
from cortex_serve import compat, handler, signatures
from cortex_serve.handler import HandlerFailed
from cortex_serve.overdue import HANG_UP_WITHIN
from cortex_serve.request_ids import RequestIds
from cortex_serve.rpc import modules, reflection
from cortex_serve.rpc.calls import Calls
from cortex_serve.rpc.health import Health
from cortex_serve.rpc.method import Method, waits
from cortex_serve.rpc.service import Service, service_of
from cortex_serve.rpc.threads import HandlerThreads
from cortex_serve.stats import Stats

if TYPE_CHECKING:
    from cortex_serve.application import Log
    from cortex_serve.models.table import ModelTable

__all__ = [
    "CannotListen",
    "HandlerFailed",
    "LoadedRpc",
    "RpcApplication",
    "create_application",
    "load_handler",
    "run",
]

MAX_MESSAGE_BYTES = 64 * 1024 * 1024
MAX_METADATA_BYTES = 96 * 1024
"""Of one request, as HTTP/2 counts it: more than the gateway lets through."""
ANNOUNCE = 0.3
LINGER = 5.0
CHECK_WITHIN = 10.0
_POLL = 0.05


class CannotListen(CortexError):
    """The port cannot be had."""


@dataclass(frozen=True, kw_only=True)
class LoadedRpc:
    """A handler's class and the service it is for."""

    cls: type
    service: Service
    module: ModuleType


class RpcApplication:
    """One handler instance and how it is reached over gRPC.

    Args:
        instance: the handler.
        service: whose RPCs it answers.
        threads: that its plain methods run on.
        log: where the worker writes.
        timeout: seconds that an RPC may take, if the API says so.
        max_in_flight: RPCs that may be answered or wait for a thread at once; more are refused.
        models: that RPCs use; None for an API without models.

    Attributes:
        stats: what was answered so far.
        turns_away: RPCs that come now had better go elsewhere; set by any thread.
        hang_up: closes all connections once calls that are being refused are, while it is served; from any thread.
    """

    def __init__(
        self,
        instance: Any,
        service: Service,
        *,
        threads: HandlerThreads,
        log: Log,
        timeout: float | None = None,
        max_in_flight: int,
        models: ModelTable | None = None,
    ) -> None:
        self.instance = instance
        self.service = service
        self.stats = Stats()
        self.log = log
        self.max_in_flight = max_in_flight
        self.turns_away = False
        self.hang_up: Callable[[], object] = lambda: None
        self._methods = {rpc.name: Method(rpc, getattr(instance, rpc.name)) for rpc in service.rpcs}
        self._threads = threads
        self._timeout = timeout
        self._models = models
        self._ids = RequestIds()

    def calls(self) -> Calls:
        """What answers the RPCs, on the running event loop."""
        return Calls(
            self.service,
            self._methods,
            threads=self._threads,
            stats=self.stats,
            log=self.log,
            begin=None if self._models is None else self._models.use,
            request_id=self._ids.of,
            timeout=self._timeout,
            unary_timeout=REQUEST_TIMEOUT,
            max_in_flight=self.max_in_flight,
            turns_away=lambda: self.turns_away,
        )

    def close(self) -> None:
        self._threads.close()


def load_handler(release: Release, project_dir: Path, *, log: Log) -> LoadedRpc:
    """Compile a release's .proto file, import its handler and check it. The process works in the project from here on.

    Args:
        release: of a RealtimeAPI with a python handler over gRPC.
        project_dir: the extracted project.
        log: where the worker writes.

    Raises:
        HandlerFailed: the handler cannot be loaded; the text says why, to its author.
    """
    spec = _spec_of(release)
    path = spec.handler.protobuf_path or ""
    compat.install(log.logger)
    handler.enter(project_dir, spec.handler.python_path)
    module = modules.compiled(project_dir, path)
    service = service_of(module, path)
    cls = handler.load_class(project_dir, spec.handler.path)
    problems = signatures.check(
        cls,
        signatures.CONTRACTS["RealtimeAPI", "python", "grpc"],
        reloads_models=spec.handler.multi_model_reloading is not None,
        rpcs=[rpc.name for rpc in service.rpcs],
    )
    if problems:
        raise HandlerFailed("\n".join(f"{spec.handler.path}: {problem}" for problem in problems))
    return LoadedRpc(cls=cls, service=service, module=module)


def cancels(loaded: LoadedRpc) -> bool:
    """Whether methods are coroutines, which are cancelled when an RPC has taken too long."""
    return any(waits(getattr(loaded.cls, rpc.name)) for rpc in loaded.service.rpcs)


def limit_of(release: Release) -> float:
    """Seconds that an RPC may take."""
    return request_timeout_of(_spec_of(release).handler)


def create_application(
    release: Release, loaded: LoadedRpc, *, log: Log, models: ModelTable | None = None
) -> RpcApplication:
    """Build the handler that `load_handler` returned: on one of its threads, unless it has coroutines.

    Args:
        release: the handler is of.
        loaded: the handler's class and service.
        log: where the worker writes.
        models: that the handler uses; None for an API without models.

    Raises:
        HandlerFailed: the constructor raised, or replaced a method; the text says what, to its author.
    """
    spec = _spec_of(release)
    available = handler.offered(spec.handler, models, proto_module_pb2=loaded.module)
    bind = None if models is None else models.bind
    threads = HandlerThreads(spec.handler.threads_per_process)
    if cancels(loaded):
        instance = handler.construct(loaded.cls, available, bind)
    else:
        instance = threads.result(handler.construct, loaded.cls, available, bind)
    for rpc in loaded.service.rpcs:
        if not callable(method := getattr(instance, rpc.name)):
            raise HandlerFailed(
                f"{spec.handler.path}: {loaded.cls.__name__}.{rpc.name}: must be a method, but its constructor "
                f"has made it an object of type {type(method).__name__!r}"
            )
    timeout = spec.handler.request_timeout
    return RpcApplication(
        instance,
        loaded.service,
        threads=threads,
        log=log,
        timeout=None if timeout is None else timeout / 1e9,
        max_in_flight=requests_per_process(spec),
        models=models,
    )


def run(
    application: RpcApplication,
    *,
    host: str,
    port: int,
    in_flight: Callable[[], int],
    started: Callable[[], None],
) -> None:
    """Serve until SIGTERM, then finish what is in flight. Must be called by the main thread.

    Args:
        application: answers the RPCs.
        host: address to listen on.
        port: held for this worker by a socket that is bound with SO_REUSEPORT and does not listen; or free.
        in_flight: how many RPCs are being answered now.
        started: called once an RPC through the port was answered.

    Raises:
        CannotListen: the port cannot be had, or does not lead here.
    """
    asyncio.run(_serve(application, _address(host, port), in_flight, started))


async def _serve(
    application: RpcApplication, address: str, in_flight: Callable[[], int], started: Callable[[], None]
) -> None:
    leaving = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, leaving.set)
    name = application.service.name
    server = grpc.aio.server(options=_options(application.max_in_flight))
    calls = application.calls()
    server.add_generic_rpc_handlers((calls.handlers(), Health(name, leaving).handlers()))
    server.add_generic_rpc_handlers(reflection.handlers(name, leaving))
    _bind(server, address)
    await server.start()
    await _check(address)
    loop = asyncio.get_running_loop()
    application.hang_up = lambda: asyncio.run_coroutine_threadsafe(server.stop(HANG_UP_WITHIN / 2), loop)
    started()
    await leaving.wait()
    await _linger(calls)
    await _stop(server, in_flight)
    while in_flight():  # the client of a plain method has gone, which is no reason to break off in the middle
        await asyncio.sleep(_POLL)


async def _linger(calls: Calls) -> None:
    """Serve until whoever brings RPCs has learnt that this worker goes."""
    began = perf_counter()
    await asyncio.sleep(ANNOUNCE)
    while perf_counter() - calls.latest < ANNOUNCE and perf_counter() - began < LINGER:
        await asyncio.sleep(_POLL)


async def _stop(server: Any, in_flight: Callable[[], int]) -> None:
    """Finish what has begun; connections without any RPC whose clients do not hang up are given up after a while."""
    stopping = asyncio.ensure_future(server.stop(SHUTDOWN_GRACE))
    quiet_since = perf_counter()
    while not stopping.done() and perf_counter() - quiet_since < LINGER:
        await asyncio.wait({stopping}, timeout=_POLL)
        if in_flight():
            quiet_since = perf_counter()
    await server.stop(None)
    await stopping


def _options(max_in_flight: int) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_send_message_length", -1),
        # grpcio refuses by chance what is between the two
        ("grpc.max_metadata_size", MAX_METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", MAX_METADATA_BYTES),
        # one connection, a proxy's, may bring all that is let in, and some to be refused
        ("grpc.max_concurrent_streams", 2 * max_in_flight + 100),
        # a client that is gone without a word is noticed; one that pings like that, or each 10 s, is no abuse
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
    ]


def _bind(server: Any, address: str) -> None:
    try:
        bound = server.add_insecure_port(address)
    except RuntimeError as error:
        raise CannotListen(f"cannot listen on {address}: {error}") from error
    if not bound:  # what grpcio before 1.58 says
        raise CannotListen(f"cannot listen on {address}")


async def _check(address: str) -> None:
    """See that RPCs come through."""
    from grpc_health.v1 import health_pb2

    options = [("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(_reachable(address), options=options) as channel:
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        try:
            await check(health_pb2.HealthCheckRequest(), timeout=CHECK_WITHIN, wait_for_ready=True)
        except grpc.aio.AioRpcError as error:
            raise CannotListen(f"nothing comes through {address}: {error.details()}") from error


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _reachable(address: str) -> str:
    """Where a server is reached that listens there: everywhere includes this machine."""
    return address.replace("0.0.0.0:", "127.0.0.1:", 1).replace("[::]:", "[::1]:", 1)


def _spec_of(release: Release) -> RealtimeAPI:
    spec = release.spec
    if not isinstance(spec, RealtimeAPI) or spec.handler.type != "python" or not spec.handler.protobuf_path:
        raise HandlerFailed(f"{release.name}: only python handlers of a RealtimeAPI can be served over gRPC")
    return spec

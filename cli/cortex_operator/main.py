"""The operator as a process: one per home, on 127.0.0.1, ended by SIGTERM without stopping what runs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import uvicorn
from filelock import FileLock, Timeout

from cortex_core.errors import CortexError
from cortex_core.home import Home
from cortex_operator.auth import ensure_token, local_hosts
from cortex_operator.backends.protocol import Backend
from cortex_operator.gateway.protocol import Gateway

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from cortex_operator.operator import Operator

HOST = "127.0.0.1"
GRACE = 2
"""Seconds that requests in progress get when the operator stops; following a log would never end."""

logger = logging.getLogger("cortex_operator")


def main(environ: Mapping[str, str] | None = None) -> int:
    """Run until told to stop.

    Returns:
        The exit code: 0 when told to stop or when another operator serves this home, 1 when it cannot run.
    """
    environ = os.environ if environ is None else environ
    _log_to_stderr()
    try:
        home = Home.of(environ)
        home.create()
        check_owner(home, os.geteuid())
        _keep_private(home)
        with FileLock(home.operator / "lock", timeout=0, mode=0o600):
            return asyncio.run(_run(home, environ))
    except Timeout:
        logger.info("another operator serves %s already", home.root)
        return 0
    except (CortexError, OSError) as error:
        _complain(error)
        return 1


def check_owner(home: Home, user: int) -> None:
    """Refuse a home that somebody else may change. Raises `CortexError`."""
    if home.root.stat().st_uid != user:
        raise CortexError(
            f"{home.root} belongs to another user", hint="choose a folder of your own with CORTEX_HOME"
        )


def _keep_private(home: Home) -> None:
    """Whoever started us made these, with whatever rights are usual for that user."""
    for name in ("operator.log", "starting.lock"):
        with contextlib.suppress(FileNotFoundError):
            (home.operator / name).chmod(0o600)


async def _run(home: Home, environ: Mapping[str, str]) -> int:
    from cortex_operator.operator import create_operator
    from cortex_operator.state import StateUnusable

    token = ensure_token(home.token_file)
    with _listen(home.operator_port) as listener:
        logger.info("operator %d of %s listens on %s", os.getpid(), home.root, home.operator_url)
        backend, gateway = _backend(home, environ), _gateway(home)
        try:
            operator = create_operator(home, backend, gateway)
        except StateUnusable as unusable:
            _complain(unusable)
            return await _serve_without_state(home, backend, gateway, unusable, token, listener)
        return await _serve(home, operator, token, listener)


async def _serve(home: Home, operator: Operator, token: str, listener: socket.socket) -> int:
    from cortex_operator.http import create_app

    opening = asyncio.ensure_future(operator.open())
    server = _server(
        create_app(
            operator,
            token=token,
            hosts=local_hosts(home.operator_port),
            stop=lambda: server.stop(),
            ready=lambda: asyncio.shield(opening),
            uploads=home.operator,
        )
    )
    opening.add_done_callback(lambda task: server.stop() if _failed(task) else None)
    await server.serve(sockets=[listener])
    if _failed(opening):
        _complain(opening.exception())
        return 1
    opening.cancel()
    await asyncio.wait({opening})
    await operator.close()
    logger.info("operator %d stopped", os.getpid())
    return 0


async def _serve_without_state(
    home: Home, backend: Backend, gateway: Gateway, why: CortexError, token: str, listener: socket.socket
) -> int:
    """Say to the first who asks why nothing can be done, or end what runs when that is asked."""
    from cortex_operator.http import create_app_without_state
    from cortex_operator.without_state import OperatorWithoutState

    server = _server(
        create_app_without_state(
            OperatorWithoutState(home=home, backend=backend, gateway=gateway),
            why,
            token=token,
            hosts=local_hosts(home.operator_port),
            stop=lambda: server.stop(),
        )
    )
    await server.serve(sockets=[listener])
    return 1


def _server(app: ASGIApp) -> Server:
    return Server(
        uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            http="h11",
            loop="asyncio",
            timeout_graceful_shutdown=GRACE,
            server_header=False,
        )
    )


class Server(uvicorn.Server):
    """Stops at SIGTERM and SIGINT and lets the caller go on, instead of dying of the signal in the end."""

    def stop(self) -> None:
        self.should_exit = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for each in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(each, self.stop)
        yield


def _backend(home: Home, environ: Mapping[str, str]) -> Backend:
    from cortex_operator.backends.process import ProcessBackend

    return ProcessBackend(home, environ=environ)


def _gateway(home: Home) -> Gateway:
    from cortex_operator.gateway.envoy import EnvoyGateway

    return EnvoyGateway(home)


def _failed(opening: asyncio.Future[None]) -> bool:
    return opening.done() and not opening.cancelled() and opening.exception() is not None


def _listen(port: int) -> socket.socket:
    listener = socket.socket()
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((HOST, port))
    except OSError as error:
        listener.close()
        raise CortexError(
            f"the operator cannot listen on {HOST}:{port}: {error.strerror}",
            hint="another program uses the port; choose another one with CORTEX_OPERATOR_PORT",
        ) from error
    return listener


def _complain(error: BaseException | None) -> None:
    if isinstance(error, CortexError):
        logger.error("%s", error.message + (f"; {error.hint}" if error.hint else ""))
    elif isinstance(error, OSError):
        logger.error("%s", error)
    else:
        logger.error("the operator failed unexpectedly", exc_info=error)


def _log_to_stderr() -> None:
    formatter = logging.Formatter(
        "%(asctime)s.%(msecs)03dZ %(levelname)s %(process)d %(message)s", datefmt="%Y-%m-%dT%H:%M:%S"
    )
    formatter.converter = time.gmtime
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for chatty in ("httpx", "uvicorn"):
        logging.getLogger(chatty).setLevel(logging.WARNING)

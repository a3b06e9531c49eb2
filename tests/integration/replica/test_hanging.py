"""Handlers that never answer: their worker is replaced from outside, and says where it hung."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from support.replicas import RunningReplica, until

from cortex_core.spec.types import ServerSideBatching
from cortex_serve.callbacks import MAX_WAITING
from cortex_serve.doubt import EARLY
from cortex_serve.overdue import OVERSTAY

Start = Callable[..., RunningReplica]

LIMIT = 1.0
SECOND = 10**9
HANG = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-type: text/plain\r\ncontent-length: 4\r\n\r\nhang"
POST = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s"

HANDLER = """
    import ctypes, os, re, signal, threading, time

    class Handler:
        def __init__(self, config):
            self.lock = threading.Lock()

        {keyword} handle_post(self, payload):
            {hang}

        {keyword} handle_get(self):
            return str(os.getpid())
"""

ENDLESS = "while True: pass"
PATTERN = 're.match(r"(a+)+$", "a" * 60 + "b")  # tries 2**60 ways, and holds the lock meanwhile'
DEADLOCK = "self.lock.acquire(); self.lock.acquire()"
SLEEP = "time.sleep(1e9)"
IGNORES_ABORT = "ctypes.CDLL(None).signal(signal.SIGABRT, signal.SIG_IGN); " + SLEEP


def handler(hang: str, keyword: str = "def") -> str:
    return HANDLER.format(keyword=keyword, hang=hang)


@pytest.mark.parametrize(
    ("source", "options"),
    [
        (handler(ENDLESS), {}),
        (handler(PATTERN), {}),
        (handler(DEADLOCK), {"threads": 2}),
        (handler(SLEEP), {}),
        (handler(SLEEP, "async def"), {}),
        (handler(SLEEP), {"server_side_batching": ServerSideBatching(max_batch_size=4)}),
    ],
    ids=["endless loop", "holds the lock", "deadlock", "sleep", "blocks the loop", "batch"],
)
def test_a_worker_that_hangs_is_replaced_and_says_where(
    start: Start, source: str, options: dict[str, Any]
) -> None:
    replica = start(source, request_timeout=int(LIMIT * SECOND), **options)
    [hung] = replica.worker_pids()
    with replica.connect() as connection:
        connection.sendall(HANG)
        sent = time.time()
        assert _last_words(connection).partition(b"\r\n")[0] in (b"", b"HTTP/1.1 504 Gateway Timeout")
    until(lambda: _said(replica, "it is started again"))
    status, body = replica.request("GET")  # waits for the next worker
    assert status == 200
    assert int(body) != hung
    told = _said(replica, f"worker 1 (process {hung}) is replaced: ")
    assert (
        LIMIT < datetime.fromisoformat(told["asctime"].replace("Z", "+00:00")).timestamp() - sent < LIMIT + 2
    )
    assert told["message"].endswith("; the limit is request_timeout: 1s; the stacks of its threads follow")
    until(lambda: "in handle_post" in _stacks(replica, hung))
    assert "handler.py" in _stacks(replica, hung)
    assert _said(replica, f"worker 1 (process {hung}) hung and was killed by SIGABRT; it is started again")
    assert replica.metric("cortex_worker_restarts_total") == 1
    assert replica.metric("cortex_in_flight_requests") == 0
    assert replica.stop() == 0


def test_who_comes_shortly_before_the_limit_waits_for_the_next_worker(start: Start) -> None:
    replica = start(handler("time.sleep(payload['seconds'])"), request_timeout=int(LIMIT * SECOND))
    [hung] = replica.worker_pids()
    with replica.connect() as connection:
        connection.sendall(POST % (16, b'{"seconds": 1e9}'))
        until(lambda: _ignores_newcomers(replica), within=LIMIT + OVERSTAY)
        status, body = replica.request("GET")
    assert status == 200
    assert int(body) != hung


def test_a_call_that_ends_just_in_time_costs_nobody_a_connection(start: Start) -> None:
    replica = start(handler("time.sleep(payload['seconds'])"), threads=2, request_timeout=int(LIMIT * SECOND))
    before = replica.worker_pids()
    assert replica.request(body=b'{"seconds": %.2f}' % (LIMIT - EARLY / 2))[0] == 200
    for _ in range(3):
        began = time.monotonic()
        assert replica.request("GET") == (200, str(*before).encode())
    assert time.monotonic() - began < 0.5, "its connection was ignored at first"


@pytest.mark.parametrize("threads", [1, 2])
def test_a_hung_worker_does_not_keep_its_replica_from_leaving(start: Start, threads: int) -> None:
    replica = start(handler(SLEEP), threads=threads, request_timeout=int(LIMIT * SECOND))
    [hung] = replica.worker_pids()
    with replica.connect() as connection:
        connection.sendall(HANG)
        until(lambda: replica.metric("cortex_in_flight_requests") == 1)
        assert replica.stop(within=LIMIT + 4) == 0
    assert _said(replica, f"worker 1 (process {hung}) is ended: a call of the handler has run for 1.")
    assert _said(replica, f"worker 1 (process {hung}) hung and was killed by SIGABRT")
    assert "in handle_post" in _stacks(replica, hung)


def test_a_handler_that_is_slow_to_end_is_not_taken_for_one_that_hangs(start: Start) -> None:
    source = """
        import atexit, re

        class Handler:
            def __init__(self, config):
                atexit.register(lambda: sum(1 for _ in range(10**9)))

            def handle_get(self):
                return ""
    """
    replica = start(source, request_timeout=int(LIMIT * SECOND))
    assert replica.request("GET")[0] == 200
    assert replica.stop() == 0
    assert not [line["message"] for line in replica.log() if line["levelname"] == "ERROR"]


def test_a_worker_that_cannot_be_aborted_is_killed(start: Start) -> None:
    replica = start(handler(IGNORES_ABORT), request_timeout=int(LIMIT * SECOND))
    [hung] = replica.worker_pids()
    with replica.connect() as connection:
        connection.sendall(HANG)
        assert _last_words(connection) == b""
    assert replica.request("GET")[0] == 200
    assert _said(replica, f"worker 1 (process {hung}) hung and was killed by SIGKILL; it is started again")


def test_the_other_worker_answers_meanwhile(start: Start) -> None:
    replica = start(handler(PATTERN), processes=2, request_timeout=int(LIMIT * SECOND))
    ports = {worker["pid"]: worker["port"] for worker in replica.health()["workers"]}
    hung, well = ports
    with replica.connect(port=ports[hung]) as connection:
        connection.sendall(HANG)
        slowest, deadline = 0.0, time.monotonic() + 20
        while not _said(replica, "it is started again"):
            assert time.monotonic() < deadline
            began = time.monotonic()
            assert replica.request("GET", port=ports[well]) == (200, str(well).encode())
            assert replica.ready()
            slowest = max(slowest, time.monotonic() - began)
    assert slowest < 0.5
    until(lambda: len(replica.worker_pids()) == 2)
    assert hung not in replica.worker_pids()


def test_work_that_takes_its_time_is_left_alone(start: Start) -> None:
    """Many calls in a row, together much longer than one may take, each under the lock for most of its time."""
    source = handler('sum(1 for _ in range(2_000_000)); return "done"')
    replica = start(source, threads=2, request_timeout=int(LIMIT * SECOND))
    before = replica.worker_pids()
    deadline = time.monotonic() + 3 * LIMIT
    while time.monotonic() < deadline:
        assert replica.request(body=b'{"work": 1}') == (200, b"done")
    assert replica.worker_pids() == before


def _last_words(connection: socket.socket) -> bytes:
    """What came before the connection was closed."""
    try:
        return b"".join(iter(lambda: connection.recv(4096), b""))
    except ConnectionResetError:
        return b""


def _ignores_newcomers(replica: RunningReplica) -> bool:
    try:
        replica.connect(timeout=0.05).close()
    except TimeoutError:
        return True
    return False


@pytest.mark.parametrize("keyword", ["def", "async def"])
def test_a_worker_whose_callbacks_hang_is_replaced_once_they_keep_it_from_requests(
    start: Start, keyword: str
) -> None:
    source = f"""
        import os, threading

        class Handler:
            def __init__(self, config):
                pass

            {keyword} handle_post(self, payload):
                return payload, threading.Event().wait

            {keyword} handle_get(self):
                return str(os.getpid())
    """
    replica = start(source, request_timeout=int(LIMIT * SECOND))
    [hung] = replica.worker_pids()
    for _ in range(MAX_WAITING):
        assert replica.request(body=b"1") == (200, b"1")
    with replica.connect() as one_too_many:
        one_too_many.sendall(POST % (1, b"1"))
        until(lambda: _said(replica, "it is started again"))
    assert int(replica.request("GET")[1]) != hung


@pytest.mark.parametrize("keyword", ["def", "async def"])
def test_what_a_stream_does_in_the_background_may_take_longer_than_a_request(
    start: Start, keyword: str
) -> None:
    source = f"""
        import asyncio
        from cortex_internal.lib.log import logger
        from starlette.background import BackgroundTask
        from starlette.responses import StreamingResponse

        class Handler:
            def __init__(self, config):
                pass

            {keyword} handle_post(self, payload):
                return StreamingResponse(self.chunks(), background=BackgroundTask(self.after))

            async def chunks(self):
                yield "one"

            async def after(self):
                await asyncio.sleep(2.5)
                logger.info("done in the background")
    """
    replica = start(source, request_timeout=int(LIMIT * SECOND))
    assert replica.request() == (200, b"one")
    until(lambda: _said(replica, "done in the background") or _said(replica, "is replaced"))
    assert not _said(replica, "is replaced")


def _said(replica: RunningReplica, words: str) -> dict[str, Any]:
    return next((line for line in replica.log() if words in line["message"]), {})


def _stacks(replica: RunningReplica, process: int) -> str:
    """What a process wrote that was not for the log."""
    lines = [line for line in replica.log() if line["process"] == process]
    return "\n".join(line["message"] for line in lines if line["levelname"] == "ERROR")

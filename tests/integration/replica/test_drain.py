"""SIGTERM under load, on connections that are kept open: nothing is lost, nothing is half answered."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from support.replicas import RunningReplica, until

Start = Callable[..., RunningReplica]

POST = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-type: text/plain\r\ncontent-length: 4\r\n\r\nbody"

COUNTING = """
    import os, time

    class Handler:
        def __init__(self, config):
            self.file = open("handled", "ab", buffering=0)

        {keyword} handle_post(self, payload):
            self.file.write(b".")
            {sleep}(0.002)
            return payload
"""
SYNC = COUNTING.format(keyword="def", sleep="time.sleep")
ASYNC = COUNTING.format(keyword="async def", sleep="await __import__('asyncio').sleep")


@dataclass
class Client:
    """Asks again and again on one connection, and on a new one when the server said it closes.

    Attributes:
        answered: requests with a full answer.
        unanswered: requests on a connection that was closed before a byte of an answer came.
        broken: answers that were cut off.
    """

    replica: RunningReplica
    answered: int = 0
    unanswered: int = 0
    broken: int = 0

    def run(self) -> None:
        while True:
            try:
                connection = self.replica.connect(timeout=10)
            except ConnectionError:
                return  # nobody listens any more
            with connection:
                if not self._ask_until_closed(connection):
                    return

    def _ask_until_closed(self, connection: socket.socket) -> bool:
        """Whether the server announced that it closes the connection."""
        while True:
            answer = b""
            try:
                connection.sendall(POST)
                while not answer.endswith(b"\r\n\r\nbody"):
                    if not (data := connection.recv(4096)):
                        raise ConnectionResetError
                    answer += data
            except ConnectionError:
                self.broken += bool(answer)
                self.unanswered += not answer
                return False
            self.answered += 1
            if b"connection: close" in answer:
                return True


@pytest.mark.parametrize("source", [SYNC, ASYNC], ids=["threads", "async"])
def test_every_request_that_was_read_is_answered(start: Start, source: str) -> None:
    replica = start(source, processes=2, threads=2)
    clients = [Client(replica) for _ in range(8)]
    threads = [threading.Thread(target=client.run) for client in clients]
    for thread in threads:
        thread.start()
    until(lambda: sum(client.answered for client in clients) > 200)
    assert replica.stop() == 0
    for thread in threads:
        thread.join()
    handled = (replica.log_file.parent.parent / "project" / "handled").stat().st_size
    assert sum(client.broken for client in clients) == 0
    assert handled == sum(client.answered for client in clients)


def test_late_requests_on_kept_connections_are_answered_and_the_connection_closed(start: Start) -> None:
    replica = start(SYNC)
    with replica.connect() as connection:
        connection.sendall(POST)
        assert b"connection: close" not in _answer(connection)
        replica.signal(signal.SIGTERM)
        until(lambda: not replica.ready())
        connection.sendall(POST)
        assert b"connection: close" in _answer(connection)
        assert connection.recv(1) == b""
    assert replica.wait() == 0


def test_idle_connections_are_closed(start: Start) -> None:
    replica = start(SYNC)
    with replica.connect() as used, replica.connect() as fresh:
        used.sendall(POST)
        _answer(used)
        replica.signal(signal.SIGTERM)
        assert used.recv(1) == b""
        assert fresh.recv(1) == b""
    assert replica.wait(within=2) == 0


@pytest.mark.parametrize("keyword", ["def", "async def"])
def test_a_long_request_is_finished(start: Start, keyword: str) -> None:
    source = f"""
        import asyncio, time

        class Handler:
            def __init__(self, config):
                pass

            {keyword} handle_get(self):
                {"await asyncio" if keyword.startswith("async") else "time"}.sleep(1.5)
                return "body"
    """
    replica = start(source)
    with replica.connect() as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        until(lambda: replica.metric("cortex_in_flight_requests") == 1)
        began = time.monotonic()
        replica.signal(signal.SIGTERM)
        assert _answer(connection).startswith(b"HTTP/1.1 200")
        assert time.monotonic() - began > 0.5
    assert replica.wait(within=2) == 0


RETURNED = """
    import time

    class Handler:
        def __init__(self, config):
            pass

        def handle_get(self):
            def pieces():
                yield "begun"
                time.sleep(1)
                yield "body"

            return pieces()
"""
YIELDED = """
    import asyncio

    class Handler:
        def __init__(self, config):
            pass

        async def handle_get(self):
            yield "begun"
            await asyncio.sleep(1)
            yield "body"
"""


@pytest.mark.parametrize("source", [RETURNED, YIELDED], ids=["returned", "yielded"])
def test_a_stream_is_finished(start: Start, source: str) -> None:
    replica = start(source)
    with replica.connect() as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        received = b""
        while b"begun" not in received:
            received += connection.recv(4096)
        replica.signal(signal.SIGTERM)
        while data := connection.recv(4096):
            received += data
    assert received.endswith(b"5\r\nbegun\r\n4\r\nbody\r\n0\r\n\r\n")
    assert replica.wait(within=2) == 0


def test_a_body_that_is_still_coming_is_waited_for(start: Start) -> None:
    replica = start(SYNC)
    with replica.connect() as connection:
        connection.sendall(POST[:-2])
        until(lambda: replica.metric("cortex_in_flight_requests") == 1)
        replica.signal(signal.SIGTERM)
        until(lambda: not replica.ready())
        connection.sendall(POST[-2:])
        assert _answer(connection).startswith(b"HTTP/1.1 200")
    assert replica.wait(within=2) == 0


def _answer(connection: socket.socket) -> bytes:
    answer = b""
    while not answer.endswith(b"\r\n\r\nbody"):
        data = connection.recv(4096)
        assert data, f"closed after {answer!r}"
        answer += data
    return answer


def test_a_worker_ends_also_when_the_signal_interrupts_another_thread_than_the_main_one(
    start: Start,
) -> None:
    """The same happens when it comes just before the main thread begins to wait."""
    replica = start(
        """
        import signal, threading

        class Handler:
            def __init__(self, config):
                threading.Thread(target=threading.Event().wait, daemon=True).start()
                assert threading.current_thread() is threading.main_thread()
                signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])

            def handle_post(self, payload):
                return payload
        """,
        threads=2,
    )
    assert replica.request()[0] == 200
    assert replica.stop(within=30) == 0


@pytest.mark.parametrize("keyword", ["def", "async def"])
def test_callbacks_that_run_are_finished(start: Start, keyword: str) -> None:
    replica = start(
        f"""
        import asyncio, time
        from cortex_internal.lib.log import logger

        class Handler:
            def __init__(self, config):
                pass

            {keyword} handle_post(self, payload):
                return payload, self.waits

            {keyword} handle_put(self, payload):
                return payload, self.sleeps

            async def waits(self):
                await asyncio.sleep(1)
                logger.info("waited")

            def sleeps(self):
                time.sleep(1)
                logger.info("slept")
        """
    )
    assert replica.request("POST")[0] == replica.request("PUT")[0] == 200
    assert replica.stop(within=30) == 0
    assert {"waited", "slept"} <= set(replica.messages())

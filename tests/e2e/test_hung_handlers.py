"""A handler that hangs: its client is told at the deadline, its worker is replaced, and the log says where it hung."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import grpc
import pytest
from support.installation import Installation, wait_for
from support.load import Load
from support.raw_http import Answer, Connection, whole
from support.replica_admin import ready_workers

DEADLINE = 1.0
"""Seconds: `request_timeout` of most APIs here."""

LONE_DEADLINE = 5.0
"""Seconds, of the one that has a single process: the next one is started within it."""

ANSWERED = DEADLINE + 0.75
"""Seconds after which a client is told at the latest, on a busy machine."""

REPLACED = 6.0
"""Seconds from the hanging request to full capacity: deadline, patience, stacks, and the start of a worker."""

CONNECTIONS = 8

HANDLER = """
import asyncio
import re
import threading
import time


def waits_for_itself():
    lock = threading.Lock()
    with lock:
        lock.acquire()


def never_ends():
    while True:
        pass


def holds_the_interpreter():
    re.match(r"(a+)+$", "a" * 64 + "b")


HANGS = {f.__name__: f for f in (waits_for_itself, never_ends, holds_the_interpreter)}


class Handler:
    def __init__(self, config):
        pass

    def handle_post(self, payload):
        if "hang" in payload:
            HANGS[payload["hang"]]()
        return {"n": payload["n"], "version": "1"}
"""
MIXED = f"""{HANDLER}
    async def handle_get(self):
        return "beside it"
"""
BATCHED = """
class Handler:
    def __init__(self, config):
        pass

    def handle_post(self, payload):
        while any("hang" in each for each in payload):
            pass
        return payload
"""
PROTO = """
syntax = "proto3";
package spoken;
service Workers { rpc Ask (Text) returns (Text); }
message Text { string text = 1; }
"""
SPOKEN = """
class Handler:
    def __init__(self, config, proto_module_pb2):
        pass

    def Ask(self, payload, context):
        while payload.text == "hang":
            pass
        return payload
"""
ASYNC = """
import asyncio
import time


class Handler:
    def __init__(self, config):
        self.cancelled = 0

    async def handle_post(self, payload):
        try:
            time.sleep(payload.get("blocks", 0))
            await asyncio.sleep(payload["seconds"])
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return {"n": payload["n"], "version": "1", "cancelled": self.cancelled}
"""


@pytest.fixture(scope="module")
def served(cortex: Installation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    project = tmp_path_factory.mktemp("project")
    (project / "handler.py").write_text(HANDLER)
    (project / "mixed.py").write_text(MIXED)
    (project / "waiting.py").write_text(ASYNC)
    (project / "batched.py").write_text(BATCHED)
    (project / "spoken.py").write_text(SPOKEN)
    (project / "spoken.proto").write_text(PROTO)
    (project / "cortex.yaml").write_text(f"""\
- name: stuck
  kind: RealtimeAPI
  handler:
    type: python
    path: handler.py
    processes_per_replica: 2
    request_timeout: {DEADLINE:.0f}s
- name: lone
  kind: RealtimeAPI
  handler:
    type: python
    path: handler.py
    request_timeout: {LONE_DEADLINE:.0f}s
- name: mixed
  kind: RealtimeAPI
  handler:
    type: python
    path: mixed.py
    request_timeout: {LONE_DEADLINE:.0f}s
- name: batched
  kind: RealtimeAPI
  handler:
    type: python
    path: batched.py
    request_timeout: {LONE_DEADLINE:.0f}s
    server_side_batching:
      max_batch_size: 4
- name: spoken
  kind: RealtimeAPI
  handler:
    type: python
    path: spoken.py
    protobuf_path: spoken.proto
    request_timeout: {LONE_DEADLINE:.0f}s
- name: blocked
  kind: RealtimeAPI
  handler:
    type: python
    path: waiting.py
    request_timeout: {LONE_DEADLINE:.0f}s
- name: waiting
  kind: RealtimeAPI
  handler:
    type: python
    path: waiting.py
    request_timeout: {DEADLINE:.0f}s
""")
    cortex.run("deploy", "--yes", cwd=project)
    return cortex


def ask(cortex: Installation, api: str, payload: object) -> tuple[Answer, float]:
    """The answer, and the seconds it took."""
    url = urlsplit(cortex.gateway_url)
    assert url.hostname is not None
    assert url.port is not None
    address = url.hostname, url.port

    async def exchange() -> Answer:
        connection = await Connection.open(address)
        body = json.dumps(payload).encode()
        await connection.send(whole(f"/{api}", body, {"content-type": "application/json"}))
        answer = await connection.answer()
        await connection.close()
        return answer

    began = time.monotonic()
    answer = asyncio.run(asyncio.wait_for(exchange(), 20))
    return answer, time.monotonic() - began


@pytest.mark.parametrize("way", ["waits_for_itself", "never_ends", "holds_the_interpreter"])
def test_a_hung_worker_is_replaced(served: Installation, way: str) -> None:
    before = ready_workers(served, "stuck")
    assert len(before) == 2
    load = Load(served.url("stuck"), connections=2)
    load.start()
    began = time.monotonic()
    answer, seconds = ask(served, "stuck", {"hang": way})
    wait_for(
        lambda: len(ready := ready_workers(served, "stuck")) == 2 and ready != before,
        within=REPLACED,
        what="the worker is replaced",
    )
    replaced = time.monotonic()
    time.sleep(0.3)
    report = load.stop()

    assert answer.status == 504
    assert json.loads(answer.body)["code"] == "timeout"
    assert DEADLINE * 0.95 <= seconds <= ANSWERED
    # Who was waiting for the same worker is told so; nobody else notices.
    assert all(began <= at <= replaced for at in report.failure_times), report.failures
    assert len(report.failures) <= 4, report.failures
    assert max(report.seconds) <= ANSWERED
    logs = served.run("logs", "stuck").stdout
    assert way in logs, "the log does not show where it hung"
    assert 'handler.py", line' in logs


@pytest.mark.parametrize("way", ["waits_for_itself", "never_ends"])
@pytest.mark.parametrize("api", ["lone", "stuck", "mixed"])
def test_requests_right_after_a_hang_are_answered(served: Installation, api: str, way: str) -> None:
    before = ready_workers(served, api)
    with ThreadPoolExecutor(
        CONNECTIONS
    ) as clients:  # leaves so many open between the gateway and the process
        list(clients.map(lambda n: ask(served, api, {"n": n}), range(CONNECTIONS)))
    assert ask(served, api, {"hang": way})[0].status == 504
    asked_until = time.monotonic() + 2 * DEADLINE
    while time.monotonic() < asked_until:
        answer, _ = ask(served, api, {"n": 1})
        assert (answer.status, json.loads(answer.body)) == (200, {"n": 1, "version": "1"})
    wait_for(
        lambda: len(ready := ready_workers(served, api)) == len(before) and ready != before,
        within=REPLACED,
        what="the worker is replaced",
    )


def test_requests_right_after_an_event_loop_is_blocked_are_answered(served: Installation) -> None:
    before = ready_workers(served, "blocked")
    answer, _ = ask(served, "blocked", {"n": 1, "seconds": 0, "blocks": 1000})
    assert answer.status == 504
    asked_until = time.monotonic() + 2 * DEADLINE
    while time.monotonic() < asked_until:
        answer, _ = ask(served, "blocked", {"n": 1, "seconds": 0})
        assert (answer.status, json.loads(answer.body)["n"]) == (200, 1)
    assert ready_workers(served, "blocked") != before


def test_requests_that_wait_behind_a_batch_that_hangs_are_answered(served: Installation) -> None:
    """Those that came while it ran, too: they wait for a batch, where one can see that they have not begun."""
    before = ready_workers(served, "batched")
    with ThreadPoolExecutor(1 + CONNECTIONS) as clients:
        hanging = clients.submit(ask, served, "batched", {"hang": True})
        time.sleep(LONE_DEADLINE / 2)
        waiting = [clients.submit(ask, served, "batched", {"n": n}) for n in range(CONNECTIONS)]
    assert hanging.result()[0].status == 504
    answers = [each.result()[0] for each in waiting]
    assert [(answer.status, json.loads(answer.body)) for answer in answers] == [
        (200, {"n": n}) for n in range(CONNECTIONS)
    ]
    assert ready_workers(served, "batched") != before


def test_rpcs_right_after_a_hang_are_answered(served: Installation) -> None:
    before = ready_workers(served, "spoken")
    with grpc.insecure_channel(served.gateway_url.removeprefix("http://")) as channel:
        ask = channel.unary_unary("/spoken.Workers/Ask")
        with pytest.raises(grpc.RpcError) as raised:
            ask(b"\x0a\x04hang", timeout=20)
        assert raised.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        asked_until = time.monotonic() + 2 * DEADLINE
        while time.monotonic() < asked_until:
            assert ask(b"\x0a\x04well", timeout=20) == b"\x0a\x04well"
    assert ready_workers(served, "spoken") != before


def test_a_coroutine_is_cancelled_and_its_worker_stays(served: Installation) -> None:
    before = ready_workers(served, "waiting")
    answer, seconds = ask(served, "waiting", {"n": 1, "seconds": 60})
    assert answer.status == 504
    assert json.loads(answer.body)["code"] == "timeout"
    assert DEADLINE * 0.95 <= seconds <= ANSWERED
    after, _ = ask(served, "waiting", {"n": 2, "seconds": 0})
    assert json.loads(after.body)["cancelled"] == 1
    time.sleep(1)
    assert ready_workers(served, "waiting") == before

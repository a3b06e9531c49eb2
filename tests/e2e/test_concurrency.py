"""C-74, through the gateway: processes × threads calls at a time, the rest in order, and 503 for those beyond the limit."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from support.installation import Installation
from support.raw_http import Answer, Connection, whole

SERVICE = 0.08
"""Seconds a call takes."""

ROUNDS = 5
"""Requests, by how many run at a time."""

LIMIT = 3
"""`max_replica_concurrency`, by how many run at a time."""

SHAPES = ((1, 1), (1, 4), (2, 1), (2, 2))
"""Processes and threads."""

HANDLER = """
import os
import time


class Handler:
    def __init__(self, config):
        self.seconds = config["seconds"]
        self.record = os.open(config["record"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def handle_post(self, payload):
        began = time.monotonic()
        time.sleep(self.seconds)
        line = f"{payload['number']} {began} {time.monotonic()}\\n"
        os.write(self.record, line.encode())
        return payload
"""


@dataclass(frozen=True, kw_only=True)
class Call:
    """When the handler began and ended, by the monotonic clock."""

    number: int
    began: float
    ended: float


@dataclass(frozen=True, kw_only=True)
class Served:
    cortex: Installation
    folder: Path

    def calls(self, api: str) -> list[Call]:
        """All that there were, by when they began; forgotten then."""
        record = self.folder / api
        lines = [line.split() for line in record.read_text().splitlines()]
        record.write_text("")
        calls = [
            Call(number=int(number), began=float(began), ended=float(ended)) for number, began, ended in lines
        ]
        return sorted(calls, key=lambda call: call.began)

    def send(self, api: str, count: int, *, gap: float, kept: bool) -> list[Answer]:
        """So many requests, numbered in the order in which they leave, each on a connection of its own.

        Args:
            gap: seconds from one to the next.
            kept: on connections that have been used before.
        """
        return asyncio.run(self._send(api, count, gap, kept))

    async def _send(self, api: str, count: int, gap: float, kept: bool) -> list[Answer]:
        url = urlsplit(self.cortex.gateway_url)
        assert url.hostname is not None
        assert url.port is not None
        address = url.hostname, url.port
        connections = [await Connection.open(address) for _ in range(count)]
        if kept:
            for connection in connections:
                await connection.send(whole("/nobody", b""))
                assert (await connection.answer()).status == 404

        async def ask(number: int) -> Answer:
            await asyncio.sleep(number * gap)
            body = json.dumps({"number": number}).encode()
            await connections[number].send(whole(f"/{api}", body, {"content-type": "application/json"}))
            return await connections[number].answer()

        answers = await asyncio.gather(*(ask(number) for number in range(count)))
        for connection in connections:
            await connection.close()
        return answers


@pytest.fixture(scope="module")
def served(cortex: Installation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    project, records = tmp_path_factory.mktemp("project"), tmp_path_factory.mktemp("records")
    (project / "handler.py").write_text(HANDLER)
    (project / "cortex.yaml").write_text(
        "".join(
            f"""\
- name: {name(processes, threads)}
  kind: RealtimeAPI
  handler:
    type: python
    path: handler.py
    processes_per_replica: {processes}
    threads_per_process: {threads}
    config: {{seconds: {SERVICE}, record: "{records / name(processes, threads)}"}}
  autoscaling:
    max_replica_concurrency: {LIMIT * processes * threads}
"""
            for processes, threads in SHAPES
        )
    )
    cortex.run("deploy", "--yes", cwd=project)
    return Served(cortex=cortex, folder=records)


def name(processes: int, threads: int) -> str:
    return f"shape-{processes}x{threads}"


def running(calls: Sequence[Call], at: float) -> int:
    return sum(call.began <= at < call.ended for call in calls)


def shortfall(calls: Sequence[Call], slots: int) -> float:
    """The part of the slots' time that nobody used although someone waited."""
    first, last = calls[slots - 1].began, calls[-1].began
    used = sum(max(min(call.ended, last) - max(call.began, first), 0) for call in calls)
    return 1 - used / (slots * (last - first))


@pytest.mark.parametrize("kept", [True, False], ids=["kept", "fresh"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_processes_times_threads_calls_run_at_a_time_and_the_rest_in_order(
    served: Served, shape: tuple[int, int], kept: bool
) -> None:
    slots = shape[0] * shape[1]
    count = ROUNDS * slots
    gap = SERVICE / slots / 1.5  # so that all wait, but never as many as the limit
    answers = served.send(name(*shape), count, gap=gap, kept=kept)
    calls = served.calls(name(*shape))

    assert [answer.status for answer in answers] == [200] * count
    assert [json.loads(answer.body)["number"] for answer in answers] == list(range(count))
    assert max(running(calls, call.began) for call in calls) == slots
    assert shortfall(calls, slots) < 0.15
    order = [call.number for call in calls]
    late = [abs(position - number) for position, number in enumerate(order)]
    assert max(late) <= slots, order


@pytest.mark.parametrize("kept", [True, False], ids=["kept", "fresh"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_who_comes_beyond_the_limit_is_told_to_come_back(
    served: Served, shape: tuple[int, int], kept: bool
) -> None:
    slots = shape[0] * shape[1]
    limit = LIMIT * slots
    began = time.monotonic()
    answers = served.send(name(*shape), limit + 5, gap=0, kept=kept)
    calls = served.calls(name(*shape))

    accepted = [answer for answer in answers if answer.status == 200]
    refused = [answer for answer in answers if answer.status != 200]
    assert len(accepted) == limit
    assert len(calls) == limit
    assert max(running(calls, call.began) for call in calls) == slots
    assert {answer.status for answer in refused} == {503}
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
    assert {json.loads(answer.body)["code"] for answer in refused} == {"overloaded"}
    assert calls[0].began - began < 1

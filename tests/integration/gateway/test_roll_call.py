"""Once routes are applied, no thread of Envoy acts on what Envoy had been told before."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.replica_double import ReplicaDouble

from cortex_operator.gateway.admin import Admin
from cortex_operator.gateway.envoy_config import ADMIN_SOCKET
from cortex_operator.gateway.protocol import Upstream
from cortex_operator.gateway.roll_call import call_roll

THREADS = 4


def test_each_thread_answers_before_routes_count_as_served(
    new_site: Callable[..., Any], replica: Callable[[str], ReplicaDouble]
) -> None:
    site = new_site(threads=THREADS).open()
    upstream = Upstream(host="127.0.0.1", port=replica("1").port)
    for times in range(1, 11):
        site.serve(upstream, max_concurrency=times)
        assert answers(site) == [times] * THREADS


def answers(site: Any) -> list[int]:
    """How often each thread was asked."""
    admin = Admin(site.home.gateway, ADMIN_SOCKET)
    counted = site.run(admin.state(r"roll-call\.sock\.worker_\d+\.downstream_cx_total"))
    return list(counted.values())


class Threads:
    """Envoy's, as far as they can be asked.

    Args:
        late: how many answer only when `caught_up` is set.
    """

    def __init__(self, late: int) -> None:
        self._late = late
        self.asked = 0
        self.gone = 0
        self.all_asked = asyncio.Event()
        self.caught_up = asyncio.Event()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        question = await reader.readexactly(1)
        assert self.gone == 0, "one may only go when all were there"
        self.asked += 1
        if self.asked == THREADS:
            self.all_asked.set()
        if self.asked <= self._late:
            await self.caught_up.wait()
        await self.all_asked.wait()
        writer.write(question)
        assert await reader.read() == b""
        self.gone += 1
        writer.close()


@pytest.mark.parametrize("late", range(3))
def test_who_is_late_is_waited_for(tmp_path: Path, late: int) -> None:
    async def call() -> None:
        threads = Threads(late)
        server = await asyncio.start_unix_server(threads.answer, tmp_path / "socket")
        calling = asyncio.create_task(call_roll(tmp_path, "socket", threads=THREADS))
        await asyncio.wait_for(threads.all_asked.wait(), 5)
        if late:
            await asyncio.wait({calling}, timeout=0.05)
            assert not calling.done()
        threads.caught_up.set()
        await asyncio.wait_for(calling, 5)
        assert (threads.asked, threads.gone) == (THREADS, THREADS)
        server.close()

    asyncio.run(call())


def test_who_dies_is_not_taken_for_one_that_has_heard(tmp_path: Path) -> None:
    async def call() -> None:
        async def die(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.close()

        server = await asyncio.start_unix_server(die, tmp_path / "socket")
        with pytest.raises((OSError, EOFError)):
            await asyncio.wait_for(call_roll(tmp_path, "socket", threads=THREADS), 5)
        server.close()
        with pytest.raises(OSError):
            await call_roll(tmp_path, "none", threads=THREADS)

    asyncio.run(call())

"""The process backend with the real runtime: `cortex-serve` in an environment made for it."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import psutil
from support.stand_in import environ, stand_in_release

from cortex_core.home import Home
from cortex_operator import processes
from cortex_operator.backends.process import ProcessBackend
from cortex_operator.backends.protocol import LogQuery, Replica, Workload

HANDLER = b"""
import os

class Handler:
    def __init__(self, config):
        print("loading", config["greeting"])
        if config["greeting"] == "none":
            raise ValueError("no greeting")
        self.greeting = config["greeting"]

    def handle_post(self, payload):
        return {"said": self.greeting + " " + payload["name"], "pid": os.getpid()}
"""


async def until(backend: ProcessBackend, condition: Callable[[list[Replica]], bool]) -> list[Replica]:
    async def wait() -> list[Replica]:
        while not condition(replicas := await backend.observe()):
            await backend.changed()
        return replicas

    return await asyncio.wait_for(wait(), 30)


def all_ready(replicas: list[Replica]) -> bool:
    return all(each.state == "ready" for each in replicas)


def play(folder: Path, act: Callable[[Home, ProcessBackend], Awaitable[None]]) -> None:
    home = Home(root=folder / "home")
    home.create()

    async def scene() -> None:
        backend = ProcessBackend(home, environ=environ())
        await backend.open()
        try:
            await act(home, backend)
            await backend.remove("hello-a")
            assert processes.members(home.root) == []
        finally:
            await backend.close()
            for marker in {process.marker for process in processes.members(home.root)}:
                await processes.sweep(home.root, marker)

    asyncio.run(asyncio.wait_for(scene(), 100))


async def greet(replica: Replica) -> dict[str, object]:
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.post(f"http://{replica.host}:{replica.ports[0]}/", json={"name": "you"})
        answer.raise_for_status()
        body: dict[str, object] = answer.json()
        return body


def test_served_killed_served_again_and_logged(tmp_path: Path) -> None:
    async def act(home: Home, backend: ProcessBackend) -> None:
        release = stand_in_release(home, tmp_path, name="hello", config={"greeting": "hi"}, handler=HANDLER)
        await backend.prepare(release, lambda _: None)
        await backend.apply(Workload(id="hello-a", release=release, replicas=2))
        first, second = await until(backend, all_ready)
        assert (await greet(first))["said"] == "hi you"
        assert (await greet(second))["said"] == "hi you"

        assert first.pid is not None
        workers = {worker.pid for worker in psutil.Process(first.pid).children(recursive=True)}
        os.kill(first.pid, signal.SIGKILL)
        killed_at = time.monotonic()
        again, _ = await until(backend, lambda all_: all_[0].restarts == 1 and all_ready(all_))
        assert time.monotonic() - killed_at < 5
        assert again.ports == first.ports
        assert (await greet(again))["said"] == "hi you"
        assert workers
        assert not workers & {process.pid for process in processes.members(home.root)}

        logged = [line.text async for line in backend.logs("hello", LogQuery(replica=first.id))]
        assert len([line for line in logged if '"loading hi"' in line]) == 2

    play(tmp_path, act)


def test_a_handler_that_raises_is_told_apart_with_its_error(tmp_path: Path) -> None:
    async def act(home: Home, backend: ProcessBackend) -> None:
        release = stand_in_release(home, tmp_path, name="hello", config={"greeting": "none"}, handler=HANDLER)
        await backend.prepare(release, lambda _: None)
        await backend.apply(Workload(id="hello-a", release=release, replicas=1))

        (replica,) = await until(backend, lambda all_: all_[0].state == "failed")

        assert replica.handler_failed
        assert replica.failure is not None
        assert replica.failure == "exited with code 1: the handler cannot be loaded: ValueError: no greeting"

    play(tmp_path, act)

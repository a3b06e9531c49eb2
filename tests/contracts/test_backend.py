"""What every backend must do, whatever it runs replicas on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import msgspec
import pytest
from support.fake_backend import Behaviour, FakeBackend
from support.stand_in import StandInEnvironments, environ, stand_in_release

from cortex_core.home import Home
from cortex_core.release import Release
from cortex_core.spec.types import Compute, Networking, RealtimeAPI, TrafficSplitter
from cortex_operator import processes
from cortex_operator.backends.process import ProcessBackend
from cortex_operator.backends.protocol import Backend, LogQuery, Replica, Workload

DEADLINE = 20.0


class Place(Protocol):
    """A backend's surroundings, which outlive it."""

    def backend(self) -> Backend:
        """A backend that finds what an earlier one left."""
        ...

    def release(self, behaviour: Behaviour = "ready", *, api: str = "iris") -> Release:
        """A release that behaves so."""
        ...

    async def clean(self) -> None:
        """Leave nothing."""
        ...


class ProcessPlace:
    CONFIG: dict[Behaviour, dict[str, object]] = {  # noqa: RUF012 - a table
        "ready": {},
        "slow": {"ready_after": 3600},
        "dying": {"fail": "no such file", "code": 3},
        "broken handler": {"fail": "no such file", "code": 1},
    }

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = Home(root=folder / "home")
        self.home.create()
        self.environments = StandInEnvironments(folder)

    def backend(self) -> Backend:
        return ProcessBackend(self.home, environ=environ(), environments=self.environments, grace=5)

    def release(self, behaviour: Behaviour = "ready", *, api: str = "iris") -> Release:
        return stand_in_release(self.home, self.folder, name=api, config=self.CONFIG[behaviour])

    async def clean(self) -> None:
        for process in processes.find(self.home.root):
            await processes.terminate(process, grace=0)
        assert processes.members(self.home.root) == []


class FakePlace:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.fake = FakeBackend()
        self.home = Home(root=folder / "home")

    def backend(self) -> Backend:
        return self.fake

    def release(self, behaviour: Behaviour = "ready", *, api: str = "iris") -> Release:
        release = stand_in_release(
            self.home, self.folder, name=api, handler=f"class Handler: '{behaviour}'\n".encode()
        )
        self.fake.behaviour[release.project_digest] = behaviour
        return release

    async def clean(self) -> None:
        pass


@dataclass(frozen=True)
class Stage:
    place: Place
    backend: Backend

    async def run(self, release: Release, *, workload: str = "iris-a", replicas: int = 1) -> Workload:
        await self.backend.prepare(release, lambda _: None)
        wanted = Workload(id=workload, release=release, replicas=replicas)
        await self.backend.apply(wanted)
        return wanted

    async def until(self, condition: Callable[[list[Replica]], bool]) -> list[Replica]:
        async def wait() -> list[Replica]:
            while not condition(replicas := await self.backend.observe()):
                await self.backend.changed()
            return replicas

        return await asyncio.wait_for(wait(), DEADLINE)

    async def all_ready(self, count: int = 1) -> list[Replica]:
        return await self.until(lambda all_: [each.state for each in all_] == ["ready"] * count)


@asynccontextmanager
async def opened(place: Place) -> AsyncIterator[Stage]:
    backend = place.backend()
    await backend.open()
    try:
        yield Stage(place, backend)
    finally:
        await backend.close()


@pytest.fixture(params=[ProcessPlace, FakePlace], ids=["process", "fake"])
def play(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Callable[[Callable[[Stage], Awaitable[None]]], None]:
    """Runs a scene with an open backend, and cleans up after it."""
    place: Place = request.param(tmp_path)

    async def scene(act: Callable[[Stage], Awaitable[None]]) -> None:
        try:
            async with opened(place) as stage:
                await act(stage)
        finally:
            await place.clean()

    return lambda act: asyncio.run(asyncio.wait_for(scene(act), 60))


Play = Callable[[Callable[[Stage], Awaitable[None]]], None]


def test_nothing_runs_at_first(play: Play) -> None:
    async def act(stage: Stage) -> None:
        assert await stage.backend.observe() == []

    play(act)


def test_apply_runs_replicas_until_they_are_ready(play: Play) -> None:
    async def act(stage: Stage) -> None:
        release = stage.place.release()
        await stage.run(release, replicas=2)

        replicas = await stage.all_ready(2)

        assert [each.id for each in replicas] == ["iris-a-0", "iris-a-1"]
        assert {(each.api, each.workload, each.release_id) for each in replicas} == {
            ("iris", "iris-a", release.id)
        }
        assert all(each.host for each in replicas)
        assert len({port for each in replicas for port in each.ports}) == 2
        assert all(each.failure is None and each.restarts == 0 for each in replicas)

    play(act)


def test_apply_again_changes_nothing(play: Play) -> None:
    async def act(stage: Stage) -> None:
        workload = await stage.run(stage.place.release(), replicas=2)
        before = await stage.all_ready(2)

        await stage.backend.apply(workload)

        assert await stage.all_ready(2) == before

    play(act)


def test_apply_with_another_count_keeps_the_lowest(play: Play) -> None:
    async def act(stage: Stage) -> None:
        release = stage.place.release()
        await stage.run(release, replicas=1)
        (first,) = await stage.all_ready(1)
        await stage.run(release, replicas=3)
        assert (await stage.all_ready(3))[0] == first

        await stage.run(release, replicas=1)

        assert await stage.all_ready(1) == [first]

    play(act)


def test_workloads_run_beside_each_other(play: Play) -> None:
    async def act(stage: Stage) -> None:
        await stage.run(stage.place.release(), workload="iris-a")
        await stage.run(stage.place.release(api="text"), workload="text-b")
        await stage.all_ready(2)

        await stage.backend.remove("iris-a")

        assert [each.workload for each in await stage.backend.observe()] == ["text-b"]

    play(act)


def test_remove_returns_when_all_are_gone(play: Play) -> None:
    async def act(stage: Stage) -> None:
        await stage.run(stage.place.release(), replicas=2)
        await stage.all_ready(2)

        await stage.backend.remove("iris-a")

        assert await stage.backend.observe() == []

    play(act)


def test_remove_of_what_starts(play: Play) -> None:
    async def act(stage: Stage) -> None:
        await stage.run(stage.place.release("slow"))

        await stage.backend.remove("iris-a")

        assert await stage.backend.observe() == []

    play(act)


def test_remove_of_what_is_not_there_is_quiet(play: Play) -> None:
    async def act(stage: Stage) -> None:
        await stage.backend.remove("iris-a")

    play(act)


def test_what_is_slow_is_initializing(play: Play) -> None:
    async def act(stage: Stage) -> None:
        await stage.run(stage.place.release("slow"))

        await stage.until(lambda all_: [each.state for each in all_] == ["initializing"])

    play(act)


def test_what_dies_at_start_has_failed_and_says_why(play: Play) -> None:
    async def act(stage: Stage) -> None:
        await stage.run(stage.place.release("dying"))

        (replica,) = await stage.until(lambda all_: all(each.state == "failed" for each in all_))

        assert replica.failure
        assert "\n" not in replica.failure
        assert replica.restarts >= 1
        assert not replica.handler_failed

    play(act)


def test_a_handler_that_cannot_be_loaded_is_told_apart(play: Play) -> None:
    async def act(stage: Stage) -> None:
        await stage.run(stage.place.release("broken handler"))

        (replica,) = await stage.until(lambda all_: all(each.state == "failed" for each in all_))

        assert replica.handler_failed

    play(act)


def test_another_backend_finds_what_runs(play: Play) -> None:
    async def act(stage: Stage) -> None:
        await stage.run(stage.place.release(), replicas=2)
        before = await stage.all_ready(2)
        await stage.backend.close()

        async with opened(stage.place) as later:
            after = await later.backend.observe()
            assert [(each.id, each.state, each.ports, each.pid) for each in after] == [
                (each.id, each.state, each.ports, each.pid) for each in before
            ]
            await later.backend.remove("iris-a")
            assert await later.backend.observe() == []

    play(act)


def test_changed_returns_for_what_happened_before(play: Play) -> None:
    async def act(stage: Stage) -> None:
        await stage.run(stage.place.release())
        await stage.all_ready(1)
        await stage.backend.remove("iris-a")

        await asyncio.wait_for(stage.backend.changed(), DEADLINE)

    play(act)


def test_logs_of_an_unknown_api_are_empty(play: Play) -> None:
    async def act(stage: Stage) -> None:
        assert [line async for line in stage.backend.logs("nothing", LogQuery(tail=10))] == []

    play(act)


def test_forget_takes_the_logs(play: Play) -> None:
    async def act(stage: Stage) -> None:
        await stage.run(stage.place.release("broken handler"))
        await stage.until(lambda all_: all(each.state == "failed" for each in all_))
        assert [line async for line in stage.backend.logs("iris", LogQuery())]
        await stage.backend.remove("iris-a")

        await stage.backend.forget("iris")

        assert [line async for line in stage.backend.logs("iris", LogQuery())] == []

    play(act)


def test_a_kind_that_cannot_run_is_refused(play: Play) -> None:
    async def act(stage: Stage) -> None:
        release = stage.place.release()
        splitter = TrafficSplitter(name="iris", apis=(), networking=Networking(endpoint="/iris"))

        assert stage.backend.refusals(release) == []
        assert [
            each.path for each in stage.backend.refusals(msgspec.structs.replace(release, spec=splitter))
        ] == ["kind"]

    play(act)


def test_what_has_no_effect_is_named_by_its_path(play: Play) -> None:
    async def act(stage: Stage) -> None:
        release = stage.place.release()
        assert isinstance(release.spec, RealtimeAPI)
        spec = msgspec.structs.replace(release.spec, compute=Compute(gpu=1))

        assert stage.backend.ignored(release) == []
        assert [each.path for each in stage.backend.ignored(msgspec.structs.replace(release, spec=spec))] == [
            "compute.gpu"
        ]

    play(act)

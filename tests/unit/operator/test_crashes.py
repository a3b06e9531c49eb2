"""An operator that is killed at any step is followed by one that brings things to their end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest
from support.operators import World, config, packed, run, scaled

from cortex_core.operator_api import DeployRequest

Scenario = Callable[[World], Awaitable[None]]


class Killer:
    """Lets an operator do so many steps and then never go on."""

    def __init__(self, after: int) -> None:
        self.steps = 0
        self.after = after
        self.reached = asyncio.Event()

    async def step(self, name: str) -> None:
        self.steps += 1
        if self.steps > self.after:
            self.reached.set()
            await asyncio.Event().wait()


async def create(world: World) -> None:
    await world.begin(config("new"))


async def replace(world: World) -> None:
    await world.begin(config(), "second")


async def move(world: World) -> None:
    await world.begin(config(endpoint="/moved"))


async def grow(world: World) -> None:
    await world.begin(config(more=scaled(3, 3)))


async def shrink(world: World) -> None:
    await world.begin(config(more=scaled(1, 1)))


async def refresh(world: World) -> None:
    await world.operator.refresh("iris")


async def fail(world: World) -> None:
    world.backend.behaviour[packed("bad")[1]] = "dying"
    await world.begin(config(), "bad")


async def delete(world: World) -> None:
    await world.operator.delete("iris")


async def killed_after(world: World, change: Scenario, steps: int) -> bool:
    """Do a change and kill the operator after so many steps; False when it took fewer."""
    killer = Killer(steps)
    world.backend.step = world.gateway.step = killer.step
    changing = asyncio.ensure_future(change(world))
    if change is not delete:  # all others return when the change is written down
        await changing
    for _ in range(100):
        await world.clock.advance(1)
        if killer.reached.is_set():
            break
    changing.cancel()
    with suppress(asyncio.CancelledError):
        await changing
    world.backend.step = world.gateway.step = Killer(10**9).step
    await world.operator.close()  # cuts its tasks off and writes nothing
    return killer.reached.is_set()


async def settled_after(folder: Path, change: Scenario, steps: int) -> tuple[World, bool]:
    world = World(folder)
    await world.start()
    await world.deploy(config(more=scaled(2, 2)) if change is shrink else config())
    begun = len(world.gateway.history)
    was_killed = await killed_after(world, change, steps)
    await world.start()
    await world.clock.advance(30)
    if change is not delete:
        missing = [served for served in world.gateway.history[begun:] if not served["iris"].upstreams]
        assert missing == [], f"killed after {steps} steps, iris was left without replicas"
    return world, was_killed


@pytest.mark.parametrize("change", [create, replace, move, grow, shrink, refresh, fail, delete])
def test_every_step(tmp_path: Path, change: Scenario) -> None:
    async def scenario() -> int:
        for steps in range(1000):
            folder = tmp_path / str(steps)
            folder.mkdir()
            world, was_killed = await settled_after(folder, change, steps)
            await check(world, change, steps)
            await world.operator.close()
            if not was_killed:
                return steps
        raise AssertionError("it never ends")

    assert run(scenario()) >= 2


async def check(world: World, change: Scenario, steps: int) -> None:
    """What must hold whenever the operator was killed and a new one had its time."""
    when = f"killed after {steps} steps"
    apis = {each.spec.name: each for each in await world.operator.statuses()}
    if change is delete:
        assert apis == {}, when
        assert world.backend.replicas == {}, when
        assert world.backend.workloads == {}, when
        assert world.gateway.routes == {}, when
        return
    for name, api in apis.items():
        assert api.status.status_code == "status_live", (when, api)
        counts = api.status.replica_counts
        assert counts.updated.ready == counts.requested, when
        assert {each.id for each in api.replicas} == {each.id for each in world.backend.of(name)}, when
        assert world.gateway.serving(name) == {each.ports[0] for each in world.backend.of(name)}, when
        deployment = await world.operator.deployment(api.deployment_id or "")
        assert deployment.state == ("failed" if change is fail and deployment.error else "live"), when
    iris = apis["iris"]
    assert len(iris.replicas) == (3 if change is grow else 1), when
    assert iris.project_id == packed("second" if change is replace else "first")[1], when
    assert iris.endpoint.endswith("/moved" if change is move else "/iris"), when
    assert ("new" in apis) == (change is create), when


def test_a_reboot_brings_back_what_was_live(tmp_path: Path) -> None:
    async def scenario() -> None:
        world = World(tmp_path)
        await world.start()
        await world.deploy(config(more=scaled(2, 2)))
        await world.operator.close()
        world.backend.reboot()
        world.gateway.history.clear()
        await world.start()
        await world.clock.advance(5)
        assert len(world.gateway.serving("iris")) == 2
        assert (await world.status()).status.status_code == "status_live"

    run(scenario())


def test_what_serves_is_not_touched_by_a_new_operator(tmp_path: Path) -> None:
    async def scenario() -> None:
        world = World(tmp_path)
        await world.start()
        await world.deploy(config())
        before = dict(world.backend.replicas)
        routes = world.gateway.routes
        await world.operator.close()
        await world.start()
        await world.clock.advance(60)
        assert world.backend.replicas == before
        assert world.gateway.routes == routes
        assert world.backend.removed == []

    run(scenario())


def test_what_nobody_knows_is_removed(tmp_path: Path) -> None:
    async def scenario() -> None:
        world = World(tmp_path)
        await world.start()
        await world.deploy(config())
        await world.operator.close()
        for file in (world.home.operator).iterdir():
            file.unlink()
        await world.start()
        await world.clock.advance(5)
        assert world.backend.replicas == {}
        assert world.gateway.routes == {}

    run(scenario())


def test_shutting_down_stops_everything_and_the_next_operator_starts_it_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        world = World(tmp_path)
        await world.start()
        await world.deploy(config())
        await world.operator.shut_down()
        assert world.backend.replicas == {}
        ran = [world.gateway.running]
        await world.start()
        await world.clock.advance(5)
        assert [*ran, world.gateway.running] == [False, True]
        assert (await world.status()).status.status_code == "status_live"

    run(scenario())


def test_concurrent_deploys_end_in_one_of_them(tmp_path: Path) -> None:
    async def scenario() -> None:
        world = World(tmp_path)
        await world.start()
        project = await world.upload("first")
        world.backend.behaviour[project] = "slow"
        requests = [
            DeployRequest(config=config(value=str(number)), project_digest=project) for number in range(100)
        ]
        responses = await asyncio.gather(*(world.operator.deploy(each) for each in requests))
        results = [each.results[0] for each in responses]
        (winner,) = [each for each in results if each.error is None]
        await world.clock.settle()
        (replica,) = world.backend.of("iris")
        world.backend.set(replica.id, state="ready")
        assert (await world.finished(winner)).state == "live"
        assert (await world.status()).release_id == winner.release_id
        assert len(world.backend.replicas) == 1

    run(scenario())


def test_concurrent_forced_deploys_end_in_the_last(tmp_path: Path) -> None:
    async def scenario() -> None:
        world = World(tmp_path)
        await world.start()
        results = [await world.begin(config(value=str(number)), force=True) for number in range(20)]
        assert (await world.finished(results[-1])).state == "live"
        assert (await world.status()).release_id == results[-1].release_id
        assert len(world.backend.replicas) == 1
        assert len(world.backend.workloads) == 1

    run(scenario())

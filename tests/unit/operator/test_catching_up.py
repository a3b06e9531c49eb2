"""New replicas that are ready with an older version of a model than those that serve."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest
from support.listings import entry
from support.operators import World, config, run

from cortex_core.operator_api import ApiResult, Deployment, ModelStatus
from cortex_operator.backends.protocol import Replica
from cortex_operator.catching_up import behind
from cortex_operator.deployments import Limits
from cortex_operator.model_reports import NoReport, Report

BUCKET = "s3://bucket/models/"


def row(version: str = "7", name: str = "iris", **fields: object) -> ModelStatus:
    return ModelStatus(**({"name": name, "version": version, "digest": "d", "state": "live"} | fields))  # type: ignore[arg-type]  # fields are those of the struct


def test_an_older_version_is_behind() -> None:
    assert behind([[row("9")]], [[row("8")]]) == ["iris"]
    assert behind([[row("10")]], [[row("9")]]) == ["iris"]
    assert behind([[row("9")]], [[row("9")], [row("8")]]) == ["iris"]
    assert behind([[row("8")], [row("9")]], [[row("8")]]) == ["iris"]
    assert behind([[row("2", "b"), row("2", "a")]], [[row("1", "b")], [row("1", "a")]]) == ["a", "b"]


def test_the_same_a_newer_one_another_model_and_none_are_not() -> None:
    assert behind([[row("9")]], [[row("9")]]) == []
    assert behind([[row("9")]], [[row("10")]]) == []
    assert behind([[row("9")]], [[row("8", "other")]]) == []
    assert behind([[row("9")]], [[]]) == []
    assert behind([], [[row("8")]]) == []


def test_only_what_serves_counts() -> None:
    assert behind([[row("8"), row("9", state="loading")]], [[row("8")]]) == []
    assert behind([[row("9")]], [[row("8"), row("9", state="loading")]]) == ["iris"]


def test_what_cannot_be_loaded_is_not_waited_for() -> None:
    assert behind([[row("9")]], [[row("8"), row("9", state="failed")]]) == []


def test_nor_is_what_a_replica_has_looked_for_and_not_found() -> None:
    serving = [[row("9", loaded_at=100.0)]]
    assert behind(serving, [[row("8", checked_at=99.0)]]) == ["iris"]
    assert behind(serving, [[row("8", checked_at=101.0)]]) == []


@dataclass
class Replicas:
    """Serve version 8, unless told otherwise for their workload; None: they do not answer."""

    versions: dict[str, str | None] = field(default_factory=dict)

    async def ask(self, replica: Replica) -> Report:
        version = self.versions.get(replica.workload, "8")
        if version is None:
            raise NoReport
        return [row(version)]


@pytest.fixture
def replicas() -> Replicas:
    return Replicas()


@pytest.fixture
def world(tmp_path: Path, replicas: Replicas) -> World:
    return World(
        tmp_path,
        list_locations=lambda locations: {each: [entry("1/a")] for each in locations},
        ask=replicas.ask,
    )


def following(value: str, location: str = BUCKET) -> str:
    section = f"    multi_model_reloading:\n      path: {location}\n"
    return config(value=value).replace("    path: handler.py\n", f"    path: handler.py\n{section}")


async def deployed_beside(world: World, replicas: Replicas, text: str) -> Deployment:
    """A deployment a moment after its replicas got ready, with version 8, beside a release that serves version 9."""
    await world.start()
    await world.deploy(following("1"))
    (old,) = world.backend.of("iris")
    replicas.versions[old.workload] = "9"
    result = await world.begin(text, "second")
    await world.clock.advance(1)
    return await seen(world, result)


async def seen(world: World, begun: ApiResult | Deployment) -> Deployment:
    number = begun.id if isinstance(begun, Deployment) else begun.deployment_id
    assert number is not None
    return await world.operator.deployment(number)


def test_a_deploy_switches_when_its_replicas_have_caught_up(world: World, replicas: Replicas) -> None:
    async def scenario() -> None:
        deployment = await deployed_beside(world, replicas, following("2"))
        assert (deployment.state, deployment.progress) == (
            "starting",
            "ready, and loading newer versions of iris",
        )
        (new,) = {each.workload for each in world.backend.of("iris")} - replicas.versions.keys()
        replicas.versions[new] = "9"
        await world.clock.advance(1)
        assert (await seen(world, deployment)).state == "live"

    run(scenario())


def test_it_does_not_wait_for_ever_and_says_so(world: World, replicas: Replicas) -> None:
    async def scenario() -> None:
        deployment = await deployed_beside(world, replicas, following("2"))
        await world.clock.advance(Limits().catching_up)
        assert (await seen(world, deployment)).state == "live"
        events = [each.message for each in world.operator.events(api="iris")]
        assert "switched although new replicas serve older versions than before of iris" in events

    run(scenario())


def test_it_does_not_wait_for_models_of_another_place(world: World, replicas: Replicas) -> None:
    async def scenario() -> None:
        deployment = await deployed_beside(world, replicas, following("2", "s3://bucket/others/"))
        assert deployment.state == "live"

    run(scenario())


def test_it_does_not_wait_for_replicas_that_do_not_answer(world: World, replicas: Replicas) -> None:
    async def scenario() -> None:
        await world.start()
        await world.deploy(following("1"))
        (old,) = world.backend.of("iris")
        replicas.versions[old.workload] = None
        result = await world.begin(following("2"), "second")
        await world.clock.advance(1)
        assert (await seen(world, result)).state == "live"

    run(scenario())

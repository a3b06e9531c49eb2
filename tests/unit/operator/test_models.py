"""What the operator does about models while a file is deployed, and while replicas fetch them."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import pytest
from support.listings import entry
from support.operators import World, config, packed, run

from cortex_core.errors import StorageUnavailable
from cortex_core.operator_api import DeployRequest
from cortex_core.spec.load import Listing
from cortex_core.spec.problems import InvalidConfig
from cortex_core.spec.types import RealtimeAPI
from cortex_operator.backends.protocol import Replica
from cortex_operator.deployments import Patience, progress

BUCKET = "s3://bucket/models/"
REPLICA = Replica(id="iris-a-0", api="iris", workload="iris-a", release_id="r", state="initializing")


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


class Bucket:
    """What is at every location, and which were listed."""

    def __init__(self, *keys: str) -> None:
        self.listing: Listing = [entry(key) for key in keys]
        self.asked: list[list[str]] = []

    def __call__(self, locations: Collection[str]) -> dict[str, Listing]:
        self.asked.append(list(locations))
        return dict.fromkeys(locations, self.listing)


def following(location: str, key: str = "path", *, value: str = "1", more: str = "") -> str:
    section = f"    multi_model_reloading:\n      {key}: {location}\n{more}"
    return config(value=value).replace("    path: handler.py\n", f"    path: handler.py\n{section}")


def fill(folder: Path, *files: str) -> None:
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")


async def refused(world: World, text: str) -> list[str]:
    with pytest.raises(InvalidConfig) as caught:
        await world.begin(text)
    return [f"{each.path}: {each.message}".partition("\n")[0] for each in caught.value.problems]


async def live_location(world: World) -> str | None:
    spec = (await world.status()).spec
    assert isinstance(spec, RealtimeAPI)
    assert spec.handler.multi_model_reloading is not None
    return spec.handler.multi_model_reloading.path


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("./models", "{project}/models/"),
        ("../models/", "{project}/../models/"),
        ("{project}/models", "{project}/models/"),
        ("file://{project}/models", "file://{project}/models/"),
    ],
)
def test_a_local_directory_is_relative_to_the_file(world: World, written: str, meant: str) -> None:
    async def scenario() -> None:
        await world.start()
        fill(world.project, "models/1/a", "../models/1/a")

        await world.deploy(following(written.format(project=world.project)))

        assert await live_location(world) == meant.format(project=world.project)

    run(scenario())


def test_models_that_are_not_as_they_should_be_are_refused_with_all_other_problems(world: World) -> None:
    async def scenario() -> None:
        await world.start()
        fill(world.project, "models/1/a", "models/note.txt")

        problems = await refused(world, following("./models", more="      load_timeot: 3s\n"))

        assert problems == [
            "iris.handler.multi_model_reloading.path: "
            f"{world.project}/models: only directories named by digits 0-9 may be beside versions; found also 'note.txt'",
            "iris.handler.multi_model_reloading.load_timeot: unknown key; did you mean 'load_timeout'?",
        ]
        assert world.backend.asked == []

    run(scenario())


def test_what_is_no_directory_or_not_there_is_said_to_be_that(world: World) -> None:
    async def scenario() -> None:
        await world.start()
        fill(world.project, "model.pkl")
        where = "iris.handler.multi_model_reloading.path"

        assert await refused(world, following("./model.pkl")) == [
            f"{where}: the models cannot be listed: {world.project}/model.pkl is a file, not a directory"
        ]
        assert await refused(world, following("./nothing")) == [
            f"{where}: {world.project}/nothing: there is no model: the directory is empty or does not exist"
        ]

    run(scenario())


def test_a_relative_directory_of_another_machine_is_refused(world: World) -> None:
    async def scenario() -> None:
        await world.start()
        digest = await world.upload("first")
        with pytest.raises(InvalidConfig) as caught:
            await world.operator.deploy(DeployRequest(config=following("./models"), project_digest=digest))
        assert [each.message for each in caught.value.problems] == [
            "a relative path means nothing to an operator on another machine; write an absolute path of that machine, "
            "or s3://bucket/prefix"
        ]

    run(scenario())


def test_each_location_is_listed_once_for_a_deploy_and_for_a_patch(world: World) -> None:
    async def scenario() -> None:
        world.list_locations = bucket = Bucket("1/a")
        await world.start()
        await world.deploy(following(BUCKET))
        assert bucket.asked == [[BUCKET]]
        patch = DeployRequest(config=following(BUCKET, value="2"))
        (result,) = (await world.operator.deploy(patch)).results
        assert (await world.finished(result)).state == "live"
        assert bucket.asked == [[BUCKET], [BUCKET]]

    run(scenario())


def test_an_older_release_comes_back_although_its_bucket_is_away(world: World) -> None:
    async def scenario() -> None:
        world.list_locations = bucket = Bucket("1/a")
        await world.start()
        await world.deploy(following(BUCKET))
        await world.deploy(following(BUCKET, value="2"))
        bucket.listing = StorageUnavailable(
            "ListObjectsV2 s3://bucket/models/: storage.example.com cannot be reached"
        )

        assert await refused(world, following(BUCKET, value="3")) == [
            "iris.handler.multi_model_reloading.path: the models cannot be listed: ListObjectsV2 s3://bucket/models/: "
            "storage.example.com cannot be reached"
        ]
        assert (await world.finished(await world.operator.rollback("iris"))).state == "live"
        assert (await world.finished(await world.operator.refresh("iris"))).state == "live"

    run(scenario())


def test_a_slow_bucket_does_not_hold_up_other_deploys(world: World) -> None:
    async def scenario() -> None:
        answered = asyncio.Event()
        loop = asyncio.get_running_loop()

        def slow(locations: Collection[str]) -> dict[str, Listing]:
            asyncio.run_coroutine_threadsafe(answered.wait(), loop).result(30)
            return {location: [entry("1/a")] for location in locations}

        world.list_locations = slow
        await world.start()
        waiting = asyncio.create_task(world.begin(following(BUCKET)))

        result = await world.begin(config("other"))

        assert result.action == "creating"
        assert not waiting.done()
        answered.set()
        assert (await waiting).action == "creating"

    run(scenario())


def waiting(text: str | None) -> Replica:
    return replace(REPLICA, waiting_for=text)


def test_what_a_replica_waits_for_is_the_progress_of_its_deployment() -> None:
    assert progress([REPLICA], 0, 1) == "0 of 1 replicas ready"
    assert progress([waiting("fetching model iris version 7: 1.2 of 2.0 GB")], 0, 1) == (
        "0 of 1 replicas ready; iris-a-0: fetching model iris version 7: 1.2 of 2.0 GB"
    )


def test_a_replica_that_gets_further_is_waited_for() -> None:
    patience = Patience(quiet=600, longest=3600, now=0)
    assert patience.left([waiting("0.1 of 2.0 GB")], 500) == 600
    assert patience.left([waiting("0.1 of 2.0 GB")], 600) == 500
    assert patience.left([waiting("0.2 of 2.0 GB")], 1000) == 600
    assert patience.left([waiting(None)], 1500) == 100
    assert patience.left([waiting("0.2 of 2.0 GB")], 1600) == 0
    assert patience.passed == 1600


def test_one_that_says_the_same_in_turn_gets_no_further() -> None:
    patience = Patience(quiet=600, longest=3600, now=0)
    for now in range(0, 600, 10):
        patience.left([waiting("fetching" if now % 20 else "the storage is away")], now)
    assert patience.left([waiting("fetching")], 610) == 0


def test_nothing_is_waited_for_for_ever() -> None:
    patience = Patience(quiet=600, longest=3600, now=0)
    assert [patience.left([waiting(str(now))], now) for now in (0, 3000, 3500, 3600)] == [600, 600, 100, 0]


def test_a_deployment_waits_as_long_as_models_come_in_and_then_says_what_was_missing(world: World) -> None:
    async def scenario() -> None:
        world.list_locations = Bucket("1/a")
        world.backend.behaviour[packed("first")[1]] = "slow"
        await world.start()
        result = await world.begin(following(BUCKET, more="      load_timeout: 100s\n"))
        assert result.deployment_id is not None
        await world.clock.settle()
        (replica,) = world.backend.of("iris")
        for number in range(4):
            world.backend.set(replica.id, waiting_for=f"fetching model iris version 1: {number} of 9 GB")
            await world.clock.advance(690)
            deployment = await world.operator.deployment(result.deployment_id)
            assert (deployment.state, deployment.progress) == (
                "starting",
                f"0 of 1 replicas ready; {replica.id}: fetching model iris version 1: {number} of 9 GB",
            )

        deployment = await world.finished(result)

        assert deployment.state == "failed"
        assert deployment.error == (
            "0 of 1 replicas were ready after 2770 seconds: fetching model iris version 1: 3 of 9 GB"
        )

    run(scenario())

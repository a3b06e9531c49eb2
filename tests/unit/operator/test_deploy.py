"""What a deploy does to what runs, step by step."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from support.operators import World, config, packed, run, scaled

from cortex_core.errors import Conflict, NotFound
from cortex_core.operator_api import DeployRequest
from cortex_core.spec.problems import InvalidConfig
from cortex_operator.backends.protocol import PreparationFailed, Replica
from cortex_operator.deployments import progress
from cortex_operator.specs import ConflictingConfig


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def digest(code: str) -> str:
    return packed(code)[1]


def test_a_new_api_becomes_live(world: World) -> None:
    async def scenario() -> None:
        await world.start()
        result = await world.begin(config())
        assert (result.action, result.message) == ("creating", "creating iris (RealtimeAPI)")

        deployment = await world.finished(result)

        assert (deployment.state, deployment.error) == ("live", None)
        (replica,) = world.backend.of("iris")
        assert world.gateway.serving("iris") == set(replica.ports)
        assert world.gateway.routes["iris"].endpoint == "/iris"
        status = await world.status()
        assert status.status.status_code == "status_live"
        assert status.endpoint == "http://127.0.0.1:18888/iris"
        assert status.release_id == result.release_id == deployment.release_id
        assert status.metrics.network_stats.total == 7

    run(scenario())


def test_states_follow_each_other_and_are_seen_by_who_waits(world: World) -> None:
    async def scenario() -> None:
        await world.start()
        world.backend.behaviour[digest("first")] = "slow"
        result = await world.begin(config(more=scaled(2, 2)))
        assert result.deployment_id is not None
        first = await world.operator.deployment(result.deployment_id)
        assert first.state == "preparing"

        await world.clock.settle()
        second = await world.operator.deployment(result.deployment_id, wait=30, after=first.sequence)
        assert (second.state, second.progress) == ("starting", "0 of 2 replicas ready")
        assert second.sequence > first.sequence

        one, two = world.backend.of("iris")
        world.backend.set(one.id, state="ready")
        await world.clock.settle()
        third = await world.operator.deployment(result.deployment_id, wait=30, after=second.sequence)
        assert (third.progress, third.replicas_ready) == ("1 of 2 replicas ready", 1)
        assert "iris" not in world.gateway.routes, "routed before enough replicas are ready"

        world.backend.set(two.id, state="ready")
        assert (await world.finished(result)).state == "live"

    run(scenario())


def test_a_change_of_code_starts_new_replicas_beside_the_old_and_drains_these(world: World) -> None:
    async def scenario() -> None:
        await world.start()
        await world.deploy(config())
        (old,) = world.backend.of("iris")
        assert old.ports
        world.gateway.busy[("127.0.0.1", old.ports[0])] = 1
        world.backend.behaviour[digest("second")] = "slow"

        result = await world.begin(config(), "second")
        await world.clock.settle()
        assert result.replaces_replicas
        assert world.gateway.serving("iris") == set(old.ports)
        (new,) = [each for each in world.backend.of("iris") if each.id != old.id]
        world.backend.set(new.id, state="ready")
        await world.clock.advance(2)

        assert world.gateway.serving("iris") == set(new.ports)
        assert old.id in world.backend.replicas, "stopped with a request in flight"
        assert any(each.draining for each in world.gateway.routes["iris"].upstreams)
        world.gateway.busy.clear()
        await world.clock.advance(1)
        assert [each.id for each in world.backend.of("iris")] == [new.id]
        assert [each.port for each in world.gateway.routes["iris"].upstreams] == [*new.ports]

    run(scenario())


def test_a_drain_ends_at_its_deadline(world: World) -> None:
    async def scenario() -> None:
        await world.start()
        await world.deploy(config())
        (old,) = world.backend.of("iris")
        world.gateway.busy[("127.0.0.1", old.ports[0])] = 1
        await world.deploy(config(), "second")
        assert old.id in world.backend.replicas
        await world.clock.advance(60)
        assert old.id not in world.backend.replicas

    run(scenario())


def test_the_same_again_changes_nothing(world: World) -> None:
    async def scenario() -> None:
        await world.start()
        await world.deploy(config())
        asked, routes = list(world.backend.asked), len(world.gateway.history)
        result = await world.begin(config())
        await world.clock.advance(30)
        assert (result.action, result.deployment_id) == ("up to date", None)
        assert (world.backend.asked, len(world.gateway.history)) == (asked, routes)

    run(scenario())


def test_a_change_around_the_code_keeps_the_replicas(world: World) -> None:
    async def scenario() -> None:
        await world.start()
        await world.deploy(config())
        (before,) = world.backend.of("iris")
        result = await world.begin(config(endpoint="/flowers"))
        assert not result.replaces_replicas
        assert (await world.finished(result)).state == "live"
        (after,) = world.backend.of("iris")
        assert after.id == before.id
        assert world.backend.removed == []
        assert world.gateway.routes["iris"].endpoint == "/flowers"

    run(scenario())


def test_more_replicas_are_added_and_limits_follow(world: World) -> None:
    async def scenario() -> None:
        await world.start()
        await world.deploy(config())
        (before,) = world.backend.of("iris")
        await world.deploy(config(more=scaled(3, 5) + "    max_replica_concurrency: 10\n"))
        after = world.backend.of("iris")
        assert len(after) == 3
        assert before in after
        assert world.gateway.routes["iris"].max_concurrency == 30

    run(scenario())


def test_fewer_replicas_are_drained_before_they_stop(world: World) -> None:
    async def scenario() -> None:
        await world.start()
        await world.deploy(config(more=scaled(3, 5)))
        first, second, third = sorted(world.backend.of("iris"), key=lambda each: each.id)
        world.gateway.busy[("127.0.0.1", third.ports[0])] = 1
        await world.deploy(config(more=scaled(1, 2)))
        assert world.gateway.serving("iris") == {*first.ports, *second.ports}, "3 clamped to at most 2"
        assert third.id in world.backend.replicas
        world.gateway.busy.clear()
        await world.clock.advance(1)
        assert [each.id for each in world.backend.of("iris")] == [first.id, second.id]

    run(scenario())


def test_replicas_that_cannot_be_added_go_again(world: World) -> None:
    async def scenario() -> None:
        await world.start()
        await world.deploy(config())
        world.backend.behaviour[digest("first")] = "dying"
        deployment = await world.deploy(config(more=scaled(2, 5)))
        assert deployment.state == "failed"
        assert len(world.backend.of("iris")) == 1
        assert (await world.status()).status.status_code == "status_live"

    run(scenario())


@pytest.mark.parametrize(
    ("behaviour", "error"),
    [
        ("broken handler", "the handler of iris cannot be loaded (replica "),
        ("dying", "died 2 times before it was ready: exit code 3"),
        ("slow", "0 of 1 replicas were ready after 600 seconds"),
    ],
)
def test_a_release_that_never_gets_ready_changes_nothing(world: World, behaviour: str, error: str) -> None:
    async def scenario() -> None:
        await world.start()
        await world.deploy(config())
        before = await world.status()
        routes = world.gateway.routes
        world.backend.behaviour[digest("bad")] = behaviour  # type: ignore[assignment]

        deployment = await world.deploy(config(), "bad")

        assert deployment.state == "failed"
        assert deployment.error is not None
        assert error in deployment.error
        if behaviour == "broken handler":
            assert deployment.log_tail == (
                "cannot load",
                "Traceback",
                '  File "handler.py", line 1',
                "KeyError: 1",
            )
        after = await world.status()
        assert after.release_id == before.release_id
        assert after.replicas == before.replicas
        assert after.status.status_code == "status_live"
        assert after.status.message is not None
        assert error in after.status.message
        assert world.gateway.routes == routes
        assert all(old["iris"].upstreams == routes["iris"].upstreams for old in world.gateway.history[1:])

    run(scenario())


def test_a_project_that_cannot_be_prepared_fails_with_the_output(world: World) -> None:
    async def scenario() -> None:
        await world.start()
        failure = PreparationFailed("requirements.txt cannot be installed", ["no such package: numpyy"])
        world.backend.preparation[digest("bad")] = failure
        deployment = await world.deploy(config(), "bad")
        assert deployment.state == "failed"
        assert deployment.error == "requirements.txt cannot be installed"
        assert deployment.log_tail == ("no such package: numpyy",)
        status = await world.status()
        assert status.status.status_code == "status_error"
        assert status.status.message == "requirements.txt cannot be installed"
        assert world.backend.of("iris") == []

    run(scenario())


def test_a_gateway_that_refuses_to_switch_keeps_the_old_release(world: World) -> None:
    async def scenario() -> None:
        await world.start()
        await world.deploy(config())
        (old,) = world.backend.of("iris")
        world.gateway.failures = 6
        deployment = await world.deploy(config(), "second")
        assert deployment.state == "failed"
        assert deployment.error == "the gateway did not switch: it does not answer"
        await world.clock.advance(120)
        assert [each.id for each in world.backend.of("iris")] == [old.id]
        assert world.gateway.serving("iris") == set(old.ports)

    run(scenario())


def test_a_gateway_that_hesitates_is_asked_again(world: World) -> None:
    async def scenario() -> None:
        await world.start()
        world.gateway.failures = 1
        assert (await world.deploy(config())).state == "live"

    run(scenario())


def test_a_second_deploy_has_to_wait_or_to_take_over(world: World) -> None:
    async def scenario() -> None:
        await world.start()
        await world.deploy(config())
        world.backend.behaviour[digest("slow")] = "slow"
        first = await world.begin(config(), "slow")
        await world.clock.settle()

        same = await world.begin(config(), "slow")
        assert (same.action, same.error, same.deployment_id) == (
            "already updating",
            None,
            first.deployment_id,
        )
        other = await world.begin(config(), "third")
        assert other.action == "already updating"
        assert other.error is not None
        assert "--force" in other.error
        assert (other.code, other.deployment_id) == ("conflict", None)

        forced = await world.begin(config(), "third", force=True)
        assert (await world.finished(forced)).state == "live"
        assert first.deployment_id is not None
        assert (await world.operator.deployment(first.deployment_id)).state == "superseded"
        (replica,) = world.backend.of("iris")
        assert replica.release_id == forced.release_id

    run(scenario())


def test_force_back_to_what_is_live_keeps_its_replicas(world: World) -> None:
    async def scenario() -> None:
        await world.start()
        await world.deploy(config())
        (before,) = world.backend.of("iris")
        world.backend.behaviour[digest("slow")] = "slow"
        await world.begin(config(), "slow")
        await world.clock.settle()
        assert (await world.deploy(config(), force=True)).state == "live"
        assert world.backend.of("iris") == [before]

    run(scenario())


def test_restarting_replicas_keep_their_place_only_when_nobody_else_is_ready(world: World) -> None:
    async def scenario() -> None:
        await world.start()
        await world.deploy(config(more=scaled(2, 2)))
        one, two = world.backend.of("iris")
        world.backend.set(one.id, state="failed", failure="killed by signal 9")
        await world.clock.settle()
        assert world.gateway.serving("iris") == set(two.ports)
        world.backend.set(two.id, state="failed")
        await world.clock.settle()
        assert world.gateway.serving("iris") == {*one.ports, *two.ports}
        assert (await world.status()).status.status_code == "status_error"
        world.backend.set(one.id, state="ready", failure=None)
        await world.clock.settle()
        assert world.gateway.serving("iris") == set(one.ports)

    run(scenario())


def test_routes_are_offered_again_until_the_gateway_takes_them(world: World) -> None:
    async def scenario() -> None:
        await world.start()
        await world.deploy(config(more=scaled(2, 2)))
        one, two = world.backend.of("iris")
        world.gateway.failures = 2
        world.backend.set(one.id, state="failed")
        await world.clock.advance(5)
        assert world.gateway.serving("iris") == set(two.ports)

    run(scenario())


def test_one_refused_api_does_not_stop_the_others_of_its_file(world: World) -> None:
    async def scenario() -> None:
        await world.start()
        splitter = "- name: front\n  kind: TrafficSplitter\n  apis:\n    - name: iris\n      weight: 100\n"
        project = await world.upload("first")
        response = await world.operator.deploy(
            DeployRequest(config=splitter + config(), project_digest=project)
        )
        iris, front = response.results
        assert (iris.name, iris.action) == ("iris", "creating")
        assert (front.action, front.deployment_id) == ("failed", None)
        assert front.error == "front (TrafficSplitter): kind: TrafficSplitter does not run here"
        assert (await world.finished(iris)).state == "live"

    run(scenario())


def test_a_file_with_a_problem_does_nothing(world: World) -> None:
    async def scenario() -> None:
        await world.start()
        project = await world.upload("first")
        text = config() + config("two").replace("handler.py", "missing.py")
        with pytest.raises(InvalidConfig, match=r"two\.handler\.path"):
            await world.operator.deploy(DeployRequest(config=text, project_digest=project))
        assert await world.operator.statuses() == []

    run(scenario())


def test_endpoints_of_other_apis_are_taken(world: World) -> None:
    async def scenario() -> None:
        await world.start()
        await world.deploy(config())
        with pytest.raises(ConflictingConfig, match="iris"):
            await world.begin(config("other", endpoint="/iris/"))
        await world.deploy(config("other"))
        with pytest.raises(ConflictingConfig, match="cannot change the kind"):
            await world.begin(
                "- name: iris\n  kind: TrafficSplitter\n  apis:\n  - {name: other, weight: 100}\n"
            )
        with pytest.raises(InvalidConfig, match="bogus") as mixed:
            await world.begin(config("other", endpoint="/iris/", more="  bogus: 1\n"))
        assert not isinstance(mixed.value, ConflictingConfig)

    run(scenario())


def test_a_dry_run_says_what_would_happen_and_does_nothing(world: World) -> None:
    async def scenario() -> None:
        await world.start()
        await world.deploy(config())
        asked = list(world.backend.asked)
        project = await world.upload("first")

        async def dry(text: str) -> tuple[str, list[str], bool]:
            request = DeployRequest(config=text, project_digest=project, dry_run=True)
            (result,) = (await world.operator.deploy(request)).results
            assert result.deployment_id is None
            return result.action, [each.path for each in result.changes], result.replaces_replicas

        assert await dry(config()) == ("unchanged", [], False)
        assert await dry(config(value="2")) == ("updating", ["handler.config.value"], True)
        assert await dry(config(endpoint="/x")) == ("updating", ["networking.endpoint"], False)
        assert await dry(config("new")) == ("creating", [], False)
        await world.clock.advance(5)
        assert world.backend.asked == asked
        assert [each.spec.name for each in await world.operator.statuses()] == ["iris"]

    run(scenario())


def test_patch_keeps_each_project(world: World) -> None:
    async def scenario() -> None:
        await world.start()
        await world.deploy(config())
        await world.deploy(config("two"), "of two")
        response = await world.operator.deploy(
            DeployRequest(config=config(value="2") + config("two", value="2"))
        )
        for result, code in zip(response.results, ("first", "of two"), strict=True):
            assert (await world.finished(result)).state == "live"
            assert (await world.status(result.name)).project_id == digest(code)

    run(scenario())


def test_patch_checks_the_file_against_the_project_that_is_kept(world: World) -> None:
    async def scenario() -> None:
        await world.start()
        await world.deploy(config())
        await world.deploy(config("two"), "of two")
        text = config().replace("handler.py", "missing.py") + config("two")
        with pytest.raises(InvalidConfig) as caught:
            await world.operator.deploy(DeployRequest(config=text))
        assert [each.path for each in caught.value.problems] == ["iris.handler.path"]

    run(scenario())


def test_patch_needs_an_api_that_is_deployed(world: World) -> None:
    async def scenario() -> None:
        await world.start()
        with pytest.raises(NotFound, match="iris is not deployed"):
            await world.operator.deploy(DeployRequest(config=config()))

    run(scenario())


def test_a_project_that_was_never_uploaded_is_not_found(world: World) -> None:
    async def scenario() -> None:
        await world.start()
        with pytest.raises(NotFound, match="is not in the bucket"):
            await world.operator.deploy(DeployRequest(config=config(), project_digest="0" * 64))

    run(scenario())


def test_refresh_replaces_replicas_by_new_ones_of_the_same_release(world: World) -> None:
    async def scenario() -> None:
        await world.start()
        await world.deploy(config(more=scaled(2, 2)))
        before = await world.status()
        result = await world.operator.refresh("iris")
        assert (await world.finished(result)).state == "live"
        after = await world.status()
        assert after.release_id == before.release_id
        assert len(after.replicas) == 2
        assert {each.id for each in after.replicas}.isdisjoint({each.id for each in before.replicas})

    run(scenario())


def test_refresh_while_updating_needs_force(world: World) -> None:
    async def scenario() -> None:
        await world.start()
        await world.deploy(config())
        world.backend.behaviour[digest("slow")] = "slow"
        await world.begin(config(), "slow")
        with pytest.raises(Conflict, match="already updating"):
            await world.operator.refresh("iris")
        assert (await world.finished(await world.operator.refresh("iris", force=True))).state == "live"
        with pytest.raises(NotFound):
            await world.operator.refresh("nothing")

    run(scenario())


def test_rollback_goes_back_to_what_was_live_before(world: World) -> None:
    async def scenario() -> None:
        await world.start()
        releases = [(await world.deploy(config(value=value))).release_id for value in ("1", "2", "3")]
        world.backend.behaviour[digest("bad")] = "broken handler"
        await world.deploy(config(), "bad")
        assert (await world.finished(await world.operator.rollback("iris"))).release_id == releases[1]
        assert (await world.status()).release_id == releases[1]

        oldest = await world.operator.rollback("iris", releases[0][:8])
        assert [(each.path, each.before, each.after) for each in oldest.changes] == [
            ("handler.config.value", "2", "1")
        ]
        assert (await world.finished(oldest)).state == "live"
        assert (await world.operator.rollback("iris", releases[0])).action == "up to date"
        history = world.operator.history("iris")
        assert [each.release_id for each in history if each.current] == [releases[0]]
        assert [each.reason for each in history] == ["rollback", "rollback", *["deploy"] * 4]
        assert [each.state for each in history] == ["live", "live", "failed", "live", "live", "live"]
        assert [each.release_id for each in history][2:] == [history[2].release_id, *reversed(releases)]
        assert [each.current for each in history] == [True, *[False] * 5]
        times = [each.deployed_at for each in history]
        assert times == sorted(times, reverse=True)
        assert len((await world.status()).api_versions) == 4
        with pytest.raises(NotFound, match="no release f00"):
            await world.operator.rollback("iris", "f00")

    run(scenario())


def test_rollback_without_an_earlier_release(world: World) -> None:
    async def scenario() -> None:
        await world.start()
        await world.deploy(config())
        with pytest.raises(NotFound, match="no earlier release"):
            await world.operator.rollback("iris")

    run(scenario())


def test_rollback_does_not_take_an_endpoint_from_another_api(world: World) -> None:
    async def scenario() -> None:
        await world.start()
        await world.deploy(config())
        await world.deploy(config(endpoint="/elsewhere"))
        await world.deploy(config("other", endpoint="/iris"))
        with pytest.raises(Conflict, match="is used by other now"):
            await world.operator.rollback("iris")

    run(scenario())


def test_delete_takes_the_route_then_the_replicas_then_the_rest(world: World) -> None:
    async def scenario() -> None:
        await world.start()
        await world.deploy(config())
        await world.deploy(config("two"))
        message = await world.operator.delete("iris")
        assert message.message == "deleted iris"
        assert world.backend.of("iris") == []
        assert set(world.gateway.routes) == {"two"}
        assert world.backend.asked[-1] == "forget iris"
        with pytest.raises(NotFound):
            await world.status()
        with pytest.raises(NotFound):
            await world.operator.delete("iris")
        assert (await world.deploy(config())).state == "live"
        assert len(world.operator.history("iris")) == 1

    run(scenario())


def test_two_who_delete_at_once_are_both_served(world: World) -> None:
    async def scenario() -> None:
        await world.start()
        await world.deploy(config())
        (replica,) = world.backend.of("iris")
        world.gateway.busy[("127.0.0.1", replica.ports[0])] = 1
        messages = await asyncio.gather(*(world.operator.delete("iris") for _ in range(2)))
        assert [each.message for each in messages] == ["deleted iris"] * 2
        assert world.backend.asked.count("forget iris") == 1

    run(scenario())


def test_an_api_that_is_deployed_again_at_once_after_its_deletion_retires_old_replicas(world: World) -> None:
    async def scenario() -> None:
        await world.start()
        await world.begin(config())
        await world.operator.delete("iris")
        await world.deploy(config())
        await world.deploy(config(), "second")
        assert len(world.backend.of("iris")) == 1

    run(scenario())


def test_delete_may_keep_the_history(world: World) -> None:
    async def scenario() -> None:
        await world.start()
        await world.deploy(config())
        await world.operator.delete("iris", keep_cache=True)
        assert "forget iris" not in world.backend.asked
        await world.deploy(config(value="2"))
        assert len(world.operator.history("iris")) == 2

    run(scenario())


def test_delete_ends_a_deployment_in_progress(world: World) -> None:
    async def scenario() -> None:
        await world.start()
        world.backend.behaviour[digest("first")] = "slow"
        await world.begin(config())
        await world.clock.settle()
        await world.operator.delete("iris")
        await world.clock.advance(10)
        assert world.backend.replicas == {}
        assert world.backend.workloads == {}

    run(scenario())


def test_history_and_projects_are_bounded(world: World) -> None:
    async def scenario() -> None:
        await world.start()
        for number in range(25):
            await world.deploy(config(), f"code {number}")
        assert len(world.operator.history("iris")) == 20
        await world.clock.advance(3700)
        await world.begin(config(), "code 24")
        kept = {each.name for each in (world.home.bucket / "projects").iterdir()}
        assert kept == {f"{digest(f'code {number}')}.tar.gz" for number in range(5, 25)}

    run(scenario())


def test_a_handler_that_cannot_be_loaded_is_not_said_to_be_started_again() -> None:
    failed = Replica(
        id="iris-a-0",
        api="iris",
        workload="iris-a",
        release_id="r",
        state="failed",
        failure="exited with code 3",
        restarts=1,
    )
    assert "died and is started again" in progress([failed], 0, 1)
    told = progress([replace(failed, handler_failed=True)], 0, 1)
    assert told == "0 of 1 replicas ready; iris-a-0 cannot load its handler: exited with code 3"


def test_why_a_replica_failed_is_an_event_once(world: World) -> None:
    async def scenario() -> None:
        await world.start()
        await world.deploy(config())
        (replica,) = world.backend.of("iris")
        world.backend.set(replica.id, failure="a worker was killed: out of memory")
        await world.clock.advance(60)
        world.backend.set(replica.id, failure=None)
        await world.clock.advance(60)
        told = [each.message for each in world.operator.events() if each.level == "warning"]
        assert told == [f"replica {replica.id}: a worker was killed: out of memory"]
        assert (await world.status()).status.message is None
        world.backend.set(replica.id, failure="a worker was killed: out of memory")
        status = (await world.status()).status
        assert (status.status_code, status.message) == (
            "status_live",
            f"{replica.id}: a worker was killed: out of memory",
        )

    run(scenario())


def test_what_is_live_or_about_to_be_is_kept_prepared(world: World) -> None:
    async def scenario() -> None:
        await world.start()
        live = await world.deploy(config())
        world.backend.behaviour[digest("slow")] = "slow"
        upcoming = await world.begin(config(), "slow")
        await world.clock.settle()
        await world.begin(config("other"))
        await world.clock.settle()
        assert {live.release_id, upcoming.release_id} <= world.backend.kept
        await world.operator.delete("iris")
        await world.clock.settle()
        assert not {live.release_id, upcoming.release_id} & world.backend.kept
        assert len(world.backend.kept) == 1

    run(scenario())


def test_projects_of_deleted_apis_are_removed_with_the_next_deletion(world: World) -> None:
    async def scenario() -> None:
        await world.start()
        await world.deploy(config())
        await world.deploy(config("other"), "second")
        await world.clock.advance(3700)
        await world.operator.delete("iris")
        assert {each.name.strip(".").partition(".")[0] for each in world.home.projects.iterdir()} == {
            digest("second")
        }

    run(scenario())

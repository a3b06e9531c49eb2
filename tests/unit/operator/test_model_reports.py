"""What several replicas say about their models, as one answer."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from support.fake_clock import FakeClock
from support.listings import entry
from support.operators import World, config, run

from cortex_core.operator_api import ModelStatus
from cortex_operator.backends.protocol import Replica
from cortex_operator.model_reports import FRESH, ModelReports, NoReport, Report, merged

FIRST = Replica(
    id="iris-a-0",
    api="iris",
    workload="iris-a",
    release_id="r",
    state="ready",
    host="127.0.0.1",
    admin_port=1,
)
SECOND = replace(FIRST, id="iris-a-1", admin_port=2)


def row(version: str = "7", name: str = "iris", **fields: object) -> ModelStatus:
    return ModelStatus(**({"name": name, "version": version, "digest": "d", "state": "live"} | fields))  # type: ignore[arg-type]  # fields are those of the struct


@dataclass
class Replicas:
    """Answer as told: with rows, not at all, or when they are let."""

    reports: dict[str, Report | None] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    held: set[str] = field(default_factory=set)

    async def ask(self, replica: Replica) -> Report:
        self.asked.append(replica.id)
        while replica.id in self.held:
            await asyncio.sleep(0.01)
        report = self.reports.get(replica.id)
        if report is None:
            raise NoReport
        return report


def states(rows: Report) -> list[tuple[str, str, str | None]]:
    return [(each.version, each.state, each.error) for each in rows]


def test_a_version_is_live_where_it_is_live_in_all_that_have_it() -> None:
    said = {
        "a-0": [row("6", state="ready"), row("7")],
        "a-1": [row("6"), row("7", state="loading")],
        "a-2": [row("7")],
    }
    assert states(merged(said)) == [("7", "loading", None), ("6", "ready", None)]
    said["a-1"] = [row("7")]
    assert states(merged(said)) == [("7", "live", None), ("6", "ready", None)]


def test_what_failed_in_one_replica_failed_and_says_where() -> None:
    said = {"a-0": [row("7")], "a-1": [row("7", state="failed", error="ValueError: bad weights")]}
    assert states(merged(said)) == [("7", "failed", "a-1: ValueError: bad weights")]


def test_what_failed_everywhere_in_the_same_way_names_no_replica() -> None:
    broken = row("7", state="failed", error="ValueError: bad weights")
    assert states(merged({"a-0": [broken], "a-1": [broken]})) == [("7", "failed", "ValueError: bad weights")]
    assert states(merged({"a-0": [broken]})) == [("7", "failed", "ValueError: bad weights")]
    other = row("7", state="failed", error="killed by signal 9")
    assert states(merged({"a-0": [broken], "a-1": [other]})) == [
        ("7", "failed", "a-0: ValueError: bad weights")
    ]


def test_another_content_of_a_version_is_a_row_of_its_own() -> None:
    said = {"a-0": [row("7", digest="old"), row("7", digest="new", state="failed", error="bad")]}
    assert [(each.digest, each.state) for each in merged(said)] == [("new", "failed"), ("old", "live")]


def test_rows_are_by_name_and_then_the_highest_version_first() -> None:
    said = {"a-0": [row("9"), row("10"), row("-", state="failed"), row("2", name="a"), row("1" * 300)]}
    assert [(each.name, each.version) for each in merged(said)] == [
        ("a", "2"),
        ("iris", "10"),
        ("iris", "9"),
        ("iris", "-"),
        ("iris", "1" * 300),
    ]


def test_times_are_those_of_the_last_and_the_most_out_of_date() -> None:
    (one,) = merged({
        "a-0": [row(loaded_at=5.0, checked_at=100.0, modified_at=1.0)],
        "a-1": [row(loaded_at=9.0, checked_at=40.0, modified_at=1.0)],
    })  # fmt: skip
    assert (one.loaded_at, one.checked_at, one.modified_at) == (9.0, 40.0, 1.0)
    (one,) = merged({"a-0": [row(loaded_at=5.0)], "a-1": [row(state="fetching")]})
    assert (one.loaded_at, one.checked_at) == (None, None)


def test_replicas_are_asked_once_by_all_who_ask_at_the_same_time() -> None:
    async def scenario() -> None:
        clock, replicas = FakeClock(), Replicas({"iris-a-0": [row("7")], "iris-a-1": [row("7")]})
        reports = ModelReports(replicas.ask, clock=clock)
        answers = await asyncio.gather(*(reports.of([FIRST, SECOND]) for _ in range(5)))
        assert [states(each) for each in answers] == [[("7", "live", None)]] * 5
        assert replicas.asked == ["iris-a-0", "iris-a-1"]
        await clock.advance(FRESH)
        await reports.of([FIRST])
        assert replicas.asked == ["iris-a-0", "iris-a-1", "iris-a-0"]
        await reports.close()

    run(scenario())


def test_of_one_that_does_not_answer_what_it_said_last_counts() -> None:
    async def scenario() -> None:
        clock, replicas = FakeClock(), Replicas({"iris-a-0": [row("7")]})
        reports = ModelReports(replicas.ask, clock=clock)
        await reports.of([FIRST])
        await clock.advance(FRESH)
        replicas.reports["iris-a-0"] = None
        assert states(await reports.of([FIRST])) == [("7", "live", None)]
        reports.forget([SECOND])
        assert await reports.of([FIRST]) == ()
        await reports.close()

    run(scenario())


def test_a_replica_that_hangs_is_not_waited_for_and_asked_only_once() -> None:
    async def scenario() -> None:
        clock, replicas = (
            FakeClock(),
            Replicas({"iris-a-0": [row("7")], "iris-a-1": [row("8")]}, held={"iris-a-1"}),
        )
        reports = ModelReports(replicas.ask, clock=clock)
        assert states(await reports.of([FIRST, SECOND])) == [("7", "live", None)]
        await clock.advance(10)
        replicas.held.clear()
        assert states(await reports.of([FIRST, SECOND])) == [("8", "live", None), ("7", "live", None)]
        assert replicas.asked.count("iris-a-1") == 1
        await reports.close()

    run(scenario())


def test_while_none_is_ready_those_that_will_be_are_asked() -> None:
    async def scenario() -> None:
        replicas = Replicas({"iris-a-0": [row(state="fetching")], "iris-a-1": [row()]})
        reports = ModelReports(replicas.ask, clock=FakeClock())
        starting = replace(FIRST, state="initializing")
        assert [each.state for each in await reports.of([starting, replace(SECOND, state="failed")])] == [
            "fetching"
        ]
        assert [each.state for each in await reports.of([starting, SECOND])] == ["live"]
        await reports.close()

    run(scenario())


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_an_api_shows_its_models(world: World) -> None:
    async def scenario() -> None:
        replicas = Replicas()
        world.ask = replicas.ask
        world.list_locations = lambda locations: {each: [entry("7/a")] for each in locations}
        await world.start()
        models = "    multi_model_reloading: {path: s3://b/m}\n"
        await world.deploy(config().replace("    path: handler.py\n", f"    path: handler.py\n{models}"))
        await world.deploy(config("plain"))
        (replica,) = world.backend.of("iris")
        replicas.reports[replica.id] = [row("6", state="ready"), row("7")]

        shown = {each.spec.name: each.models for each in await world.operator.statuses()}

        assert states(shown["iris"]) == [("7", "live", None), ("6", "ready", None)]
        assert shown["plain"] == ()
        assert set(replicas.asked) == {replica.id}
        assert states((await world.status()).models) == [("7", "live", None), ("6", "ready", None)]
        await world.operator.close()

    run(scenario())

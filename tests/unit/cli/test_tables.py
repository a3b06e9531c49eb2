"""Tables of models and replicas, as `cortex get API` shows them."""

from __future__ import annotations

from cortex import tables
from cortex_core.operator_api import ModelState, ModelStatus, ReplicaStatus

NOW = 1_000_000.0


def model(name: str, version: str, state: ModelState = "live", **fields: float | str | None) -> ModelStatus:
    return ModelStatus(name=name, version=version, digest="d", state=state, **fields)  # type: ignore[arg-type]  # as named


def test_models_are_sorted_by_name_and_then_the_highest_version() -> None:
    rows = [model("b", "1"), model("a", "9", "ready"), model("a", "010"), model("a", "-", "failed")]
    header, lines = tables.models(rows, now=NOW)
    assert header == ["model name", "model version", "state", "loaded"]
    assert [line[:3] for line in lines] == [
        ["a", "010", "live"],
        ["a", "9", "ready"],
        ["a", "-", "failed"],
        ["b", "1", "live"],
    ]


def test_an_error_and_a_location_that_is_not_listed_any_more_are_shown() -> None:
    rows = [
        model("a", "8", "failed", error="ValueError: bad weights", checked_at=NOW - 300),
        model("a", "7", loaded_at=NOW - 3700, checked_at=NOW - 300),
        model("b", "1", loaded_at=NOW - 5, checked_at=NOW - 5),
    ]
    assert tables.models(rows, now=NOW) == (
        ["model name", "model version", "state", "loaded", "last checked", "error"],
        [
            ["a", "8", "failed", "-", "5m0s ago", "ValueError: bad weights"],
            ["a", "7", "live", "1h1m", "5m0s ago", ""],
            ["b", "1", "live", "5s", "", ""],
        ],
    )


def test_of_many_models_those_in_trouble_are_shown_first_and_then_the_live_ones() -> None:
    rows = [model(f"m{number:04}", "1", "available") for number in range(5000)]
    rows[4000] = model("m4000", "1", "failed", error="bad")
    rows[3000] = model("m3000", "1", "pending")
    rows[2000] = model("m2000", "1", "live")
    _, lines = tables.models(rows, now=NOW)
    assert len(lines) == tables.MODELS_SHOWN
    assert [line[0] for line in lines] == [f"m{number:04}" for number in range(17)] + [
        "m2000",
        "m3000",
        "m4000",
    ]


def test_what_a_replica_waits_for_is_shown_while_it_waits() -> None:
    waiting = ReplicaStatus(
        id="iris-0",
        release_id="r",
        state="initializing",
        waiting_for="fetching model iris version 7: 1.2 of 2.0 GB",
    )
    header, [line] = tables.replicas([waiting], now=NOW)
    assert header == ["replica", "state", "age", "in flight", "waiting for"]
    assert line[-1] == "fetching model iris version 7: 1.2 of 2.0 GB"

"""The operator's database: what it refuses, and what it does not lose."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from support.operators import config

from cortex_core.release import Release, make_release
from cortex_core.spec.load import load
from cortex_operator.state import KEPT_EVENTS, Live, State, StateUnusable, StoredDeployment

(SPEC,) = load(config())
RELEASE = make_release(SPEC, project_digest="a" * 64, project_url="file:///p", runtime_version="1")


def opened(folder: Path) -> State:
    return State(folder / "state.db", now=lambda: 100.0)


def deployment(number: int = 1, release: Release = RELEASE) -> StoredDeployment:
    return StoredDeployment(
        id=f"d{number}", api="iris", release_id=release.id, state="preparing", sequence=1,
        replicas_requested=2, replicas_ready=0, workload_id=f"w{number}", reason="deploy",
    )  # fmt: skip


def test_the_file_belongs_to_its_owner_alone(tmp_path: Path) -> None:
    opened(tmp_path).close()
    assert (tmp_path / "state.db").stat().st_mode & 0o777 == 0o600


def test_everything_is_there_again_after_opening(tmp_path: Path) -> None:
    state = opened(tmp_path)
    state.begin(deployment(), RELEASE, submitted="the file")
    state.switching("d1")
    state.close()
    again = opened(tmp_path)
    stored = again.api("iris")
    assert stored is not None
    assert stored.live == Live(release_id=RELEASE.id, workload_id="w1", replicas=2)
    assert again.release("iris", RELEASE.id) == RELEASE
    assert again.submitted("iris", RELEASE.id) == "the file"
    unfinished = again.unfinished("iris")
    assert unfinished is not None
    assert unfinished.state == "switching"


def test_a_deployment_that_is_over_does_not_change_any_more(tmp_path: Path) -> None:
    state = opened(tmp_path)
    state.begin(deployment(1), RELEASE, submitted="")
    state.begin(deployment(2), RELEASE, submitted="")
    for change in (state.starting, state.switching, state.live):
        change("d1")
    state.progress("d1", "late")
    state.failed("d1", "late")
    first, second = state.deployment("d1"), state.deployment("d2")
    assert first is not None
    assert second is not None
    assert (first.state, second.state) == ("superseded", "preparing")
    assert state.api("iris").live is None  # type: ignore[union-attr]


def test_a_switch_that_fails_goes_back(tmp_path: Path) -> None:
    state = opened(tmp_path)
    state.begin(deployment(1), RELEASE, submitted="")
    state.switching("d1")
    state.live("d1")
    state.begin(deployment(2), RELEASE, submitted="")
    state.switching("d2")
    state.failed("d2", "no")
    assert state.api("iris").live.workload_id == "w1"  # type: ignore[union-attr]


def test_progress_that_is_known_is_no_news(tmp_path: Path) -> None:
    rings: list[int] = []
    state = State(tmp_path / "state.db", now=lambda: 1.0, changed=lambda: rings.append(1))
    state.begin(deployment(), RELEASE, submitted="")
    for _ in range(3):
        state.progress("d1", "half way", ready=1)
    found = state.deployment("d1")
    assert found is not None
    assert (found.sequence, len(rings)) == (2, 2)


def test_events_are_bounded_and_in_order(tmp_path: Path) -> None:
    state = opened(tmp_path)
    for number in range(KEPT_EVENTS + 10):
        state.event("iris" if number % 2 else "other", "info", str(number))
    assert [each.message for each in state.events(tail=3)] == ["2007", "2008", "2009"]
    assert len(state.events()) == KEPT_EVENTS
    assert {each.api for each in state.events(api="iris")} == {"iris"}


def test_a_database_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    opened(tmp_path).close()
    with sqlite3.connect(tmp_path / "state.db") as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    before = (tmp_path / "state.db").read_bytes()
    with pytest.raises(StateUnusable, match="newer version of cortex \\(schema 99, this version knows 1\\)"):
        opened(tmp_path)
    assert (tmp_path / "state.db").read_bytes() == before


@pytest.mark.parametrize("at", [0, 100, 4096, 8192])
def test_a_damaged_database_is_said_to_be_and_left_alone(tmp_path: Path, at: int) -> None:
    state = opened(tmp_path)
    for number in range(200):
        state.event("iris", "info", f"event {number}" * 20)
    state.close()
    path = tmp_path / "state.db"
    content = bytearray(path.read_bytes())
    content[at : at + 512] = b"\xa5" * 512
    path.write_bytes(content)
    with pytest.raises(StateUnusable, match="is damaged") as caught:
        opened(tmp_path)
    assert caught.value.hint is not None
    assert path.read_bytes() == bytes(content)


def test_a_truncated_database_is_said_to_be_damaged(tmp_path: Path) -> None:
    state = opened(tmp_path)
    for number in range(200):
        state.event("iris", "info", f"event {number}" * 20)
    state.close()
    path = tmp_path / "state.db"
    path.write_bytes(path.read_bytes()[: 4096 * 3 + 100])
    with pytest.raises(StateUnusable, match="is damaged"):
        opened(tmp_path)


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").touch()
    (tmp_path / "state.db").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StateUnusable, match="cannot be opened"):
        opened(tmp_path)

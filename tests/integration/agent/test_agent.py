"""The agent with real parts on real directories; of workers and trials, only what they say."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from support.replicas import until
from support.stored_models import Altered
from support.swapper import Directory

from cortex_core.errors import StorageUnavailable
from cortex_core.models.settling import Settled
from cortex_core.models.tree import DEFAULT_MODEL, shown
from cortex_core.operator_api import ModelStatus
from cortex_core.spec.types import Models
from cortex_core.storage import Entry, LocalStorage, Storage, open_storage
from cortex_serve import control, snapshot
from cortex_serve.agent import failures
from cortex_serve.agent.agent import ANSWER_WITHIN, Agent
from cortex_serve.agent.disk import Disk, FetchFailed, StoredVersion
from cortex_serve.agent.fetching import Fetcher
from cortex_serve.agent.rollout import Rollout
from cortex_serve.agent.source import Source
from cortex_serve.agent.trials import TrialResult
from cortex_serve.cells import Cells

NEVER = 3600.0
"""A poll interval with which only events lead to a listing."""

WITHIN = 20.0
CLOSED_WITHIN = 4.0
KILLED = TrialResult(kind="failed", error="the process was killed by SIGSEGV while it was being loaded")

names = partial(shown, api="iris")


class Trials:
    """Answers as a test says, by version; every other one passes."""

    def __init__(
        self, done: Callable[[int, TrialResult], None], verdicts: Mapping[str, TrialResult], tried: list[str]
    ) -> None:
        self._done = done
        self._verdicts = verdicts
        self._tried = tried

    def submit(self, serial: int, directory: str) -> None:
        version = Path(directory).name
        self._tried.append(version)
        self._done(serial, self._verdicts.get(version, TrialResult(kind="passed")))

    def close(self) -> None:
        """There is no process."""


class AgentParts:
    """What an agent works with: all real but for trials.

    Attributes:
        lines: what was reported.
        tried: versions, in the order in which they were to be tried.
        verdicts: of trials, by version.
        view: what is made of that which the source tells.
        told: the last of what it told, as it was.
        changed: tells the agent something else.
    """

    def __init__(
        self,
        folder: Path,
        location: str,
        *,
        workers: int = 1,
        interval: float = NEVER,
        disk: type[Disk] = Disk,
        open_storage: Callable[[str], Storage] = open_storage,
    ) -> None:
        self.folder = folder
        self.cells = Cells.create()
        self.lines: list[tuple[str, str]] = []
        self.disk = disk(folder, shown=names, report=self.report)
        self.rollout = Rollout(
            policy="availability", cache=None, trials=True, workers=workers, names=names, all_required=True
        )
        self.tried: list[str] = []
        self.verdicts: dict[str, TrialResult] = {}
        self.view: Callable[[Settled], Settled] = lambda settled: settled
        self.told: Settled | None = None
        self.changed: Callable[[Settled], None] = lambda _: None
        self._models = Models(path=location)
        self._interval = interval
        self._open_storage = open_storage

    def report(self, level: str, message: str, fields: Mapping[str, Any] | None = None) -> None:
        self.lines.append((level, f"{message} {(fields or {}).get('exc_info', '')}".strip()))

    def reported(self, part: str) -> list[tuple[str, str]]:
        return [line for line in self.lines if part in line[1]]

    def source(self, changed: Callable[[Settled], None], present: list[StoredVersion]) -> Source:
        self.changed = changed

        def tell(settled: Settled) -> None:
            self.told = settled
            changed(self.view(settled))

        return Source(
            self._models,
            "python",
            changed=tell,
            report=self.report,
            poll_interval=self._interval,
            previous=present,
            open_storage=self._open_storage,
        )

    def fetcher(self, source: Source, done: Callable[[int, Path | FetchFailed], None]) -> Fetcher:
        return Fetcher(self.disk, source.storage, done=done, report=self.report)

    def trials(self, done: Callable[[int, TrialResult], None]) -> Any:
        return Trials(done, self.verdicts, self.tried)


class SlowParts(AgentParts):
    """The agent is busy from its start until it may go on."""

    def __init__(self, folder: Path, location: str) -> None:
        super().__init__(folder, location)
        self.is_busy = threading.Event()
        self.goes_on = threading.Event()

    def source(self, changed: Callable[[Settled], None], present: list[StoredVersion]) -> Source:
        self.is_busy.set()
        assert self.goes_on.wait(WITHIN)
        return super().source(changed, present)


class Worker:
    """Does at once what orders say, and keeps them.

    Attributes:
        takes: whether it takes orders.
        bad: versions that it cannot load.
        deadly: versions that end it while it loads them.
        loaded: versions, in the order in which it began to load them.
        held: versions in memory, by serial.
    """

    def __init__(
        self, agent: Agent, number: int = 1, *, bad: tuple[str, ...] = (), deadly: tuple[str, ...] = ()
    ) -> None:
        self.takes = True
        self.bad = bad
        self.orders: list[control.Order] = []
        self.loaded: list[str] = []
        self.held: dict[int, str] = {}
        self.is_ready = False
        self._agent = agent
        self._number = number
        self._deadly = deadly
        self._following = threading.RLock()
        agent.worker_started(number, self.tell)
        self._follow()

    def tell(self, order: control.Order) -> bool:
        if self.takes:
            self.orders.append(order)
            if isinstance(order, control.Follow):
                self._follow()
        return self.takes

    def said(self, message: control.Message) -> None:
        self._agent.said(self._number, message)

    def follows(self) -> int:
        return sum(isinstance(order, control.Follow) for order in self.orders)

    def answers(self) -> list[control.Here]:
        return [order for order in self.orders if isinstance(order, control.Here)]

    def _follow(self) -> None:
        with self._following:
            published = snapshot.read(self._agent.folder)
            if published is not None:
                self._hold_residents(published)

    def _hold_residents(self, published: snapshot.Snapshot) -> None:
        residents = {
            each.serial: each for model in published.models for each in model.versions if each.resident
        }
        for serial in self.held.keys() - residents.keys():
            del self.held[serial]
            self.said(control.ModelDropped(serial=serial))
        for serial in residents.keys() - self.held.keys():
            self._load(residents[serial])
        if residents and residents.keys() == self.held.keys() and not self.is_ready:
            self.is_ready = True
            self.said(control.Ready())

    def _load(self, servable: snapshot.Servable) -> None:
        assert servable.directory is not None
        assert (Path(servable.directory) / "first.txt").exists()
        self.loaded.append(servable.version)
        self.said(control.ModelLoading(serial=servable.serial))
        if servable.version in self._deadly:
            self.takes = False
            self._agent.worker_ended(self._number, "was killed by SIGSEGV", out_of_memory=False)
        elif servable.version in self.bad:
            error = control.ModelFailed(serial=servable.serial, error="ValueError: bad", transient=False)
            self.said(error)
        else:
            self.held[servable.serial] = servable.version
            self.said(control.ModelLoaded(serial=servable.serial, seconds=0.01))


class Life:
    """One life of an agent."""

    def __init__(self, parts: AgentParts) -> None:
        self.parts = parts
        self.agent = Agent(parts)
        self.given_up: list[str] = []
        self.agent.start(self.given_up.append)

    def rows(self) -> dict[str, ModelStatus]:
        return {row.version: row for row in self.agent.models()}

    def states(self) -> dict[str, str]:
        return {version: row.state for version, row in self.rows().items()}

    def until_states(self, **states: str) -> None:
        """Args: states: by version, with a `v` before it."""
        wanted = {version.removeprefix("v"): state for version, state in states.items()}
        try:
            until(lambda: self.states() == wanted, within=WITHIN)
        except TimeoutError:
            raise AssertionError(f"{wanted} wanted, but {self.rows()}; {self.parts.lines}") from None

    def on_disk(self) -> list[str]:
        home = self.parts.folder / "versions" / "iris"
        return sorted(path.name.partition("@")[0] for path in home.iterdir()) if home.exists() else []

    def latest(self) -> int:
        return self.parts.cells.read(0)


@contextmanager
def life(parts: AgentParts) -> Iterator[Life]:
    lived = Life(parts)
    try:
        yield lived
    finally:
        lived.agent.close()
        os.close(parts.cells.descriptor)


def place(tmp_path: Path, *versions: int) -> Directory:
    directory = Directory(tmp_path / "upstream")
    for version in versions:
        directory.publish(version)
    return directory


def only(settled: Settled | None, *versions: str) -> Settled:
    """As if there were no others."""
    assert settled is not None
    model = settled.models[DEFAULT_MODEL]
    some = tuple(each for each in model.versions if each.name in versions)
    return msgspec.structs.replace(
        settled, models={DEFAULT_MODEL: msgspec.structs.replace(model, versions=some)}
    )


def parts_in(tmp_path: Path, **options: Any) -> AgentParts:
    return AgentParts(tmp_path / "models", str(tmp_path / "upstream"), **options)


def test_a_swap_from_one_end_to_the_other(tmp_path: Path) -> None:
    upstream = place(tmp_path, 1)
    parts = parts_in(tmp_path, workers=2)
    with life(parts) as now:
        assert now.agent.unready()
        workers = [Worker(now.agent, number) for number in (1, 2)]
        now.until_states(v1="live")
        first = now.latest()
        assert [worker.held for worker in workers] == [{first: "1"}] * 2
        assert now.agent.unready() == []

        upstream.publish(2)
        now.until_states(v1="available", v2="live")
        second = now.latest()
        until(lambda: all(worker.held == {second: "2"} for worker in workers), within=WITHIN)
        assert second != first
        assert [worker.loaded for worker in workers] == [["1", "2"]] * 2
        assert parts.tried == ["2"]
        assert now.on_disk() == ["1", "2"]

        (tmp_path / "upstream" / "1").rename(tmp_path / "away")
        now.until_states(v2="live")
        until(lambda: now.on_disk() == ["2"], within=WITHIN)
        counts = now.agent.counts()
        row = now.rows()["2"]
    assert (counts.rollout.swaps, counts.rollout.load_failures, counts.rollout.on_disk) == (1, 0, 1)
    assert counts.passes >= 3
    assert counts.listed_ago is not None
    assert 0 <= counts.listed_ago < WITHIN
    assert row.name == "iris"
    assert len(row.digest) == 12
    for when in (row.loaded_at, row.modified_at, row.checked_at):
        assert when is not None
        assert abs(time.time() - when) < 2 * WITHIN
    assert [line for line in parts.lines if line[0] != "INFO"] == []
    assert now.given_up == []


def test_what_one_worker_cannot_load_no_worker_serves(tmp_path: Path) -> None:
    upstream = place(tmp_path, 1)
    with life(parts_in(tmp_path, workers=2)) as now:
        workers = [Worker(now.agent, 1), Worker(now.agent, 2, bad=("2",))]
        now.until_states(v1="live")
        first = now.latest()
        upstream.publish(2)
        now.until_states(v1="live", v2="failed")
        assert "ValueError: bad" in (now.rows()["2"].error or "")
        until(lambda: all(worker.held == {first: "1"} for worker in workers), within=WITHIN)
        assert now.latest() == first
        assert now.agent.counts().rollout.load_failures == 1


def test_a_worker_that_takes_no_orders_for_a_while_gets_them_later(tmp_path: Path) -> None:
    upstream = place(tmp_path, 1)
    with life(parts_in(tmp_path, workers=2)) as now:
        quick, slow = Worker(now.agent, 1), Worker(now.agent, 2)
        now.until_states(v1="live")
        slow.takes = False
        before = slow.follows(), quick.follows()
        for version in (2, 3, 4):  # each is in another snapshot
            upstream.publish(version)
            until(lambda version=version: str(version) in now.rows(), within=WITHIN)
        until(lambda: quick.follows() >= before[1] + 3, within=WITHIN)
        for serial in (now.latest(), 999):
            slow.said(control.Want(serial=serial))
        assert now.agent.counts().rollout.swaps == 0

        slow.takes = True
        until(lambda: now.states().get("4") == "live", within=WITHIN)
        waited = slow.orders[sum(before[:1]) :]
        kinds = [type(order) for order in waited[:3]]
        assert kinds == [control.Follow, control.Here, control.Here], "one Follow is enough for all snapshots"
        assert [(here.serial, here.directory is None) for here in slow.answers()] == [
            (1, False),
            (999, True),
        ]
        assert slow.held.keys() == {now.latest()}


def test_orders_for_a_worker_that_ended_are_not_for_the_next_one(tmp_path: Path) -> None:
    place(tmp_path, 1)
    with life(parts_in(tmp_path)) as now:
        first = Worker(now.agent)
        now.until_states(v1="live")
        first.takes = False
        first.said(control.Want(serial=now.latest()))
        now.agent.worker_ended(1, "was killed by SIGKILL", out_of_memory=True)
        second = Worker(now.agent)
        now.agent.counts()
        assert second.answers() == []
        assert first.answers() == []
        second.said(control.Want(serial=now.latest()))
        until(lambda: len(second.answers()) == 1, within=WITHIN)


def test_a_snapshot_that_cannot_be_written_is_written_later(tmp_path: Path) -> None:
    upstream = place(tmp_path, 1)
    parts = parts_in(tmp_path)
    with life(parts) as now:
        worker = Worker(now.agent)
        now.until_states(v1="live")
        for time_it_happens in (1, 2):
            obstacle = parts.folder / ".snapshot.json.partial"
            obstacle.mkdir()
            version = str(time_it_happens + 1)
            upstream.publish(int(version))
            until(
                lambda times=time_it_happens: len(parts.reported("cannot be written")) == times, within=WITHIN
            )
            served = now.latest()
            for _ in range(5):  # each event is a reason to try
                worker.said(control.ModelDropped(serial=999))
                assert now.agent.counts().rollout.swaps == time_it_happens - 1
            assert now.latest() == served
            assert worker.held.keys() == {served}

            obstacle.rmdir()
            until(lambda version=version: now.states().get(version) == "live", within=WITHIN)
            [*_, line] = parts.reported("cannot be written")
            assert len(parts.reported("cannot be written")) == time_it_happens
            assert line[0] == "ERROR"
            assert str(obstacle) in line[1]
            assert line[1].endswith("trying again")


def test_a_snapshot_is_written_when_there_is_room_though_nothing_else_happens(tmp_path: Path) -> None:
    parts = parts_in(tmp_path)
    obstacle = parts.folder / ".snapshot.json.partial"
    obstacle.mkdir(parents=True)
    place(tmp_path, 1)
    with life(parts) as now:
        until(lambda: parts.reported("cannot be written"), within=WITHIN)
        obstacle.rmdir()
        until(lambda: snapshot.read(parts.folder), within=WITHIN)
        Worker(now.agent)
        now.until_states(v1="live")


def test_failures_that_cannot_be_written_down_are_said_and_held_all_the_same(tmp_path: Path) -> None:
    upstream = place(tmp_path, 1)
    parts = parts_in(tmp_path)
    parts.verdicts["2"] = KILLED
    with life(parts) as now:
        Worker(now.agent)
        now.until_states(v1="live")
        (parts.folder / f".{failures.FILE}.partial").mkdir()
        upstream.publish(2)
        now.until_states(v1="live", v2="failed")
        assert len(parts.reported("what models failed cannot be written down")) == 1
        upstream.publish(3)
        now.until_states(v1="available", v2="failed", v3="live")


def test_it_gives_up_when_nothing_can_be_served(tmp_path: Path) -> None:
    place(tmp_path, 1)
    with life(parts_in(tmp_path)) as now:
        Worker(now.agent, bad=("1",))
        until(lambda: now.given_up, within=WITHIN)
        [why] = now.given_up
        assert why == "model iris: version 1 cannot be loaded: ValueError: bad"
        assert now.states() == {"1": "failed"}


def test_it_gives_up_when_another_has_the_folder(tmp_path: Path) -> None:
    place(tmp_path, 1)
    with life(parts_in(tmp_path)) as first:
        Worker(first.agent)
        first.until_states(v1="live")
        with life(parts_in(tmp_path)) as second:
            until(lambda: second.given_up, within=WITHIN)
            [why] = second.given_up
            assert why.startswith(
                "models cannot be followed: the folder for copies of models is used by another"
            )
        assert first.states() == {"1": "live"}


def test_it_gives_up_when_a_part_cannot_be_made_for_a_reason_that_nobody_thought_of(tmp_path: Path) -> None:
    class Broken(Disk):
        def open(self) -> list[StoredVersion]:
            raise RuntimeError("nobody thought of this")

    parts = parts_in(tmp_path, disk=Broken)
    with life(parts) as now:
        until(lambda: now.given_up, within=WITHIN)
        assert "nobody thought of this" in now.given_up[0]
        assert parts.reported("RuntimeError: nobody thought of this")[0][0] == "ERROR"


def test_who_asks_gets_an_answer_while_it_is_busy(tmp_path: Path) -> None:
    goes_on, is_busy = threading.Event(), threading.Event()

    class Slow(Disk):
        def remove(self, stored: StoredVersion) -> None:
            is_busy.set()
            assert goes_on.wait(WITHIN)
            super().remove(stored)

    place(tmp_path, 1, 2)
    parts = parts_in(tmp_path, disk=Slow)
    with life(parts) as now:
        Worker(now.agent)
        until(lambda: now.on_disk() == ["1", "2"], within=WITHIN)
        now.until_states(v1="available", v2="live")
        rows, counts = now.agent.models(), now.agent.counts()
        parts.changed(only(parts.told, "2"))
        assert is_busy.wait(WITHIN)
        began = time.monotonic()
        with ThreadPoolExecutor(9) as threads:
            models = [threads.submit(now.agent.models) for _ in range(3)]
            counted = [threads.submit(now.agent.counts) for _ in range(3)]
            unready = [threads.submit(now.agent.unready) for _ in range(3)]
        assert time.monotonic() - began < ANSWER_WITHIN + 2
        assert all(answer.result() == rows for answer in models)
        assert all(answer.result().rollout == counts.rollout for answer in counted)
        assert all(answer.result() for answer in unready), "what is not known is not taken for readiness"
        goes_on.set()
        now.until_states(v2="live")
        assert now.agent.unready() == []


def test_it_is_not_taken_for_ready_before_it_has_begun(tmp_path: Path) -> None:
    place(tmp_path, 1)
    parts = SlowParts(tmp_path / "models", str(tmp_path / "upstream"))
    with life(parts) as now:
        assert now.agent.unready()
        parts.goes_on.set()
        Worker(now.agent)
        until(lambda: now.agent.unready() == [], within=WITHIN)


def test_no_worker_follows_what_an_earlier_life_published(tmp_path: Path) -> None:
    place(tmp_path, 1)
    with life(parts_in(tmp_path)) as before:
        Worker(before.agent)
        before.until_states(v1="live")
    parts = SlowParts(tmp_path / "models", str(tmp_path / "upstream"))
    with life(parts) as now:
        worker = Worker(now.agent)
        assert snapshot.read(parts.folder) is None
        assert worker.loaded == []
        parts.goes_on.set()
        now.until_states(v1="live")


def test_it_ends_soon_though_a_fetch_hangs(tmp_path: Path) -> None:
    goes_on, hangs = threading.Event(), threading.Event()

    def download(key: str, to: Path, **_: Any) -> None:
        hangs.set()
        goes_on.wait(WITHIN)

    def hanging(location: str) -> Any:
        return Altered(LocalStorage(Path(location)), download)

    place(tmp_path, 1)
    parts = parts_in(tmp_path, interval=0.1, open_storage=hanging)
    with life(parts) as now:
        assert hangs.wait(WITHIN)
        states, unready = now.states(), now.agent.unready()
        began = time.monotonic()
        now.agent.close()
        took = time.monotonic() - began
        goes_on.set()
    assert took < CLOSED_WITHIN
    assert states == {"1": "fetching"}
    assert any("version 1 is being fetched" in reason for reason in unready)


def test_it_ends_soon_though_it_is_busy(tmp_path: Path) -> None:
    place(tmp_path, 1)
    parts = SlowParts(tmp_path / "models", str(tmp_path / "upstream"))
    with life(parts) as now:
        assert parts.is_busy.wait(WITHIN)
        began = time.monotonic()
        now.agent.close()
        took = time.monotonic() - began
        parts.goes_on.set()
    assert took < CLOSED_WITHIN


def test_what_goes_wrong_in_one_part_does_not_keep_the_others_from_their_work(tmp_path: Path) -> None:
    class Clumsy(Disk):
        def remove(self, stored: StoredVersion) -> None:
            raise RuntimeError(f"cannot remove {stored.version.name}")

    place(tmp_path, 1, 2, 3)
    parts = parts_in(tmp_path, disk=Clumsy)
    parts.view = lambda settled: only(settled, "1", "2")
    with life(parts) as now:
        Worker(now.agent)
        now.until_states(v1="available", v2="live")
        until(lambda: now.on_disk() == ["1", "2"], within=WITHIN)
        parts.changed(only(parts.told, "2", "3"))  # 1 is to be removed before 3 is fetched
        now.until_states(v2="available", v3="live")
        [line] = parts.reported("the models' agent failed")
        assert line[0] == "ERROR"
        assert "RuntimeError: cannot remove 1" in line[1]


def test_a_version_that_cannot_be_tried_is_loaded_without(tmp_path: Path) -> None:
    class Untried(AgentParts):
        def trials(self, done: Callable[[int, TrialResult], None]) -> Any:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    upstream = place(tmp_path, 1)
    parts = Untried(tmp_path / "models", str(tmp_path / "upstream"))
    with life(parts) as now:
        Worker(now.agent)
        now.until_states(v1="live")
        upstream.publish(2)
        now.until_states(v1="available", v2="live")
        assert "Too many open files" in parts.reported("the models' agent failed")[0][1]


def test_what_an_earlier_life_left_is_served_while_the_storage_is_away(tmp_path: Path) -> None:
    class Away(LocalStorage):
        def list(self, prefix: str = "") -> Iterator[Entry]:
            raise StorageUnavailable("nobody answers")

    place(tmp_path, 1, 2)
    with life(parts_in(tmp_path)) as before:
        Worker(before.agent)
        before.until_states(v1="available", v2="live")
        until(lambda: before.on_disk() == ["1", "2"], within=WITHIN)
    parts = parts_in(tmp_path, open_storage=lambda location: Away(Path(location)))
    with life(parts) as now:
        worker = Worker(now.agent)
        now.until_states(v1="available", v2="live")
        assert worker.held == {now.latest(): "2"}
        assert now.agent.unready() == []
        assert now.agent.counts().listed_ago is None
        assert now.rows()["2"].checked_at is None
        [line] = parts.reported("nobody answers")
        assert line[0] == "WARNING"


def test_it_says_what_cannot_be_listed_while_there_is_nothing_to_serve(tmp_path: Path) -> None:
    class Away(LocalStorage):
        def list(self, prefix: str = "") -> Iterator[Entry]:
            raise StorageUnavailable("nobody answers")

    parts = parts_in(tmp_path, open_storage=lambda location: Away(Path(location)))
    with life(parts) as now:
        Worker(now.agent)
        expected = f"{tmp_path / 'upstream'} cannot be listed: nobody answers"
        until(lambda: expected in now.agent.unready(), within=WITHIN)
        assert now.given_up == []


def test_what_killed_a_worker_is_not_loaded_by_the_next_life(tmp_path: Path) -> None:
    upstream = place(tmp_path, 1, 2)
    with life(parts_in(tmp_path)) as before:
        killed = Worker(before.agent, deadly=("2",))
        until(lambda: before.states().get("2") == "failed", within=WITHIN)
        assert killed.loaded == ["2"]
        second = Worker(before.agent)
        before.until_states(v1="live", v2="failed")
        assert second.loaded == ["1"]
    parts = parts_in(tmp_path)
    with life(parts) as now:
        third = Worker(now.agent)
        now.until_states(v1="live", v2="failed")
        assert third.loaded == ["1"]
        assert "the process was killed by SIGSEGV" in (now.rows()["2"].error or "")

        (tmp_path / "upstream" / "2").rename(tmp_path / "away")
        upstream.publish(2)  # other content
        now.until_states(v1="available", v2="live")
        assert third.loaded == ["1", "2"]
        assert parts.tried == ["2"]
    assert failures.read(parts.folder) == ()


def test_what_killed_its_trial_is_not_loaded_by_the_next_life(tmp_path: Path) -> None:
    upstream = place(tmp_path, 1)
    parts = parts_in(tmp_path)
    parts.verdicts["2"] = KILLED
    with life(parts) as before:
        worker = Worker(before.agent)
        before.until_states(v1="live")
        upstream.publish(2)
        before.until_states(v1="live", v2="failed")
        assert worker.loaded == ["1"]
    with life(parts_in(tmp_path)) as now:
        again = Worker(now.agent)
        now.until_states(v1="live", v2="failed")
        assert again.loaded == ["1"]

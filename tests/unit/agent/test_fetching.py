"""The queue in front of the disk: what goes first, what goes once, and what is forgotten."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Empty, Queue

import pytest

from cortex_core.errors import CortexError, StorageRefused
from cortex_core.models.tree import ModelFile, Version
from cortex_core.storage import LocalStorage
from cortex_core.storage.protocol import Stopped, Storage
from cortex_serve.agent.disk import FetchFailed, Wanted
from cortex_serve.agent.fetching import Fetcher

SOON = 10.0
"""Seconds for what must happen."""

FILE = ModelFile(path="model.bin", size=1, etag="a", modified_ns=1)


def wanted(serial: int, *, urgent: bool = False, location: str = "/models") -> Wanted:
    version = Version(name=str(serial), prefix="", files=(FILE,), digest=f"{serial:064}")
    return Wanted(serial=serial, model="iris", location=location, version=version, urgent=urgent)


class SlowDisk:
    """Fetches begin, and end when the test says so.

    Attributes:
        heeds: whether fetches stop when they are told to.
    """

    def __init__(self) -> None:
        self.heeds = True
        self.begun: Queue[int] = Queue()
        self.stopped: Queue[int] = Queue()
        self._ends: dict[int, Queue[BaseException | None]] = {}
        self._lock = threading.Lock()

    def end(self, serial: int, error: BaseException | None = None) -> None:
        self._end_of(serial).put(error)

    def fetch(self, wanted: Wanted, storage: Storage, stopped: Callable[[], bool]) -> Path:
        end = self._end_of(wanted.serial)
        self.begun.put(wanted.serial)
        while True:
            try:
                error = end.get(timeout=0.01)
            except Empty:
                if self.heeds and stopped():
                    self.stopped.put(wanted.serial)
                    raise Stopped from None
                continue
            if error is not None:
                raise error
            return Path(f"{storage.url}/{wanted.serial}")

    def _end_of(self, serial: int) -> Queue[BaseException | None]:
        with self._lock:
            return self._ends.setdefault(serial, Queue())


class World:
    def __init__(self, threads: int) -> None:
        self.disk = SlowDisk()
        self.results: Queue[tuple[int, Path | FetchFailed]] = Queue()
        self.lines: list[tuple[str, str]] = []
        self.fetcher = Fetcher(
            self.disk,
            self.storage_of,
            done=lambda serial, result: self.results.put((serial, result)),
            report=lambda level, text: self.lines.append((level, text)),
            threads=threads,
        )

    def storage_of(self, location: str) -> Storage:
        if location == "s3://refused":
            raise StorageRefused("no rights", hint="ask for them")
        return LocalStorage(Path(location))

    def submit(self, *serials: int, urgent: bool = False) -> None:
        for serial in serials:
            self.fetcher.submit(wanted(serial, urgent=urgent))

    def begun(self) -> int:
        return self.disk.begun.get(timeout=SOON)

    def all_begun(self, count: int) -> list[int]:
        return sorted(self.begun() for _ in range(count))

    def result(self) -> tuple[int, Path | FetchFailed]:
        return self.results.get(timeout=SOON)

    def failure(self) -> FetchFailed:
        _, result = self.result()
        assert isinstance(result, FetchFailed)
        return result


@pytest.fixture
def make() -> Iterator[Callable[[int], World]]:
    worlds = []

    def new(threads: int) -> World:
        worlds.append(World(threads))
        return worlds[-1]

    yield new
    for world in worlds:
        world.fetcher.close()


Make = Callable[[int], World]


def test_what_is_submitted_is_fetched(make: Make) -> None:
    world = make(4)
    world.submit(1)
    world.disk.end(1)
    assert world.result() == (1, Path("file:///models/1"))


def test_so_many_at_a_time_one_of_them_for_what_is_urgent(make: Make) -> None:
    world = make(4)
    world.submit(1, 2, 3, 4, 5)
    assert world.all_begun(3) == [1, 2, 3]
    world.submit(6, urgent=True)
    assert world.begun() == 6
    world.submit(7, urgent=True)
    assert world.disk.begun.empty()
    world.disk.end(2)
    assert world.begun() == 7
    world.disk.end(6)
    world.disk.end(1)
    assert world.begun() == 4
    assert sorted(world.result()[0] for _ in range(3)) == [1, 2, 6]


def test_the_urgent_come_first_each_in_the_order_in_which_they_came(make: Make) -> None:
    world = make(1)
    world.submit(1)
    assert world.begun() == 1
    world.submit(2, 3)
    world.submit(4, 5, urgent=True)
    order = []
    for serial in (1, 4, 5, 2):
        world.disk.end(serial)
        order.append(world.begun())
    assert order == [4, 5, 2, 3]


def test_what_waits_may_become_urgent(make: Make) -> None:
    world = make(1)
    world.submit(1)
    assert world.begun() == 1
    world.submit(2, 3)
    world.submit(3, urgent=True)
    world.submit(3)
    world.disk.end(1)
    assert world.begun() == 3
    world.disk.end(3)
    assert world.begun() == 2
    world.disk.end(2)
    assert [world.result()[0] for _ in range(3)] == [1, 3, 2]
    assert world.disk.begun.empty()


def test_what_is_under_way_is_not_fetched_twice(make: Make) -> None:
    world = make(4)
    world.submit(1)
    assert world.begun() == 1
    world.submit(1, 1)
    world.submit(1, urgent=True)
    world.submit(2)
    assert world.begun() == 2
    world.disk.end(1)
    assert world.result()[0] == 1
    world.disk.end(2)
    assert world.result()[0] == 2
    world.submit(1)
    assert world.begun() == 1


def test_what_waits_can_be_cancelled(make: Make) -> None:
    world = make(1)
    world.submit(1, 2, 3)
    assert world.begun() == 1
    world.fetcher.cancel(2)
    world.fetcher.cancel(99)
    world.disk.end(1)
    assert world.begun() == 3


def test_what_runs_can_be_cancelled(make: Make) -> None:
    world = make(1)
    world.submit(1, 2)
    assert world.begun() == 1
    world.fetcher.cancel(1)
    assert world.disk.stopped.get(timeout=SOON) == 1
    assert world.begun() == 2
    world.disk.end(2)
    assert world.result()[0] == 2
    assert world.results.empty()


@pytest.mark.parametrize("error", [None, FetchFailed("away", transient=True)])
def test_what_was_cancelled_is_not_told_even_if_it_ends(make: Make, error: FetchFailed | None) -> None:
    world = make(1)
    world.disk.heeds = False
    world.submit(1, 2)
    assert world.begun() == 1
    world.fetcher.cancel(1)
    world.disk.end(1, error)
    assert world.begun() == 2
    world.disk.end(2)
    assert world.result()[0] == 2
    assert world.results.empty()


def test_what_was_cancelled_can_be_submitted_again(make: Make) -> None:
    world = make(4)
    world.submit(1)
    assert world.begun() == 1
    world.fetcher.cancel(1)
    world.submit(1)
    assert world.begun() == 1
    assert world.disk.stopped.get(timeout=SOON) == 1
    world.disk.end(1)
    assert world.result() == (1, Path("file:///models/1"))
    assert world.results.empty()


def test_failures_are_handed_on(make: Make) -> None:
    world = make(1)
    error = FetchFailed("not the same", transient=False, corrupt=True)
    world.submit(1)
    world.disk.end(1, error)
    assert world.failure() is error
    assert world.lines == []


def test_a_storage_that_cannot_be_opened(make: Make) -> None:
    world = make(1)
    world.fetcher.submit(wanted(1, location="s3://refused"))
    failure = world.failure()
    assert (failure.message, failure.hint, failure.transient) == ("no rights", "ask for them", True)


def test_a_defect_is_told_and_logged_and_stops_nothing(make: Make) -> None:
    world = make(1)
    world.submit(1, 2)
    world.disk.end(1, ZeroDivisionError("oops"))
    failure = world.failure()
    assert failure.message == "fetching failed unexpectedly (ZeroDivisionError); see the log"
    assert failure.transient
    [(level, text)] = world.lines
    assert level == "ERROR"
    assert text.startswith("fetching version 1 failed unexpectedly: Traceback (most recent call last):")
    assert "ZeroDivisionError: oops" in text
    world.disk.end(2)
    assert world.result()[0] == 2


def test_closing_ends_everything(make: Make) -> None:
    world = make(3)
    world.submit(1, 2, 3, 4)
    assert world.all_begun(2) == [1, 2]
    before = threading.active_count()
    world.fetcher.close()
    assert threading.active_count() == before - 3
    assert sorted(world.disk.stopped.get(timeout=SOON) for _ in range(2)) == [1, 2]
    world.submit(5)
    assert world.results.empty()
    assert world.disk.begun.empty()


def test_closing_does_not_wait_for_what_hangs() -> None:
    hanging = threading.Event()

    class Hangs:
        def fetch(self, wanted: Wanted, storage: Storage, stopped: Callable[[], bool]) -> Path:
            hanging.wait(SOON)
            raise CortexError("late")

    results: list[object] = []
    fetcher = Fetcher(
        Hangs(),
        lambda location: LocalStorage(Path(location)),
        done=lambda *result: results.append(result),
        report=lambda *line: None,
    )
    fetcher.submit(wanted(1))
    fetcher.close(timeout=0.05)
    hanging.set()
    assert results == []

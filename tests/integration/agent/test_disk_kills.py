"""`kill -9` at any point of a fetch, a removal and a start: what is there afterwards is whole."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.killed_disk import Run, running
from support.stored_models import SMALL, Bucket, closed_disk, contents, entries, never, new_disk

from cortex_core.models.tree import Version

BIG = SMALL | {"big.bin": bytes(range(256)) * 4096, "deep/er/file": b""}
OTHER = SMALL | {"model.bin": b"another content"}


class Place:
    """A bucket whose version 7 was fetched and has another content now, and the folder it was fetched to."""

    def __init__(self, folder: Path) -> None:
        self.models = folder / "models"
        self.bucket = Bucket(folder / "bucket")
        self.expected: dict[tuple[str, str], dict[str, bytes]] = {}
        self.publish("iris", "7", SMALL)
        disk = new_disk(self.models)
        disk.fetch(self.bucket.wanted("iris", "7"), self.bucket.storage, never)
        disk.close()
        self.publish("iris", "7", OTHER)
        self.publish("iris", "8", BIG)
        self.publish("new", "1", SMALL)

    def publish(self, model: str, version: str, files: dict[str, bytes]) -> Version:
        published = self.bucket.write(model, version, files)
        self.expected[model, published.digest] = files
        return published

    def check(self) -> list[str]:
        """What a start finds; all of it is right, and there is nothing else."""
        lines: list[tuple[str, str]] = []
        disk = closed_disk(self.models, lines)
        found = disk.open()
        assert lines == [], "a kill damages nothing"
        assert sorted(path.name for path in self.models.iterdir()) == ["lock", "partial", "versions"]
        assert entries(self.models / "partial") == []
        homes = {path for model in (self.models / "versions").iterdir() for path in model.iterdir()}
        assert homes == {disk.directory(each.model, each.version).parent.parent for each in found}
        assert {path.parent for path in homes} == set((self.models / "versions").iterdir())
        for each in found:
            files = self.expected[each.model, each.version.digest]
            assert contents(disk.directory(each.model, each.version)) == files
        for model, version in (("iris", "7"), ("iris", "8")):  # and what is wanted can be had
            directory = disk.fetch(self.bucket.wanted(model, version), self.bucket.storage, never)
            assert contents(directory) == self.expected[model, self.bucket.version(model, version).digest]
        disk.close()
        return [f"{each.model} {each.version.name}" for each in found]


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    with running() as run:
        yield run


def steps(run: Run, folder: Path, work: str, *, every: int = 1, disorder: bool = False) -> list[list[str]]:
    """Do the work in a new place for each of every so many steps, killed before it; what was there after each."""
    found: list[list[str]] = []
    for number in range(0, 1000, every):
        place = Place(folder / str(number))
        if disorder:
            disturb(place)
        finished = run(work, place.models, place.bucket.root, step=number)
        found.append(place.check())
        if finished:
            return found
    raise AssertionError("it never ends")


def disturb(place: Place) -> None:
    partial = place.models / "partial" / "fetch-x" / "iris" / "8"
    partial.mkdir(parents=True)
    for number in range(3):
        (partial / f"{number}").write_bytes(b"half")
    (place.models / "versions" / "empty").mkdir()


def test_before_any_step_of_fetching_and_removing(tmp_path: Path, run: Run) -> None:
    found = steps(run, tmp_path, "change", every=3)
    assert len(found) > 30
    assert found[0] == ["iris 7"]
    assert found[-1] == ["iris 7", "iris 8", "new 1"]
    assert ["iris 7", "iris 8"] in found, "between the fetch and the removal"
    assert ["iris 8"] in found, "between the removal and the next fetch"


def test_before_every_step_of_a_start(tmp_path: Path, run: Run) -> None:
    found = steps(run, tmp_path, "start", disorder=True)
    assert len(found) > 5
    assert all(each == ["iris 7"] for each in found)


@pytest.mark.parametrize("seed", range(3))
def test_at_any_moment(tmp_path: Path, run: Run, seed: int) -> None:
    place = Place(tmp_path)
    moments = random.Random(seed)
    for _ in range(8):
        assert not run("churn", place.models, place.bucket.root, seconds=moments.uniform(0.005, 0.1))
        place.check()

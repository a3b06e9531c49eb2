"""Listing several locations at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.listings import entry

from cortex_core.errors import CortexError, StorageUnavailable
from cortex_core.models.listing import THREADS, list_locations
from cortex_core.storage import Entry, LocalStorage, Storage


class Listed(LocalStorage):
    """Answers a listing by a function."""

    url = "s3://bucket"

    def __init__(self, answer: Callable[[], list[Entry]]) -> None:
        super().__init__(Path("/nowhere"))
        self._answer = answer

    def list(self, prefix: str = "") -> Iterator[Entry]:  # the protocol's signature
        yield from self._answer()


def test_every_location_is_listed_by_itself_or_says_why_not() -> None:
    away = StorageUnavailable("away")

    def opened(location: str) -> Storage:
        if location == "ftp://a":
            raise CortexError("ftp://a: there is no storage of this kind")
        if location == "s3://b":
            return Listed(lambda: (_ for _ in ()).throw(away))  # type: ignore[arg-type,return-value]  # it never answers
        return Listed(lambda: [entry(location)])

    found = list_locations(["s3://a", "ftp://a", "s3://b", "s3://a"], seconds=10, open_storage=opened)

    assert list(found) == ["s3://a", "ftp://a", "s3://b"]
    assert found["s3://a"] == [entry("s3://a")]
    assert str(found["ftp://a"]) == "ftp://a: there is no storage of this kind"
    assert found["s3://b"] is away


def test_they_are_listed_at_the_same_time() -> None:
    together = threading.Barrier(THREADS)

    def answer() -> list[Entry]:
        together.wait(10)
        return []

    found = list_locations(
        [f"s3://{number}" for number in range(THREADS)], seconds=10, open_storage=lambda _: Listed(answer)
    )

    assert set(map(str, found.values())) == {"[]"}


def test_one_that_does_not_answer_does_not_hold_up_the_others() -> None:
    over = threading.Event()

    def hanging() -> list[Entry]:
        over.wait(10)
        return []

    found = list_locations(
        ["s3://a", "s3://b"],
        seconds=0.1,
        open_storage=lambda location: Listed(hanging if location == "s3://a" else lambda: [entry("1/x")]),
    )
    over.set()

    assert isinstance(found["s3://a"], StorageUnavailable)
    assert str(found["s3://a"]) == "s3://a did not answer within 0.1 seconds"
    assert found["s3://b"] == [entry("1/x")]


def test_a_defect_is_not_hidden() -> None:
    def broken(_: str) -> Storage:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list_locations(["s3://a"], seconds=10, open_storage=broken)


def test_folders(tmp_path: Path) -> None:
    (tmp_path / "models" / "1").mkdir(parents=True)
    (tmp_path / "models" / "1" / "a b.pkl").write_text("x")
    (tmp_path / "file").write_text("x")
    models, file, nothing = (str(tmp_path / name) for name in ("models", "file", "nothing"))

    found = list_locations([models, f"file://{models}/", file, nothing], seconds=10)

    assert [[each.key for each in found[name]] for name in (models, f"file://{models}/")] == [
        ["1/a b.pkl"]
    ] * 2  # type: ignore[union-attr]  # no errors
    assert str(found[file]) == f"{file} is a file, not a directory"
    assert found[nothing] == []

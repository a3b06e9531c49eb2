"""No room: the limit on the size of a file stands for a full disk, both fail in the middle of a write."""

from __future__ import annotations

import io
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from cortex_core.archive import digest_of, extract, pack
from cortex_core.errors import CortexError
from cortex_core.project import scan
from cortex_core.storage import LocalStorage

CONTENT = os.urandom(2 * 1024 * 1024)


@pytest.fixture
def full_disk() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024 * 1024, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def archive(tmp_path: Path) -> bytes:
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "a.txt").write_bytes(b"fits")
    (tmp_path / "project" / "b.bin").write_bytes(CONTENT)
    packed = io.BytesIO()
    pack(scan(tmp_path / "project", "cortex.yaml"), packed)
    return packed.getvalue()


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    storage = LocalStorage(tmp_path / "bucket")
    storage.write("a", b"old")
    return storage


def test_nothing_is_left_of_an_extraction(archive: bytes, tmp_path: Path, full_disk: None) -> None:
    with pytest.raises(CortexError, match="b could not be written: File too large"):
        extract(io.BytesIO(archive), tmp_path / "new" / "b")
    assert [path.name for path in (tmp_path / "new").iterdir() if path.suffix != ".lock"] == []


def test_it_can_be_repeated(archive: bytes, tmp_path: Path) -> None:
    extract(io.BytesIO(archive), tmp_path / "new" / "b")
    assert digest_of(tmp_path / "new" / "b") == digest_of(tmp_path / "project")


def test_what_was_stored_stays(storage: LocalStorage, tmp_path: Path, full_disk: None) -> None:
    with pytest.raises(CortexError, match="'a' cannot be read or written: File too large"):
        storage.write("a", CONTENT)
    assert storage.read("a") == b"old"
    assert [path.name for path in (tmp_path / "bucket").rglob("*")] == [".unfinished", "a"]


def test_what_was_downloaded_stays(storage: LocalStorage, tmp_path: Path) -> None:
    storage.write("b", CONTENT)
    (tmp_path / "to").write_bytes(b"old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024 * 1024, before[1]))
    try:
        with pytest.raises(CortexError, match="'b' cannot be read or written: File too large"):
            storage.download("b", tmp_path / "to")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (tmp_path / "to").read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bucket", "to"]

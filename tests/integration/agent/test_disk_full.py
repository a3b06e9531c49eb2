"""A disk that is really full: a file system of a few MiB."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from support.stored_models import SMALL, Bucket, contents, entries, never, new_disk

from cortex_serve.agent.disk import FetchFailed

MIB = 1024 * 1024


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A folder with room for 4 MiB and 60 files."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m,nr_inodes=60", "cortex-test", place],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    if mounted.returncode != 0:
        pytest.skip(f"NOT TESTED: a full disk; mounting a file system needs root: {mounted.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", place], timeout=30, check=True)


@pytest.fixture
def bucket(tmp_path: Path) -> Bucket:
    return Bucket(tmp_path / "bucket")


def test_too_little_room_is_seen_before(small: Path, bucket: Bucket) -> None:
    bucket.write("iris", "7", {"model.bin": bytes(3 * MIB)})
    disk = new_disk(small / "models", reserve=2 * MIB)
    with pytest.raises(
        FetchFailed, match=r"no room on the disk for it: 5\.2 MB must be free, 4\.2 MB are"
    ) as caught:
        disk.fetch(bucket.wanted("iris", "7"), bucket.storage, never)
    assert caught.value.transient
    assert entries(small / "models") == ["lock", "partial", "versions"]


@pytest.mark.parametrize(
    "files",
    [
        {"a": bytes(MIB), "b": bytes(6 * MIB), "c/d": bytes(MIB)},
        {f"{number}": b"x" for number in range(100)},
        {f"{number}/{number}": b"x" for number in range(100)},
    ],
    ids=["bytes", "files", "folders"],
)
def test_a_disk_that_fills_up_meanwhile(small: Path, bucket: Bucket, files: dict[str, bytes]) -> None:
    """Others write there too, so what was free before is not what is free now."""
    bucket.write("iris", "6")
    bucket.write("iris", "7", files)
    disk = new_disk(small / "models", free=lambda folder: 10**9, reserve=0)
    serving = disk.fetch(bucket.wanted("iris", "6"), bucket.storage, never)
    before = entries(small)
    for _ in range(3):
        with pytest.raises(FetchFailed, match="there is no room on the disk for it: ") as caught:
            disk.fetch(bucket.wanted("iris", "7"), bucket.storage, never)
        assert caught.value.transient
        assert entries(small) == before
    assert contents(serving) == SMALL
    bucket.write("iris", "8", {"model.bin": bytes(3 * MIB)})
    disk.fetch(bucket.wanted("iris", "8"), bucket.storage, never)


def fill(folder: Path) -> None:
    """Until neither a file fits nor a byte into one that is there."""
    with suppress(OSError):
        for number in range(1000):
            (folder / f"{number}").mkdir(exist_ok=True)
    with suppress(OSError), (folder.parent.parent.parent / "big").open("ab", buffering=0) as file:
        while True:
            file.write(bytes(65536))


def test_a_start_and_a_removal_need_no_room(small: Path, bucket: Bucket) -> None:
    bucket.write("iris", "7")
    bucket.write("iris", "8")
    (small / "big").write_bytes(b"")
    disk = new_disk(small / "models", reserve=0)
    for version in ("7", "8"):
        disk.fetch(bucket.wanted("iris", version), bucket.storage, never)
    (small / "models/partial/fetch-x").mkdir()
    fill(small / "models/partial/fetch-x")
    with pytest.raises(OSError, match="No space left"):
        (small / "another").mkdir()
    disk.remove(bucket.stored("iris", "8"))
    fill(small / "models/partial/fetch-x")
    disk.close()
    again = new_disk(small / "models", reserve=0)
    assert entries(small / "models/partial") == []
    again.remove(bucket.stored("iris", "7"))
    assert entries(small / "models") == ["lock", "partial", "versions"]

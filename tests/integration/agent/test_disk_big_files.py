"""A big file takes room on the disk, not in memory; whichever way the kernel lets it be copied."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from threading import Event, Thread

import pytest
from support.stored_models import Bucket, never, new_disk

MIB = 1024 * 1024
SIZE = 128 * MIB
ALLOWED = 32 * MIB


@pytest.fixture(params=["the same", "another"])
def bucket(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bucket]:
    """On this or that file system; between two of them the kernel does not copy by itself."""
    if request.param == "the same":
        yield Bucket(tmp_path / "bucket")
    else:
        with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
            yield Bucket(Path(folder))


def test_a_big_file_is_not_held_in_memory(tmp_path: Path, bucket: Bucket) -> None:
    bucket.write("iris", "7", {"big": b"begins"})
    with (bucket.root / "iris/7/big").open("r+b") as file:
        file.truncate(SIZE)  # with a hole, which takes no room here
        file.seek(-4, os.SEEK_END)
        file.write(b"ends")
    disk = new_disk(tmp_path / "models")
    wanted = bucket.wanted("iris", "7")
    before = resident()
    sizes = [before]
    over = Event()

    def watch() -> None:
        while not over.wait(0.002):
            sizes.append(resident())

    watching = Thread(target=watch)
    watching.start()
    try:
        directory = disk.fetch(wanted, bucket.storage, never)
    finally:
        over.set()
        watching.join()
    assert len(sizes) > 5
    assert max(sizes) - before < ALLOWED
    with (directory / "big").open("rb") as file:
        assert file.read(8) == b"begins\0\0"
        file.seek(-6, os.SEEK_END)
        assert file.read() == b"\0\0ends"
        assert file.tell() == SIZE


def resident() -> int:
    """Bytes of memory that this process takes now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

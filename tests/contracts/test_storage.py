"""What every storage does; a new one joins by a name in `storage`."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.buckets import new_bucket, use_endpoint

from cortex_core.errors import Changed, CortexError, NotFound, StorageUnavailable
from cortex_core.storage import LocalStorage, Storage, open_storage
from cortex_core.storage.files import explained
from cortex_core.storage.protocol import Stopped

IMPLEMENTATIONS = ("path", "file", "s3", "s3 with a prefix")


@pytest.fixture(params=IMPLEMENTATIONS)
def storage(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Storage:
    if request.param == "path":
        return open_storage(str(tmp_path / "bucket"))
    if request.param == "file":
        return open_storage((tmp_path / "bucket with a space").as_uri())
    port = request.getfixturevalue("s3_port")
    use_endpoint(monkeypatch, port)
    bucket = new_bucket(port)
    return open_storage(f"s3://{bucket}" if request.param == "s3" else f"s3://{bucket}/é/models v1/")


def keys(storage: Storage, prefix: str = "") -> list[str]:
    return [entry.key for entry in storage.list(prefix)]


def test_what_is_written_is_read(storage: Storage) -> None:
    storage.write("projects/é x.tar.gz", b"\0content")
    assert storage.read("projects/é x.tar.gz") == b"\0content"
    assert storage.exists("projects/é x.tar.gz")


def test_an_empty_object(storage: Storage) -> None:
    storage.write("empty", b"")
    assert storage.read("empty") == b""
    assert [(entry.key, entry.size) for entry in storage.list()] == [("empty", 0)]


def test_writing_again_replaces(storage: Storage) -> None:
    storage.write("a", b"old and long")
    storage.write("a", b"new")
    assert storage.read("a") == b"new"


def test_reading_what_is_not_there(storage: Storage, tmp_path: Path) -> None:
    storage.write("a/b", b"")
    for key in ("c", "a", "a/c", "a/b/c"):
        assert not storage.exists(key)
        with pytest.raises(NotFound, match=f"there is no stored object '{key}'"):
            storage.read(key)
        with pytest.raises(NotFound):
            storage.download(key, tmp_path / "to")
    assert not (tmp_path / "to").exists()


def test_deleting(storage: Storage) -> None:
    storage.write("a/b/c", b"")
    storage.write("a/d", b"")
    storage.delete("a/b/c")
    assert keys(storage) == ["a/d"]
    for key in ("a/b/c", "a/b", "a", "a/d/e", "nothing"):
        storage.delete(key)
    assert keys(storage) == ["a/d"]


def test_a_key_is_free_for_any_use_once_what_was_below_it_is_deleted(storage: Storage) -> None:
    storage.write("a/b/c", b"")
    storage.delete("a/b/c")
    storage.write("a", b"")
    assert keys(storage) == ["a"]


def test_nothing_written_yet(storage: Storage) -> None:
    assert keys(storage) == []
    assert keys(storage, "a/b/") == []
    assert not storage.exists("a")
    storage.delete("a")


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [
        ("", ["a-b/c", "a/b/c", "a/bc/d", "b", "Ü"]),
        ("a", ["a-b/c", "a/b/c", "a/bc/d"]),
        ("a/", ["a/b/c", "a/bc/d"]),
        ("a/b", ["a/b/c", "a/bc/d"]),
        ("a/b/", ["a/b/c"]),
        ("a/bc/d", ["a/bc/d"]),
        ("Ü", ["Ü"]),
        ("c", []),
        ("c/d/", []),
    ],
)
def test_listing_by_prefix(storage: Storage, prefix: str, expected: list[str]) -> None:
    for key in ("b", "a/b/c", "Ü", "a-b/c", "a/bc/d"):
        storage.write(key, b"")
    assert keys(storage, prefix) == expected


def test_entries_tell_size_and_change(storage: Storage) -> None:
    storage.write("a", b"12345")
    [first] = storage.list()
    [again] = storage.list()
    assert first == again
    assert first.size == 5
    assert first.modified_ns > 10**18
    storage.write("a", b"54321")
    [second] = storage.list()
    assert second.etag != first.etag
    assert second.modified_ns >= first.modified_ns


def test_upload_and_download(storage: Storage, tmp_path: Path) -> None:
    (tmp_path / "from").write_bytes(b"x" * 1_000_000)
    (tmp_path / "to").write_bytes(b"old")
    storage.upload(tmp_path / "from", "a/b")
    storage.download("a/b", tmp_path / "to")
    assert (tmp_path / "to").read_bytes() == b"x" * 1_000_000
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["from", "to"]


def test_downloading_the_content_that_was_listed(storage: Storage, tmp_path: Path) -> None:
    storage.write("a", b"one")
    [listed] = storage.list()
    storage.download("a", tmp_path / "to", etag=listed.etag)
    assert (tmp_path / "to").read_bytes() == b"one"
    storage.write("a", b"two")
    with pytest.raises(Changed):
        storage.download("a", tmp_path / "to", etag=listed.etag)
    assert (tmp_path / "to").read_bytes() == b"one"
    storage.delete("a")
    with pytest.raises(NotFound):
        storage.download("a", tmp_path / "to", etag=listed.etag)
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["to"]


def test_a_download_that_is_not_wanted_any_more(storage: Storage, tmp_path: Path) -> None:
    storage.write("a", b"x" * 1_000_000)
    (tmp_path / "to").write_bytes(b"old")
    with pytest.raises(Stopped):
        storage.download("a", tmp_path / "to", stopped=lambda: True)
    assert (tmp_path / "to").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["to"]
    storage.download("a", tmp_path / "to", stopped=lambda: False)
    assert (tmp_path / "to").read_bytes() == b"x" * 1_000_000


def test_the_longest_name_a_file_can_have(storage: Storage, tmp_path: Path) -> None:
    name = "🌱" * 63
    storage.write(name, b"x")
    storage.download(name, tmp_path / name)
    assert (tmp_path / name).read_bytes() == b"x"


@pytest.mark.parametrize("key", ["a+b c", "100%", "%41", "a&b<c>'\"", "é/ü", "a=b?c#d", "~$@!*()"])
def test_unusual_keys(storage: Storage, key: str) -> None:
    storage.write(key, key.encode())
    assert keys(storage) == [key]
    assert keys(storage, key) == [key]
    assert storage.exists(key)
    assert storage.read(key) == key.encode()
    storage.delete(key)
    assert keys(storage) == []


def test_sweeping_leaves_objects(storage: Storage) -> None:
    storage.write("a", b"1")
    storage.sweep()
    assert storage.read("a") == b"1"


def test_what_is_written_object_by_object_is_not_sealed(storage: Storage) -> None:
    storage.write("a/7/b", b"1")
    storage.write("a/7/c/d", b"1")
    for prefix in ("a/7/", "a/", "", "nothing/"):
        assert not storage.sealed(prefix)
    with pytest.raises(CortexError):
        storage.sealed("../")


def test_uploading_what_is_not_there_changes_nothing(storage: Storage, tmp_path: Path) -> None:
    storage.write("a", b"1")
    with pytest.raises(CortexError, match="'a' cannot be read or written: No such file or directory"):
        storage.upload(tmp_path / "nowhere", "a")
    assert storage.read("a") == b"1"
    assert keys(storage) == ["a"]


@pytest.mark.parametrize(
    "key",
    ["", "/a", "..", "../a", "a/../../b", "a/..", "a//b", "a/", "./a", "a\0b", "a\nb", "\udcff", "a" * 2000],
)
def test_keys_that_lead_elsewhere_are_refused(storage: Storage, tmp_path: Path, key: str) -> None:
    uses: list[Callable[[], object]] = [
        lambda: storage.read(key),
        lambda: storage.write(key, b""),
        lambda: storage.download(key, tmp_path / "to"),
        lambda: storage.upload(Path(__file__), key),
        lambda: storage.delete(key),
        lambda: storage.exists(key),
    ]
    for use in uses:
        with pytest.raises(CortexError, match="cannot be the key of a stored object") as caught:
            use()
        assert not isinstance(caught.value, NotFound)


def test_listing_does_not_lead_out(storage: Storage, tmp_path: Path) -> None:
    (tmp_path / "outside").write_bytes(b"")
    storage.write("a", b"")
    for prefix in ("../", "/", "a/../../"):
        with pytest.raises(CortexError):
            keys(storage, prefix)


def test_a_reader_sees_the_old_or_the_new_content(storage: Storage) -> None:
    contents = [bytes([letter]) * 100_000 for letter in b"ab"]
    storage.write("a", contents[0])
    done = threading.Event()

    def read_until_done() -> int:
        reads = 0
        while not done.is_set() or reads < 10:
            assert storage.read("a") in contents
            assert [entry.size for entry in storage.list()] == [100_000]
            reads += 1
        return reads

    with ThreadPoolExecutor(1) as thread:
        reading = thread.submit(read_until_done)
        for number in range(50):
            storage.write("a", contents[number % 2])
        done.set()
        assert reading.result(timeout=30) >= 10


def test_many_write_and_delete_in_one_folder(storage: Storage) -> None:
    def use(number: int) -> None:
        for _ in range(20):
            storage.write(f"a/b/{number}", b"x")
            storage.delete(f"a/b/{number}")

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(use, range(4), timeout=60))
    assert keys(storage) == []


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("/data/bucket", "file:///data/bucket"),
        ("/data/bucket/", "file:///data/bucket"),
        ("file:///data/a%20b", "file:///data/a%20b"),
        ("file://localhost/data", "file:///data"),
        ("relative", Path("relative").absolute().as_uri()),
        ("s3://bucket", "s3://bucket"),
        ("s3://bucket/", "s3://bucket"),
        ("s3://bucket/models/a b/", "s3://bucket/models/a b"),
        ("~/models", Path("~/models").expanduser().as_uri()),
    ],
)
def test_urls(url: str, expected: str) -> None:
    assert open_storage(url).url == expected


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "the storage's URL is empty"),
        ("s3://", "s3:// does not name a bucket"),
        ("s3:///models", "s3:// does not name a bucket"),
        ("s3://user:password@bucket/models", "s3://bucket does not name a bucket"),
        ("gs://bucket", "gs://bucket: there is no storage of this kind"),
        ("file://host/data", "file://host/data is not the URL of a folder on this machine"),
        ("file://", "file:// is not the URL of a folder on this machine"),
        ("file:///a%00b", "file:///a%00b is not the URL of a folder on this machine"),
    ],
)
def test_urls_of_no_storage(url: str, message: str) -> None:
    with pytest.raises(CortexError) as caught:
        open_storage(url)
    assert caught.value.message == message
    assert caught.value.hint is not None


def test_a_local_storage_forgets_what_killed_writers_left(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    storage.write("a", b"1")
    (tmp_path / ".unfinished" / "left").write_bytes(b"half")
    assert keys(storage) == ["a"]
    storage.sweep()
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    with pytest.raises(CortexError, match="reserved"):
        storage.write(".unfinished/b", b"")


def test_a_local_storage_is_private_whatever_its_folder_holds(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path / "bucket")
    storage.write("a/b", b"1")
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "bucket").rglob("*")}
    assert modes == {"a": 0o700, "b": 0o600, ".unfinished": 0o700}


def test_a_local_storage_lists_links_to_files_but_not_folders(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    storage.write("a/b", b"12")
    (tmp_path / "link").symlink_to("a/b")
    (tmp_path / "folder").symlink_to("a")
    (tmp_path / "broken").symlink_to("nowhere")
    assert [(entry.key, entry.size) for entry in storage.list()] == [("a/b", 2), ("link", 2)]


def test_a_local_folder_that_was_renamed_into_place_is_sealed_until_something_in_it_changes(
    tmp_path: Path,
) -> None:
    storage = LocalStorage(tmp_path / "models")
    (tmp_path / "7" / "c").mkdir(parents=True)
    (tmp_path / "7" / "b").write_bytes(b"1")
    (tmp_path / "7" / "c" / "d").write_bytes(b"1")
    (tmp_path / "models").mkdir()
    pass_time(tmp_path)
    (tmp_path / "7").rename(tmp_path / "models" / "7")
    folder = tmp_path / "models" / "7"
    changes: list[Callable[[], object]] = [
        lambda: (folder / "b").write_bytes(b"2"),
        lambda: (folder / "c" / "d").write_bytes(b"2"),
        lambda: (folder / "e").write_bytes(b"2"),
        lambda: (folder / "c" / "e").write_bytes(b"2"),
        lambda: (folder / "c" / "e").unlink(),
    ]
    for change in changes:
        assert storage.sealed("7/")
        pass_time(tmp_path)
        change()
        assert not storage.sealed("7/")
        pass_time(tmp_path)
        folder.rename(tmp_path / "7")
        (tmp_path / "7").rename(folder)


def pass_time(folder: Path) -> None:
    """Until the file system's clock ticks, which it does every few milliseconds."""
    (folder / "clock").write_bytes(b"")
    first = (folder / "clock").stat().st_mtime_ns
    while (folder / "clock").stat().st_mtime_ns == first:
        (folder / "clock").write_bytes(b"1")


def test_a_local_storage_lists_keys_that_it_cannot_use(tmp_path: Path) -> None:
    (tmp_path / "a\\b").write_bytes(b"1")
    (tmp_path / "c\nd").write_bytes(b"1")
    storage = LocalStorage(tmp_path)
    assert keys(storage) == ["a\\b", "c\nd"]
    for key in keys(storage):
        with pytest.raises(CortexError, match="cannot be the key of a stored object"):
            storage.download(key, tmp_path / "to")


def test_a_local_folder_that_cannot_be_read_is_an_error_not_a_folder_without_files(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path / "models")
    storage.write("a/b", b"1")
    (tmp_path / "models" / "loop").symlink_to("loop")
    deep = tmp_path / "models"
    descriptor = os.open(deep, os.O_RDONLY)
    try:
        for _ in range(20):  # a path that is too long to be opened by its name
            os.mkdir("d" * 250, dir_fd=descriptor)
            inner = os.open("d" * 250, os.O_RDONLY, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = inner
    finally:
        os.close(descriptor)
    with pytest.raises(CortexError, match="models cannot be listed: File name too long"):
        keys(storage)
    assert keys(storage, "a/") == ["a/b"]


def test_a_local_key_that_is_a_folder_cannot_be_written(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    storage.write("a/b", b"1")
    for key in ("a", "a/b/c"):
        with pytest.raises(CortexError, match=f"'{key}' cannot be read or written") as caught:
            storage.write(key, b"2")
        assert not isinstance(caught.value, NotFound)
    assert storage.read("a/b") == b"1"
    assert list((tmp_path / ".unfinished").iterdir()) == []


def test_a_local_file_written_in_place_has_another_etag_even_with_its_old_time(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    storage.write("a", b"one")
    status = (tmp_path / "a").stat()
    [listed] = storage.list()
    while next(iter(storage.list())).etag == listed.etag:  # the kernel's clock ticks every few milliseconds
        (tmp_path / "a").write_bytes(b"two")
        os.utime(tmp_path / "a", ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(Changed):
        storage.download("a", tmp_path / "to", etag=listed.etag)


@pytest.mark.parametrize(
    ("number", "transient"), [("EIO", True), ("ESTALE", True), ("ENOSPC", True), ("EACCES", False)]
)
def test_errors_of_the_operating_system_say_whether_they_pass(number: str, transient: bool) -> None:
    code = getattr(errno, number)
    with pytest.raises(CortexError, match="'a/b' cannot be read or written: ") as caught, explained("a/b"):
        raise OSError(code, os.strerror(code))
    assert isinstance(caught.value, StorageUnavailable) == transient

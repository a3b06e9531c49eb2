"""The models folder: what is in it is whole, whatever was there before."""

from __future__ import annotations

import errno
import hashlib
from pathlib import Path
from threading import Barrier, Event, Thread

import pytest
from support.stored_models import SMALL, Altered, Bucket, closed_disk, contents, entries, never, new_disk

from cortex_core.errors import CortexError, NotFound, StorageRefused, StorageUnavailable
from cortex_core.models.manifest import Manifest, ManifestFile
from cortex_core.models.tree import DEFAULT_MODEL
from cortex_core.storage.protocol import Stopped
from cortex_serve.agent.disk import FetchFailed, StoredVersion, Wanted

MIB = 1024 * 1024


@pytest.fixture
def bucket(tmp_path: Path) -> Bucket:
    return Bucket(tmp_path / "bucket")


def manifest_of(files: dict[str, bytes]) -> Manifest:
    return Manifest(
        files={
            path: ManifestFile(size=len(content), sha256=hashlib.sha256(content).hexdigest())
            for path, content in files.items()
        }
    )


def test_a_fetched_version_is_where_people_s_code_expects_it(tmp_path: Path, bucket: Bucket) -> None:
    version = bucket.write("iris", "007")
    disk = new_disk(tmp_path / "models")
    directory = disk.fetch(bucket.wanted("iris", "007"), bucket.storage, never)
    place = f"versions/iris/007@{version.digest[:16]}"
    assert directory == tmp_path / "models" / place / "iris" / "007"
    assert directory == disk.directory("iris", version)
    assert contents(directory) == SMALL
    assert entries(tmp_path / "models" / "partial") == []


def test_the_model_of_path_has_the_name_people_call_it(tmp_path: Path) -> None:
    (tmp_path / "bucket").mkdir()
    bucket = Bucket(tmp_path / "bucket")
    version = bucket.write("x", "1")
    disk = new_disk(tmp_path / "models")
    wanted = Wanted(serial=1, model=DEFAULT_MODEL, location=str(bucket.root), version=version)
    assert disk.fetch(wanted, bucket.storage, never).parts[-2:] == ("iris-api", "1")
    disk.close()
    assert [stored.model for stored in closed_disk(tmp_path / "models").open()] == [DEFAULT_MODEL]


def test_a_version_that_is_there_is_not_fetched_again(tmp_path: Path, bucket: Bucket) -> None:
    bucket.write("iris", "7")
    disk = new_disk(tmp_path / "models")
    wanted = bucket.wanted("iris", "7")
    directory = disk.fetch(wanted, bucket.storage, never)

    def forbidden(key: str, to: Path, **options: object) -> None:
        raise AssertionError("it is there already")

    assert disk.fetch(wanted, Altered(bucket.storage, forbidden), never) == directory


def test_what_is_there_outlives_the_process(tmp_path: Path, bucket: Bucket) -> None:
    for model, version in (("b", "10"), ("b", "9"), ("a", "1")):
        bucket.write(model, version)
    first = new_disk(tmp_path / "models")
    for model, version in (("b", "10"), ("b", "9"), ("a", "1")):
        first.fetch(bucket.wanted(model, version), bucket.storage, never)
    first.close()
    found = closed_disk(tmp_path / "models").open()
    assert found == [bucket.stored("a", "1"), bucket.stored("b", "9"), bucket.stored("b", "10")]


def test_another_content_of_a_version_lies_beside_it(tmp_path: Path, bucket: Bucket) -> None:
    bucket.write("iris", "7")
    disk = new_disk(tmp_path / "models")
    before = disk.fetch(bucket.wanted("iris", "7"), bucket.storage, never)
    bucket.write("iris", "7", {"model.bin": b"other"})
    after = disk.fetch(bucket.wanted("iris", "7", serial=2), bucket.storage, never)
    assert contents(before) == SMALL
    assert contents(after) == SMALL | {"model.bin": b"other"}


@pytest.mark.parametrize(
    "name",
    [
        ".hidden",
        "é" * 127,
        "模型",
        "🌱" * 63 + "ab",
        "a b",
        "-rf",
        "7",
        "~",
        "%2e",
        "lock",
        "partial",
        "@",
        "x" * 255,
    ],
)
def test_any_name_a_directory_can_have(tmp_path: Path, bucket: Bucket, name: str) -> None:
    files = {f"{name[:60]}/{name}": b"x"}
    bucket.write(name, "9" * 128, files)
    disk = new_disk(tmp_path / "models")
    directory = disk.fetch(bucket.wanted(name, "9" * 128), bucket.storage, never)
    assert directory.parts[-2:] == (name, "9" * 128)
    assert contents(directory) == files
    disk.close()
    again = closed_disk(tmp_path / "models")
    [stored] = again.open()
    assert stored == bucket.stored(name, "9" * 128)
    again.remove(stored)
    assert entries(tmp_path / "models" / "versions") == []


def test_names_in_an_api_file_may_be_longer_than_a_folder_s(tmp_path: Path, bucket: Bucket) -> None:
    version = bucket.write("x", "1")
    disk = new_disk(tmp_path / "models")
    names = ("long-" * 100 + "a", "long-" * 100 + "b")
    fetched = [
        disk.fetch(Wanted(serial=1, model=name, location="", version=version), bucket.storage, never)
        for name in names
    ]
    assert fetched[0] != fetched[1]
    disk.close()
    assert [stored.model for stored in closed_disk(tmp_path / "models").open()] == list(names)


def test_files_that_cannot_lie_beside_each_other_are_an_error(tmp_path: Path, bucket: Bucket) -> None:
    version = bucket.write("iris", "7", {"a": b"1", "b": b"2"})
    disk = new_disk(tmp_path / "models")
    files = (version.files[0], type(version.files[0])(path="a/b", size=1, etag="", modified_ns=1))
    broken = type(version)(name="7", prefix=version.prefix, files=files, digest=version.digest)
    wanted = Wanted(serial=1, model="iris", location=str(bucket.root), version=broken)
    with pytest.raises(FetchFailed):
        disk.fetch(wanted, bucket.storage, never)
    assert entries(tmp_path / "models") == ["lock", "partial", "versions"]


class TestFailures:
    def fails(self, tmp_path: Path, bucket: Bucket, error: BaseException) -> FetchFailed:
        bucket.write("iris", "7")
        disk = new_disk(tmp_path / "models")

        def download(key: str, to: Path, **options: object) -> None:
            if key.endswith("words.txt"):
                raise error
            bucket.storage.download(key, to)

        with pytest.raises(FetchFailed) as caught:
            disk.fetch(bucket.wanted("iris", "7"), Altered(bucket.storage, download), never)
        assert entries(tmp_path / "models") == ["lock", "partial", "versions"]
        return caught.value

    @pytest.mark.parametrize("kind", [StorageUnavailable, StorageRefused, NotFound, CortexError])
    def test_what_the_storage_says_is_what_people_read(
        self, tmp_path: Path, bucket: Bucket, kind: type[CortexError]
    ) -> None:
        failure = self.fails(tmp_path, bucket, kind("the network is gone", hint="wait"))
        assert (failure.message, failure.hint) == ("the network is gone", "wait")
        assert failure.transient
        assert not failure.corrupt

    def test_the_operating_system_s_errors_are_explained(self, tmp_path: Path, bucket: Bucket) -> None:
        failure = self.fails(tmp_path, bucket, OSError(errno.EIO, "Input/output error"))
        assert failure.message == f"{tmp_path / 'models'} cannot be written: Input/output error"
        assert failure.transient

    def test_a_disk_that_fills_up_meanwhile(self, tmp_path: Path, bucket: Bucket) -> None:
        error = StorageUnavailable("the stored object cannot be written: No space left on device")
        error.__cause__ = OSError(errno.ENOSPC, "No space left on device")
        failure = self.fails(tmp_path, bucket, error)
        assert failure.message.startswith("there is no room on the disk for it: 67.1 MB must be free, ")
        assert failure.transient

    def test_a_defect_is_not_hidden(self, tmp_path: Path, bucket: Bucket) -> None:
        bucket.write("iris", "7")
        disk = new_disk(tmp_path / "models")

        def download(key: str, to: Path, **options: object) -> None:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            disk.fetch(bucket.wanted("iris", "7"), Altered(bucket.storage, download), never)
        assert entries(tmp_path / "models") == ["lock", "partial", "versions"]

    def test_a_file_that_changed_since_it_was_listed(self, tmp_path: Path, bucket: Bucket) -> None:
        bucket.write("iris", "7")
        wanted = bucket.wanted("iris", "7")
        bucket.write("iris", "7", {"config.json": b"[]"})
        disk = new_disk(tmp_path / "models")
        with pytest.raises(FetchFailed, match=r"'iris/7/config.json' is not what it was any more") as caught:
            disk.fetch(wanted, bucket.storage, never)
        assert caught.value.transient
        assert entries(tmp_path / "models") == ["lock", "partial", "versions"]

    def test_a_file_of_another_size_than_listed(self, tmp_path: Path, bucket: Bucket) -> None:
        bucket.write("iris", "7")
        disk = new_disk(tmp_path / "models")

        def download(key: str, to: Path, **options: object) -> None:
            bucket.storage.download(key, to)
            if key.endswith("model.bin"):
                to.write_bytes(b"short")

        with pytest.raises(FetchFailed, match=r"'model.bin' was listed with 7 bytes, but 5 came") as caught:
            disk.fetch(bucket.wanted("iris", "7"), Altered(bucket.storage, download), never)
        assert caught.value.transient

    def test_nothing_more_begins_once_a_file_has_failed(self, tmp_path: Path, bucket: Bucket) -> None:
        bucket.write("iris", "7", {f"{number:03}": b"x" for number in range(200)})
        disk = new_disk(tmp_path / "models")
        asked = []

        def download(key: str, to: Path, **options: object) -> None:
            asked.append(key)
            raise StorageUnavailable("away")

        with pytest.raises(FetchFailed, match="away"):
            disk.fetch(bucket.wanted("iris", "7"), Altered(bucket.storage, download), never)
        assert len(asked) < 20


class TestManifest:
    def test_what_it_says_is_checked(self, tmp_path: Path, bucket: Bucket) -> None:
        bucket.write("iris", "7")
        wanted = bucket.wanted("iris", "7", manifest=manifest_of(SMALL))
        assert contents(new_disk(tmp_path / "models").fetch(wanted, bucket.storage, never)) == SMALL

    def test_a_file_it_does_not_name_is_not(self, tmp_path: Path, bucket: Bucket) -> None:
        files = SMALL | {"cortex-manifest.json": b"{}"}
        bucket.write("iris", "7", files)
        wanted = bucket.wanted("iris", "7", manifest=manifest_of(SMALL))
        assert contents(new_disk(tmp_path / "models").fetch(wanted, bucket.storage, never)) == files

    def test_another_content_is_refused(self, tmp_path: Path, bucket: Bucket) -> None:
        bucket.write("iris", "7")
        wanted = bucket.wanted("iris", "7", manifest=manifest_of(SMALL | {"model.bin": b"Weights"}))
        digest = hashlib.sha256(b"weights").hexdigest()
        with pytest.raises(FetchFailed) as caught:
            new_disk(tmp_path / "models").fetch(wanted, bucket.storage, never)
        assert caught.value.message == (
            f"the content of 'model.bin' is not what the manifest says: its SHA-256 is {digest}"
        )
        assert caught.value.corrupt
        assert not caught.value.transient
        assert entries(tmp_path / "models") == ["lock", "partial", "versions"]


class TestStopping:
    def test_between_files(self, tmp_path: Path, bucket: Bucket) -> None:
        bucket.write("iris", "7", {f"{number:03}": b"x" for number in range(100)})
        disk = new_disk(tmp_path / "models")
        fetched: list[str] = []

        def download(key: str, to: Path, **options: object) -> None:
            bucket.storage.download(key, to)
            fetched.append(key)

        with pytest.raises(Stopped):
            disk.fetch(
                bucket.wanted("iris", "7"), Altered(bucket.storage, download), lambda: len(fetched) >= 10
            )
        assert len(fetched) < 20
        assert entries(tmp_path / "models") == ["lock", "partial", "versions"]

    def test_in_a_big_file(self, tmp_path: Path, bucket: Bucket) -> None:
        bucket.write("iris", "7", {"big": bytes(1)})
        with (bucket.root / "iris/7/big").open("r+b") as file:
            file.truncate(256 * MIB)  # a hole: it would take a while to copy
        disk = new_disk(tmp_path / "models")
        asked = []

        def stopped() -> bool:
            asked.append(True)
            return len(asked) > 3

        with pytest.raises(Stopped):
            disk.fetch(bucket.wanted("iris", "7"), bucket.storage, stopped)
        assert entries(tmp_path / "models") == ["lock", "partial", "versions"]


class TestRoom:
    def test_is_asked_for_before_anything_is_fetched(self, tmp_path: Path, bucket: Bucket) -> None:
        bucket.write("iris", "7", {"a": bytes(3 * MIB), "b": bytes(2 * MIB)})
        disk = new_disk(tmp_path / "models", free=lambda folder: 69 * MIB - 1)

        def forbidden(key: str, to: Path, **options: object) -> None:
            raise AssertionError("there is no room for it")

        with pytest.raises(FetchFailed) as caught:
            disk.fetch(bucket.wanted("iris", "7"), Altered(bucket.storage, forbidden), never)
        assert caught.value.message == (
            f"there is no room on the disk for it: 72.4 MB must be free, 72.4 MB are ({tmp_path / 'models'})"
        )
        assert caught.value.transient
        assert entries(tmp_path / "models") == ["lock", "partial", "versions"]

    def test_enough_is_enough(self, tmp_path: Path, bucket: Bucket) -> None:
        bucket.write("iris", "7", {"a": bytes(5 * MIB)})
        disk = new_disk(tmp_path / "models", free=lambda folder: 69 * MIB)
        disk.fetch(bucket.wanted("iris", "7"), bucket.storage, never)

    def test_what_others_are_going_to_write_is_not_free(self, tmp_path: Path, bucket: Bucket) -> None:
        bucket.write("iris", "7", {"a": bytes(5 * MIB)})
        bucket.write("iris", "8", {"a": bytes(5 * MIB)})
        disk = new_disk(tmp_path / "models", free=lambda folder: 73 * MIB)
        failures = []

        def download(key: str, to: Path, **options: object) -> None:
            with pytest.raises(FetchFailed) as caught:
                disk.fetch(bucket.wanted("iris", "8"), bucket.storage, never)
            failures.append(caught.value.message)
            bucket.storage.download(key, to)
            disk.fetch(
                bucket.wanted("iris", "8"), bucket.storage, never
            )  # now it is only what is free that counts

        disk.fetch(bucket.wanted("iris", "7"), Altered(bucket.storage, download), never)
        assert [message.partition(" (")[0] for message in failures] == [
            "there is no room on the disk for it: 77.6 MB must be free, 76.5 MB are"
        ]


class TestOpening:
    def test_what_killed_processes_left_is_removed(self, tmp_path: Path, bucket: Bucket) -> None:
        bucket.write("iris", "7")
        disk = new_disk(tmp_path / "models")
        disk.fetch(bucket.wanted("iris", "7"), bucket.storage, never)
        disk.close()
        (tmp_path / "models/partial/fetch-1/iris/8").mkdir(parents=True)
        (tmp_path / "models/partial/fetch-1/iris/8/model.bin").write_bytes(b"half")
        (tmp_path / "models/partial/file").write_bytes(b"")
        (tmp_path / "models/partial/link").symlink_to(tmp_path)
        (tmp_path / "models/versions/empty").mkdir()
        lines: list[tuple[str, str]] = []
        assert closed_disk(tmp_path / "models", lines).open() == [bucket.stored("iris", "7")]
        assert entries(tmp_path / "models/partial") == []
        assert [path.name for path in (tmp_path / "models/versions").iterdir()] == ["iris"]
        assert (tmp_path / "bucket").exists()
        assert lines == []

    @pytest.mark.parametrize(
        "damage",
        [
            "longer",
            "shorter",
            "gone",
            "link",
            "folder",
            "no version.json",
            "half version.json",
            "other place",
        ],
    )
    def test_what_is_damaged_is_removed(self, tmp_path: Path, bucket: Bucket, damage: str) -> None:
        for version in ("7", "8"):
            bucket.write("iris", version)
        disk = new_disk(tmp_path / "models")
        directory = disk.fetch(bucket.wanted("iris", "7"), bucket.storage, never)
        disk.fetch(bucket.wanted("iris", "8"), bucket.storage, never)
        disk.close()
        home = directory.parent.parent
        model, note = directory / "model.bin", home / "version.json"
        match damage:
            case "longer":
                model.write_bytes(SMALL["model.bin"] + b"x")
            case "shorter":
                model.write_bytes(SMALL["model.bin"][:-1])
            case "gone":
                model.unlink()
            case "link":
                model.unlink()
                model.symlink_to(bucket.root / "iris/7/model.bin")
            case "folder":
                model.unlink()
                model.mkdir()
            case "no version.json":
                note.unlink()
            case "half version.json":
                note.write_bytes(note.read_bytes()[:-20])
            case "other place":
                home = home.rename(home.parent / "9@0123456789abcdef")
        lines: list[tuple[str, str]] = []
        again = closed_disk(tmp_path / "models", lines)
        assert again.open() == [bucket.stored("iris", "8")]
        assert lines == [("WARNING", f"{home} is damaged and is removed")]
        assert entries(tmp_path / "models/partial") == []
        assert contents(again.fetch(bucket.wanted("iris", "7"), bucket.storage, never)) == SMALL

    def test_what_is_no_version_is_removed(self, tmp_path: Path, bucket: Bucket) -> None:
        versions = tmp_path / "models" / "versions"
        (versions / "iris" / "7@0123456789abcdef").mkdir(parents=True)
        (versions / "file").write_bytes(b"")
        (versions / "link").symlink_to(tmp_path)
        assert closed_disk(tmp_path / "models").open() == []
        assert entries(tmp_path / "models") == ["lock", "partial", "versions"]

    def test_files_that_people_s_code_added_do_no_harm(self, tmp_path: Path, bucket: Bucket) -> None:
        bucket.write("iris", "7")
        disk = new_disk(tmp_path / "models")
        (disk.fetch(bucket.wanted("iris", "7"), bucket.storage, never) / "compiled.cache").write_bytes(b"x")
        disk.close()
        assert closed_disk(tmp_path / "models").open() == [bucket.stored("iris", "7")]

    def test_a_folder_that_is_used_is_refused(self, tmp_path: Path) -> None:
        disk = new_disk(tmp_path / "models")
        with pytest.raises(CortexError) as caught:
            closed_disk(tmp_path / "models").open()
        assert caught.value.message == (
            f"the folder for copies of models is used by another replica that is running: {tmp_path / 'models'}"
        )
        disk.close()
        closed_disk(tmp_path / "models").open()

    def test_a_folder_that_cannot_be_made(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"")
        with pytest.raises(CortexError, match=r"cannot be used: .*/file/models: Not a directory"):
            closed_disk(tmp_path / "file" / "models").open()


class TestRemoving:
    def test_leaves_nothing(self, tmp_path: Path, bucket: Bucket) -> None:
        bucket.write("iris", "7")
        bucket.write("iris", "8")
        disk = new_disk(tmp_path / "models")
        for version in ("7", "8"):
            disk.fetch(bucket.wanted("iris", version), bucket.storage, never)
        disk.remove(bucket.stored("iris", "7"))
        assert contents(disk.directory("iris", bucket.version("iris", "8"))) == SMALL
        assert not disk.directory("iris", bucket.version("iris", "7")).exists()
        disk.remove(bucket.stored("iris", "8"))
        assert entries(tmp_path / "models") == ["lock", "partial", "versions"]

    def test_what_is_not_there_is_fine(self, tmp_path: Path, bucket: Bucket) -> None:
        bucket.write("iris", "7")
        lines: list[tuple[str, str]] = []
        new_disk(tmp_path / "models", lines).remove(bucket.stored("iris", "7"))
        assert lines == []

    def test_who_reads_goes_on_reading(self, tmp_path: Path, bucket: Bucket) -> None:
        bucket.write("iris", "7")
        disk = new_disk(tmp_path / "models")
        directory = disk.fetch(bucket.wanted("iris", "7"), bucket.storage, never)
        with (directory / "model.bin").open("rb", buffering=0) as file:
            assert file.read(3) == b"wei"
            disk.remove(bucket.stored("iris", "7"))
            assert file.read() == b"ghts"

    def test_the_same_can_be_fetched_again(self, tmp_path: Path, bucket: Bucket) -> None:
        bucket.write("iris", "7")
        disk = new_disk(tmp_path / "models")
        disk.fetch(bucket.wanted("iris", "7"), bucket.storage, never)
        disk.remove(bucket.stored("iris", "7"))
        assert contents(disk.fetch(bucket.wanted("iris", "7"), bucket.storage, never)) == SMALL

    def test_what_cannot_be_deleted_is_reported(self, tmp_path: Path, bucket: Bucket) -> None:
        bucket.write("iris", "7")
        lines: list[tuple[str, str]] = []
        disk = new_disk(tmp_path / "models", lines)
        home = disk.fetch(bucket.wanted("iris", "7"), bucket.storage, never).parent.parent
        (tmp_path / "models" / "partial").rename(tmp_path / "models" / "elsewhere")
        (tmp_path / "models" / "partial").write_bytes(b"no folder")
        disk.remove(bucket.stored("iris", "7"))
        assert lines == [("WARNING", f"{home} cannot be deleted: Not a directory")]


def test_many_at_once_on_one_folder(tmp_path: Path, bucket: Bucket) -> None:
    """The same content from two threads, others beside it, and removals that make their folders vanish."""
    names = [str(number) for number in range(6)]
    for name in names:
        bucket.write("iris", name)
    wanted = {name: bucket.wanted("iris", name) for name in names}
    disk = new_disk(tmp_path / "models")
    start = Barrier(2 * len(names))
    problems: list[BaseException] = []

    def work(name: str) -> None:
        stored = StoredVersion(model="iris", location=str(bucket.root), version=wanted[name].version)
        try:
            start.wait(10)
            for _ in range(5):
                disk.fetch(wanted[name], bucket.storage, never)
                disk.remove(stored)
        except BaseException as error:
            problems.append(error)

    threads = [Thread(target=work, args=(name,)) for name in names * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert problems == []
    assert entries(tmp_path / "models") == ["lock", "partial", "versions"]


def test_a_fetch_that_takes_long_says_how_far_it_is(tmp_path: Path, bucket: Bucket) -> None:
    bucket.write("iris", "7", {"a": bytes(3 * MIB), "b": bytes(MIB)})
    lines: list[tuple[str, str]] = []
    disk = new_disk(tmp_path / "models", lines, progress=0.01)
    said = Event()

    def download(key: str, to: Path, **options: object) -> None:
        bucket.storage.download(key, to)
        while not said.wait(0.01):
            if ("INFO", "model iris: version 7: 4.2 of 4.2 MB fetched") in lines:
                said.set()

    disk.fetch(bucket.wanted("iris", "7"), Altered(bucket.storage, download), never)
    assert said.is_set()


def test_a_fetch_that_is_quick_says_nothing(tmp_path: Path, bucket: Bucket) -> None:
    bucket.write("iris", "7")
    lines: list[tuple[str, str]] = []
    new_disk(tmp_path / "models", lines).fetch(bucket.wanted("iris", "7"), bucket.storage, never)
    assert lines == []

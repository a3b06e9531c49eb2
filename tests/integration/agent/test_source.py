"""Following locations: directories of this machine by their events, buckets by listing, each by itself."""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Condition, Event
from typing import Any

import pytest
from support.buckets import client, new_bucket, use_endpoint
from support.fault_proxy import Fault, fault_proxy
from support.s3_server import running_s3

from cortex_core.errors import CortexError, StorageUnavailable
from cortex_core.models.manifest import FILE
from cortex_core.models.settling import Settled
from cortex_core.models.tree import DEFAULT_MODEL
from cortex_core.spec.types import Model, Models
from cortex_core.storage import Entry, LocalStorage, Storage, open_storage
from cortex_serve.agent.disk import StoredVersion
from cortex_serve.agent.source import MOST_WATCHED, Source
from cortex_serve.agent.watching import Watch

WITHIN = 20.0
NEVER = 3600.0
"""A poll interval with which only events lead to a listing."""


class Followed:
    """A source and all that it told."""

    def __init__(self, models: Models, *, interval: float, **others: Any) -> None:
        self.told: list[Settled] = []
        self.lines: list[tuple[str, str]] = []
        self._news = Condition()
        self.source = Source(
            models, "python", changed=self._changed, report=self._report, poll_interval=interval, **others
        )

    def until(self, condition: Callable[[], bool], what: str) -> None:
        with self._news:
            assert self._news.wait_for(condition, WITHIN), (
                f"{what}; told last: {self.told[-1:]}, {self.lines}"
            )

    def until_there(self, *expected: str, model: str = DEFAULT_MODEL) -> Settled:
        """Until the model has exactly these versions."""
        self.until(
            lambda: bool(self.told) and versions(self.told[-1], model) == list(expected), f"{expected}"
        )
        return self.told[-1]

    def until_passes(self, count: int) -> None:
        """Until every location was listed so many times more."""
        wanted = [status.passes + count for status in self.source.locations()]
        until = time.monotonic() + WITHIN
        while any(
            status.passes < passes for status, passes in zip(self.source.locations(), wanted, strict=True)
        ):
            assert time.monotonic() < until, self.source.locations()
            time.sleep(0.01)

    def _changed(self, settled: Settled) -> None:
        with self._news:
            self.told.append(settled)
            self._news.notify_all()

    def _report(self, level: str, line: str) -> None:
        with self._news:
            self.lines.append((level, line))
            self._news.notify_all()


def versions(settled: Settled, model: str = DEFAULT_MODEL) -> list[str]:
    return [version.name for version in settled.models[model].versions] if model in settled.models else []


@contextmanager
def following(models: Models, *, interval: float = NEVER, **others: Any) -> Iterator[Followed]:
    followed = Followed(models, interval=interval, **others)
    followed.source.start()
    try:
        yield followed
    finally:
        followed.source.close()


def publish(root: Path, name: str, content: str = "1") -> None:
    """Write a version elsewhere and rename it into place."""
    folder = root.parent / f"{root.name}.{name}.partial"
    folder.mkdir(parents=True)
    (folder / "model").write_text(content)
    root.mkdir(exist_ok=True, parents=True)
    folder.rename(root / name)


@pytest.fixture(scope="module")
def s3_port() -> Iterator[int]:
    with running_s3() as port:
        yield port


def test_a_directory_that_comes_goes_and_comes_again_is_followed_by_its_events(tmp_path: Path) -> None:
    root = tmp_path / "not" / "yet" / "there"
    with following(Models(path=str(root))) as followed:
        followed.until(lambda: len(followed.told) == 1, "an empty place")
        publish(root, "1")
        followed.until_there("1")
        publish(root, "2")
        followed.until_there("1", "2")
        shutil.rmtree(root / "1")
        followed.until_there("2")
        (root / "2" / "model").write_text("2222")
        followed.until(
            lambda: followed.told[-1].models[DEFAULT_MODEL].latest.files[0].size == 4, "the new content"
        )
        root.rename(tmp_path / "away")
        publish(root, "3")
        followed.until_there("3")
        publish(root, "4")
        followed.until_there("3", "4")
        shutil.rmtree(tmp_path / "not")
        publish(root, "5")
        followed.until_there("5")
    assert followed.lines == []


def test_a_link_that_is_swapped_leads_to_another_directory(tmp_path: Path) -> None:
    for release in ("a", "b"):
        (tmp_path / "releases" / release).mkdir(parents=True)
    publish(tmp_path / "releases" / "a" / "iris", "1")
    publish(tmp_path / "releases" / "b" / "iris", "2")
    link = tmp_path / "iris"
    link.symlink_to("releases/a/iris")
    with following(Models(path=str(link))) as followed:
        followed.until_there("1")
        (tmp_path / "next").symlink_to("releases/b/iris")
        (tmp_path / "next").rename(link)
        followed.until_there("2")
        publish(tmp_path / "releases" / "b" / "iris", "3")
        followed.until_there("2", "3")


def test_models_of_a_dir_in_one_listing_a_pass(tmp_path: Path) -> None:
    for number in range(30):
        publish(tmp_path / "models" / f"m{number}", "1")
    with following(Models(dir=str(tmp_path / "models"))) as followed:
        followed.until(lambda: bool(followed.told) and len(followed.told[-1].models) == 30, "all models")
        publish(tmp_path / "models" / "m7", "2")
        followed.until_there("1", "2", model="m7")
        [status] = followed.source.locations()
        assert status.passes <= 8
        assert status.failing_since is None
        assert status.checked_at is not None
        assert abs(status.checked_at - time.time()) < WITHIN


def test_many_writes_are_not_as_many_listings(tmp_path: Path) -> None:
    publish(tmp_path / "iris", "1")
    with following(Models(path=str(tmp_path / "iris"))) as followed:
        followed.until_there("1")
        before = followed.source.locations()[0].passes
        began = time.monotonic()
        (tmp_path / "iris" / "2").mkdir()
        for number in range(3000):
            (tmp_path / "iris" / "2" / f"{number % 50}").write_bytes(b"x" * number)
        passes = followed.source.locations()[0].passes - before
        assert passes <= (time.monotonic() - began) / 0.01 + 1
        followed.until_there("1", "2")


def test_nothing_is_listed_while_nothing_happens(tmp_path: Path) -> None:
    publish(tmp_path / "iris", "1")
    with following(Models(path=str(tmp_path / "iris"))) as followed:
        followed.until_there("1")
        publish(tmp_path / "iris", "2")
        followed.until_there("1", "2")
        time.sleep(0.1)
        before = followed.source.locations()[0].passes
        time.sleep(0.3)
        assert followed.source.locations()[0].passes == before
        (tmp_path / "beside").write_bytes(b"")
        time.sleep(0.1)
        assert followed.source.locations()[0].passes == before


class Hanging(LocalStorage):
    """Answers nothing until it is let go."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.go = Event()
        self.calls = 0

    def list(self, prefix: str = "") -> Iterator[Entry]:
        self.calls += 1
        assert self.go.wait(WITHIN)
        return super().list(prefix)


def test_a_directory_that_hangs_holds_up_no_other(tmp_path: Path) -> None:
    publish(tmp_path / "a", "1")
    publish(tmp_path / "b", "1")
    hanging = Hanging(tmp_path / "a")
    models = Models(
        paths=(Model(name="a", path=str(hanging.root)), Model(name="b", path=str(tmp_path / "b")))
    )

    def opened(location: str) -> Storage:
        return hanging if location == str(hanging.root) else open_storage(location)

    with following(models, interval=0.05, open_storage=opened, local_seconds=0.2) as followed:
        followed.until(lambda: len(followed.lines) == 1, "a warning")
        assert followed.lines == [
            (
                "WARNING",
                f"models at {hanging.root}: not listed, so changes are not seen: "
                "its file system does not answer within 0.2 seconds",
            )
        ]
        before = followed.source.locations()[1].passes
        until = time.monotonic() + WITHIN
        while (status := followed.source.locations())[1].passes < before + 5:
            assert time.monotonic() < until
            time.sleep(0.01)
        assert status[0].error is not None
        assert status[0].failing_since is not None
        assert hanging.calls == 1
        assert followed.told == []
        hanging.go.set()
        followed.until_there("1", model="a")
        followed.until_there("1", model="b")
        assert followed.lines[1][1].startswith(f"models at {hanging.root}: listed again after ")


class OutOfWatches(Watch):
    def ensure(self) -> None:
        raise OSError(errno.ENOSPC, "inotify watch limit reached")


class Deaf(Watch):
    """As on a network folder that others change."""

    def ensure(self) -> None:
        pass


@pytest.mark.parametrize(
    ("watch", "why"),
    [(OutOfWatches, "inotify watch limit reached"), (Deaf, "the system does not announce changes there")],
)
def test_without_events_a_directory_is_listed_every_few_seconds_and_that_is_said_once(
    tmp_path: Path, watch: type[Watch], why: str
) -> None:
    publish(tmp_path / "iris", "1")
    with following(Models(path=str(tmp_path / "iris")), interval=0.1, open_watch=watch) as followed:
        followed.until_there("1")
        publish(tmp_path / "iris", "2")
        followed.until_there("1", "2")
        followed.until(lambda: bool(followed.lines), "a warning")
        publish(tmp_path / "iris", "3")
        followed.until_there("1", "2", "3")
        followed.until_passes(3)
    [(level, line)] = followed.lines
    assert level == "WARNING"
    assert line.startswith(f"models at {tmp_path / 'iris'}: changes are seen every 0.1 seconds only: {why}")


def test_more_directories_than_are_watched(tmp_path: Path) -> None:
    count = MOST_WATCHED + 2
    for number in range(count):
        publish(tmp_path / f"{number}", "1")
    models = Models(
        paths=tuple(Model(name=f"m{number}", path=str(tmp_path / f"{number}")) for number in range(count))
    )
    with following(models, interval=0.1) as followed:
        followed.until(lambda: bool(followed.told) and len(followed.told[-1].models) == count, "all models")
        publish(tmp_path / f"{count - 1}", "2")
        followed.until_there("1", "2", model=f"m{count - 1}")
    [(level, line)] = followed.lines
    assert level == "INFO"
    assert line.startswith(f"models: {count} local directories; all but the first {MOST_WATCHED}")


def test_what_was_there_before_is_told_although_the_storage_is_away(tmp_path: Path) -> None:
    publish(tmp_path / "iris", "1")
    location = str(tmp_path / "iris")
    with following(Models(path=location)) as followed:
        version = followed.until_there("1").models[DEFAULT_MODEL].latest

    class Away(LocalStorage):
        def list(self, prefix: str = "") -> Iterator[Entry]:
            raise StorageUnavailable("it is away")

    stored = StoredVersion(model=DEFAULT_MODEL, location=location, version=version)
    opened: dict[str, Any] = {"open_storage": lambda location: Away(Path(location))}
    with following(Models(path=location), previous=[stored], **opened) as followed:
        assert followed.until_there("1").is_complete
        assert followed.lines == [
            ("WARNING", f"models at {location}: not listed, so changes are not seen: it is away")
        ]
    with following(Models(path=location), interval=0.01, **opened) as followed:
        followed.until(lambda: bool(followed.lines), "a warning")
        time.sleep(0.2)
        assert followed.told == []
        assert len(followed.lines) == 1


def test_what_was_there_before_does_not_wait_for_a_storage_that_hangs(tmp_path: Path) -> None:
    publish(tmp_path / "iris", "1")
    location = str(tmp_path / "iris")
    with following(Models(path=location)) as followed:
        version = followed.until_there("1").models[DEFAULT_MODEL].latest
    hanging = Hanging(tmp_path / "iris")
    stored = StoredVersion(model=DEFAULT_MODEL, location=location, version=version)
    with following(
        Models(path=location), previous=[stored], open_storage=lambda _: hanging, patience=0.1
    ) as followed:
        assert followed.until_there("1").is_complete
        publish(tmp_path / "iris", "2")
        hanging.go.set()
        followed.until_there("1", "2")


def test_a_local_directory_that_cannot_be_read(tmp_path: Path) -> None:
    root = tmp_path / "loop"
    root.symlink_to("loop")
    with following(Models(path=str(root))) as followed:
        followed.until(lambda: bool(followed.lines), "a warning")
        assert followed.lines[0][1].endswith(f"{root} cannot be listed: Too many levels of symbolic links")


def test_a_location_without_a_storage_is_refused() -> None:
    with pytest.raises(CortexError, match="there is no storage of this kind"):
        Followed(Models(path="gs://bucket"), interval=1)


def test_a_manifest_settles_a_version_at_once(tmp_path: Path) -> None:
    root = tmp_path / "iris"
    content = b"123"
    told = {"files": {"model": {"size": 3, "sha256": hashlib.sha256(content).hexdigest()}}}
    (root / "7").mkdir(parents=True)
    (root / "7" / FILE).write_text(json.dumps(told))
    with following(Models(path=str(root))) as followed:
        followed.until(lambda: bool(followed.told), "the first listing")
        assert followed.told[-1].pending[0].why.endswith("names what is not there in this size: 'model'")
        (root / "7" / "model").write_bytes(content)
        settled = followed.until_there("7")
        assert settled.manifests[DEFAULT_MODEL, "7"].files["model"].size == 3
        (root / "7" / FILE).write_text("{")
        followed.until(lambda: bool(followed.told[-1].pending), "the bad manifest")
        assert "is not JSON" in followed.told[-1].pending[0].why
        assert versions(followed.told[-1]) == ["7"]


def test_a_bucket_is_listed_every_few_seconds_once_a_pass(
    s3_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = new_bucket(s3_port)
    s3 = client(s3_port)

    def put(key: str, content: bytes = b"1") -> None:
        s3.put_object(Bucket=bucket, Key=f"models/{key}", Body=content)

    for number in range(20):
        put(f"m{number}/1/model")
    with fault_proxy(s3_port) as proxy:
        use_endpoint(monkeypatch, proxy.port)
        with following(Models(dir=f"s3://{bucket}/models"), interval=0.2) as followed:
            followed.until_there("1", model="m0")
            put("m0/2/a")
            put("m0/2/b")
            assert len(followed.until_there("1", "2", model="m0").models["m0"].latest.files) == 2
            followed.until_passes(3)
            [status] = followed.source.locations()
            assert status.passes <= len(proxy.requests) <= status.passes + 1
            assert len(proxy.requests) == proxy.count("list-type=2")

            told = len(followed.told)
            proxy.add(Fault(times=10**6, answer=(403, "AccessDenied")))
            followed.until(lambda: len(followed.lines) == 1, "a warning")
            put("m0/3/model")
            assert followed.lines[0][0] == "WARNING"
            assert "access denied (AccessDenied) (grant ListObjectsV2 on this bucket)" in followed.lines[0][1]
            assert len(followed.told) == told
            proxy.clear()
            followed.until_there("1", "2", "3", model="m0")
            assert [level for level, _ in followed.lines] == ["WARNING", "INFO"]
            for number in range(20):
                s3.delete_object(Bucket=bucket, Key=f"models/m{number}/1/model")
            followed.until_there("2", "3", model="m0")
            followed.until(lambda: set(followed.told[-1].models) == {"m0"}, "the other models are gone")


def test_a_manifest_in_a_bucket_is_read_once_for_each_content(
    s3_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = new_bucket(s3_port)
    s3 = client(s3_port)
    told = {"files": {"model": {"size": 3, "sha256": "0" * 64}}}
    s3.put_object(Bucket=bucket, Key=f"7/{FILE}", Body=b"{}")
    with fault_proxy(s3_port) as proxy:
        use_endpoint(monkeypatch, proxy.port)
        proxy.add(Fault(match=f"GET /{bucket}/7/", answer=(403, "AccessDenied")))
        with following(Models(path=f"s3://{bucket}"), interval=0.05) as followed:
            followed.until(lambda: bool(followed.told), "the first listing")
            assert "cannot be read: " in followed.told[0].pending[0].why
            followed.until(lambda: "one key 'files'" in followed.told[-1].pending[0].why, "the bad manifest")
            s3.put_object(Bucket=bucket, Key="7/stray", Body=b"1")
            followed.until_passes(3)
            assert proxy.count(f"GET /{bucket}/7/") == 2
            s3.put_object(Bucket=bucket, Key=f"7/{FILE}", Body=json.dumps(told).encode())
            s3.put_object(Bucket=bucket, Key="7/model", Body=b"123")
            settled = followed.until_there("7")
            assert [file.path for file in settled.models[DEFAULT_MODEL].latest.files] == [FILE, "model"]
            followed.until_passes(3)
            assert proxy.count(f"GET /{bucket}/7/") == 3

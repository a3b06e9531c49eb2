"""Versions from S3: fetched whole, and given up at once when nobody wants them any more."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Queue
from threading import Event, Thread

import pytest
from support.buckets import client, new_bucket, use_endpoint
from support.fault_proxy import Fault, FaultProxy, fault_proxy
from support.s3_server import running_s3
from support.stored_models import SMALL, contents, entries, never, new_disk

from cortex_core.models.layout import read_models
from cortex_core.spec.types import Models
from cortex_core.storage import Storage, open_storage
from cortex_core.storage.protocol import Stopped
from cortex_serve.agent.disk import FetchFailed, Wanted
from cortex_serve.agent.fetching import Fetcher

AT_ONCE = 2.0
"""Seconds; far less than the time limits of S3 calls."""


@pytest.fixture(scope="module")
def s3_port() -> Iterator[int]:
    with running_s3() as port:
        yield port


@pytest.fixture
def proxy(s3_port: int) -> Iterator[FaultProxy]:
    with fault_proxy(s3_port) as proxy:
        yield proxy


class Place:
    """A `dir` in S3."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.bucket = new_bucket(port)
        self.location = f"s3://{self.bucket}/models/"

    def publish(self, model: str, version: str, files: dict[str, bytes]) -> Wanted:
        for path, content in files.items():
            client(self._port).put_object(
                Bucket=self.bucket, Key=f"models/{model}/{version}/{path}", Body=content
            )
        listing = open_storage(self.location).list()
        tree = read_models(Models(dir=self.location), {self.location: listing}, "python")
        found = next(each for each in tree.models[model].versions if each.name == version)
        return Wanted(serial=int(version), model=model, location=self.location, version=found)


@pytest.fixture
def place(s3_port: int, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> Place:
    use_endpoint(monkeypatch, proxy.port)
    return Place(s3_port)


def test_a_version_is_fetched(tmp_path: Path, place: Place) -> None:
    files = SMALL | {"é/ü +%.bin": b"x", "big": os.urandom(20 * 1024 * 1024)}
    wanted = place.publish("iris", "7", files)
    directory = new_disk(tmp_path / "models").fetch(wanted, open_storage(place.location), never)
    assert contents(directory) == files


def test_a_file_that_was_replaced_since_it_was_listed(tmp_path: Path, place: Place) -> None:
    wanted = place.publish("iris", "7", SMALL)
    place.publish("iris", "7", {"model.bin": b"WEIGHTS"})
    disk = new_disk(tmp_path / "models")
    with pytest.raises(FetchFailed) as caught:
        disk.fetch(wanted, open_storage(place.location), never)
    assert caught.value.transient
    assert entries(tmp_path / "models") == ["lock", "partial", "versions"]


@pytest.mark.parametrize("fault", [Fault(match="GET /.*big", hang=True), Fault(match="GET /.*big", drip=0.5)])
def test_a_download_that_does_not_get_on_is_given_up_at_once(
    tmp_path: Path, place: Place, proxy: FaultProxy, fault: Fault
) -> None:
    wanted = place.publish("iris", "7", SMALL | {"big": os.urandom(1024 * 1024)})
    disk = new_disk(tmp_path / "models")
    stopped = Event()
    outcome: Queue[BaseException | None] = Queue()
    proxy.add(fault)

    def fetch() -> None:
        try:
            disk.fetch(wanted, open_storage(place.location), stopped.is_set)
        except BaseException as error:
            outcome.put(error)
        else:
            outcome.put(None)

    thread = Thread(target=fetch)
    thread.start()
    wait_until(lambda: proxy.count("GET /.*big") > 0)
    stopped.set()
    assert isinstance(outcome.get(timeout=AT_ONCE), Stopped)
    thread.join(AT_ONCE)
    assert entries(tmp_path / "models") == ["lock", "partial", "versions"]


def test_closing_while_s3_hangs(tmp_path: Path, place: Place, proxy: FaultProxy) -> None:
    wanted = place.publish("iris", "7", SMALL)
    results: Queue[object] = Queue()
    storages: dict[str, Storage] = {place.location: open_storage(place.location)}
    fetcher = Fetcher(
        new_disk(tmp_path / "models"),
        storages.__getitem__,
        done=lambda *result: results.put(result),
        report=lambda *line: None,
    )
    proxy.add(Fault(match="GET /", hang=True, times=100))
    fetcher.submit(wanted)
    wait_until(lambda: proxy.count("GET /.*model.bin") > 0)
    begun = time.monotonic()
    fetcher.close()
    assert time.monotonic() - begun < AT_ONCE
    assert results.empty()
    assert entries(tmp_path / "models") == ["lock", "partial", "versions"]


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)

"""S3 behind a network that fails in every way; boto3's own view of the bucket says what is really there."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.buckets import client, new_bucket, use_endpoint
from support.fault_proxy import Fault, FaultProxy, fault_proxy

from cortex_core.errors import Changed, CortexError, NotFound, StorageRefused, StorageUnavailable
from cortex_core.storage.s3 import S3Storage
from cortex_core.storage.s3_bucket import Limits

LIMITS = Limits(
    attempts=3,
    page_keys=10,
    connect_seconds=1,
    silent_seconds=1,
    call_seconds=5,
    listing_seconds=4,
    slowest=1024**2,
    part_bytes=200_000,
)
ALWAYS = 1_000_000
LISTING = r"^GET /[^ /]+\?list-type=2"
SECOND_PAGE = r"^GET [^ ]*continuation-token="
CONTENT = os.urandom(1_000_000)


@dataclass
class Place:
    """A bucket seen through the proxy (`storage`) and directly (`direct`)."""

    bucket: str
    direct: Any
    proxy: FaultProxy
    storage: S3Storage

    def put(self, key: str, content: bytes) -> None:
        self.direct.put_object(Bucket=self.bucket, Key=f"models/{key}", Body=content)

    def keys(self) -> list[str]:
        return [entry.key for entry in self.storage.list()]


@pytest.fixture
def place(s3_port: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    with fault_proxy(s3_port) as proxy:
        use_endpoint(monkeypatch, proxy.port)
        bucket = new_bucket(s3_port)
        yield Place(bucket, client(s3_port), proxy, S3Storage(f"s3://{bucket}/models", limits=LIMITS))


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    "fault",
    [
        Fault(answer=(503, "SlowDown"), times=2),
        Fault(answer=(500, "InternalError"), times=2),
        Fault(reset=True, times=2),
    ],
    ids=["throttled", "internal error", "reset"],
)
def test_what_passes_is_tried_again(place: Place, fault: Fault, tmp_path: Path) -> None:
    place.put("a", CONTENT)
    uses: list[Callable[[], object]] = [
        lambda: place.storage.read("a"),
        place.keys,
        lambda: place.storage.exists("a"),
        lambda: place.storage.write("b", b"x"),
        lambda: place.storage.delete("b"),
        lambda: place.storage.download("a", tmp_path / "to"),
        lambda: place.storage.upload(tmp_path / "to", "c"),
    ]
    for use in uses:
        before = len(place.proxy.requests)
        place.proxy.add(Fault(**{**vars(fault), "times": 1}))
        use()
        assert len(place.proxy.requests) >= before + 2
    assert (tmp_path / "to").read_bytes() == CONTENT
    assert place.keys() == ["a", "c"]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (Fault(answer=(503, "SlowDown")), r"the storage asks for fewer requests \(SlowDown\)"),
        (Fault(answer=(500, "InternalError")), r"the storage failed \(InternalError, status 500\)"),
        (Fault(reset=True), r"the connection to 127.0.0.1:\d+ broke"),
        (Fault(hang=True), r"127.0.0.1:\d+ does not answer|not done within 5 seconds"),
        (Fault(break_error=True), r"the connection to (the storage|127.0.0.1:\d+) broke"),
        (Fault(answer=(400, "ExpiredToken")), r"the credentials have expired \(ExpiredToken\)"),
    ],
    ids=["throttled", "internal error", "reset", "hang", "broken error", "expired"],
)
def test_what_does_not_pass_is_unavailable_in_time(
    place: Place, fault: Fault, message: str, tmp_path: Path
) -> None:
    place.put("a", b"1")
    place.proxy.add(Fault(**{**vars(fault), "times": ALWAYS}))
    uses: list[tuple[str, Callable[[], object]]] = [
        ("GetObject .*/models/a", lambda: place.storage.download("a", tmp_path / "to")),
        ("ListObjectsV2 .*/models/", place.keys),
    ]
    for named, use in uses:
        began = time.monotonic()
        with pytest.raises(StorageUnavailable, match=f"{named}: ({message})") as caught:
            use()
        assert time.monotonic() - began < LIMITS.call_seconds + 2
        assert place.bucket in caught.value.message
        assert "very-secret" not in f"{caught.value} {caught.value.hint}"
    assert leftovers(tmp_path) == []
    place.proxy.clear()
    assert place.keys() == ["a"]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((403, "AccessDenied"), r"access denied \(AccessDenied\)"),
        ((403, "InvalidAccessKeyId"), r"the credentials are not valid \(InvalidAccessKeyId\)"),
        ((403, "SignatureDoesNotMatch"), r"the credentials are not valid \(SignatureDoesNotMatch\)"),
        ((404, "NoSuchBucket"), "there is no bucket 'bucket-"),
        ((301, "PermanentRedirect"), r"the bucket is in another region \(PermanentRedirect\)"),
        ((400, "Whatever"), r"the storage refuses this \(Whatever, status 400\)"),
    ],
)
def test_what_a_person_must_mend_is_refused_at_once(
    place: Place, answer: tuple[int, str], message: str, tmp_path: Path
) -> None:
    place.put("a", b"1")
    place.proxy.add(Fault(match="^GET", answer=answer, times=ALWAYS))  # boto3 asks by HEAD where a bucket is
    for use in (
        lambda: place.storage.download("a", tmp_path / "to"),
        place.keys,
        lambda: place.storage.exists("a"),
    ):
        with pytest.raises(StorageRefused, match=message):
            use()
    assert leftovers(tmp_path) == []


def test_nobody_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with fault_proxy(1) as proxy:
        port = proxy.port
    use_endpoint(monkeypatch, port)
    with pytest.raises(StorageUnavailable, match=f"127.0.0.1:{port} cannot be reached"):
        S3Storage("s3://bucket", limits=LIMITS).read("a")


def test_no_credentials(s3_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    use_endpoint(monkeypatch, s3_port)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with pytest.raises(StorageRefused, match="there are no credentials"):
        S3Storage("s3://bucket", limits=LIMITS).read("a")


@pytest.mark.parametrize(("name", "value"), [("AWS_PROFILE", "nobody"), ("AWS_ENDPOINT_URL", "nonsense")])
def test_a_configuration_that_is_none(
    s3_port: int, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    use_endpoint(monkeypatch, s3_port)
    monkeypatch.setenv(name, value)
    with pytest.raises(StorageRefused, match="s3://bucket: boto3 cannot use its configuration"):
        S3Storage("s3://bucket")


def test_a_body_that_breaks_off_is_resumed_where_it_broke_off(place: Place, tmp_path: Path) -> None:
    place.put("a", CONTENT[:150_000])
    [listed] = place.storage.list()
    place.proxy.add(Fault(match="^GET /[^ ]*/models/a", cut=60_000))
    place.proxy.add(Fault(match="^GET /[^ ]*/models/a", cut=40_000))
    place.storage.download("a", tmp_path / "to", etag=listed.etag)
    assert (tmp_path / "to").read_bytes() == CONTENT[:150_000]
    gets = [head for head in place.proxy.requests if "/models/a" in head]
    assert "range" not in gets[0].lower()
    assert "\r\nRange: bytes=60000-149999\r\n" in gets[1]
    assert "\r\nRange: bytes=100000-149999\r\n" in gets[2]
    assert all(f'\r\nIf-Match: "{listed.etag}"\r\n' in head for head in gets)


def test_the_parts_of_a_big_object_each_survive_faults(place: Place, tmp_path: Path) -> None:
    place.put("a", CONTENT)
    place.proxy.add(Fault(match="Range: bytes=200000-", cut=1_000))
    place.proxy.add(Fault(match="Range: bytes=400000-", reset=True))
    place.proxy.add(Fault(match="Range: bytes=600000-", hang=True))
    place.proxy.add(Fault(match="Range: bytes=800000-", answer=(503, "SlowDown")))
    place.storage.download("a", tmp_path / "to")
    assert (tmp_path / "to").read_bytes() == CONTENT
    assert place.storage.read("a") == CONTENT


def test_a_body_that_always_breaks_off_at_its_start(place: Place, tmp_path: Path) -> None:
    place.put("a", CONTENT)
    place.proxy.add(Fault(cut=0, times=ALWAYS))
    with pytest.raises(StorageUnavailable, match=r"the connection to .* broke|not done within"):
        place.storage.download("a", tmp_path / "to")
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("use", ["download", "list"])
def test_what_drips_ends_at_the_deadline(place: Place, tmp_path: Path, use: str) -> None:
    place.put("a", CONTENT)
    place.proxy.add(Fault(drip=0.2, times=ALWAYS))
    began = time.monotonic()
    with pytest.raises(StorageUnavailable, match=r"not done within \d seconds"):
        _ = place.keys() if use == "list" else place.storage.download("a", tmp_path / "to")
    assert time.monotonic() - began < LIMITS.call_seconds + 3
    assert leftovers(tmp_path) == []


def test_an_object_replaced_between_two_parts_is_never_mixed(place: Place, tmp_path: Path) -> None:
    other = os.urandom(len(CONTENT))
    place.put("a", CONTENT)
    [listed] = place.storage.list()
    replace = Fault(match="Range: bytes=800000-", before=lambda: place.put("a", other))
    place.proxy.add(replace)
    with pytest.raises(Changed, match=r"GetObject s3://.*/models/a: the object is not what it was any more"):
        place.storage.download("a", tmp_path / "to", etag=listed.etag)
    assert leftovers(tmp_path) == []

    place.put("a", CONTENT)
    place.proxy.add(Fault(match="Range: bytes=800000-", before=lambda: place.put("a", other)))
    place.storage.download("a", tmp_path / "to")  # any content will do, if it is one
    assert (tmp_path / "to").read_bytes() == other


def test_an_object_that_does_not_stop_changing(place: Place, tmp_path: Path) -> None:
    place.put("a", CONTENT)
    change = Fault(
        match="Range: bytes=800000-", times=ALWAYS, before=lambda: place.put("a", os.urandom(len(CONTENT)))
    )
    place.proxy.add(change)
    with pytest.raises(Changed):
        place.storage.download("a", tmp_path / "to")
    assert leftovers(tmp_path) == []


def test_an_object_deleted_between_two_parts(place: Place, tmp_path: Path) -> None:
    place.put("a", CONTENT)
    place.proxy.add(
        Fault(
            match="Range: bytes=8",
            before=lambda: place.direct.delete_object(Bucket=place.bucket, Key="models/a"),
        )
    )
    with pytest.raises(NotFound):
        place.storage.download("a", tmp_path / "to")
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("size", [1_000, 1_000_000], ids=["small", "in parts"])
def test_a_flipped_bit_is_noticed(place: Place, tmp_path: Path, size: int) -> None:
    place.put("a", CONTENT[:size])
    place.proxy.add(Fault(match="^GET .*/models/a" if size == 1_000 else "Range: bytes=200000-", flip=True))
    place.storage.download("a", tmp_path / "to")
    assert (tmp_path / "to").read_bytes() == CONTENT[:size]

    place.proxy.add(Fault(match="models/a", flip=True, times=ALWAYS))
    with pytest.raises(CortexError, match="contradicts its checksum, 4 times") as caught:
        place.storage.read("a")
    assert not isinstance(caught.value, StorageUnavailable)


def test_a_listing_is_whole_or_an_error(place: Place) -> None:
    for number in range(25):
        place.put(f"{number:04}", b"")
    assert len(place.keys()) == 25
    for fault in (
        Fault(match=SECOND_PAGE, answer=(500, "InternalError"), times=ALWAYS),
        Fault(match=SECOND_PAGE, cut=100, times=ALWAYS),
        Fault(match=SECOND_PAGE, flip=True, times=ALWAYS),
    ):
        place.proxy.add(fault)
        entries = place.storage.list()
        with pytest.raises(StorageUnavailable, match="ListObjectsV2"):
            next(entries)
        place.proxy.clear()
    place.proxy.add(Fault(match=SECOND_PAGE, answer=(503, "SlowDown")))
    assert place.keys() == [f"{number:04}" for number in range(25)]


def test_a_failed_upload_leaves_nothing(place: Place, tmp_path: Path) -> None:
    limits = Limits(call_seconds=20, silent_seconds=2, attempts=2, part_bytes=5 * 1024**2)
    storage = S3Storage(place.storage.url, limits=limits)
    (tmp_path / "big").write_bytes(CONTENT * 11)
    place.proxy.add(Fault(match="partNumber=2", answer=(500, "InternalError"), times=ALWAYS))
    with pytest.raises(StorageUnavailable, match=r"PutObject .*/models/big: the storage failed"):
        storage.upload(tmp_path / "big", "big")
    assert place.keys() == []
    assert "Uploads" not in place.direct.list_multipart_uploads(Bucket=place.bucket)
    place.proxy.clear()
    storage.upload(tmp_path / "big", "big")
    assert storage.read("big") == CONTENT * 11

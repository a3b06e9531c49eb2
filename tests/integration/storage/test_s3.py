"""What only S3 has: folders that are objects, keys that cannot be files, uploads in parts, and boto3 itself."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.buckets import client, new_bucket, use_endpoint

from cortex_core.errors import CortexError, StorageRefused
from cortex_core.storage.s3 import S3Storage
from cortex_core.storage.s3_bucket import Limits


@dataclass
class Place:
    bucket: str
    direct: Any
    storage: S3Storage

    def put(self, key: str, content: bytes) -> None:
        self.direct.put_object(Bucket=self.bucket, Key=key, Body=content)


@pytest.fixture
def place(s3_port: int, monkeypatch: pytest.MonkeyPatch) -> Place:
    use_endpoint(monkeypatch, s3_port)
    bucket = new_bucket(s3_port)
    limits = Limits(page_keys=25, part_bytes=5 * 1024**2)
    return Place(bucket, client(s3_port), S3Storage(f"s3://{bucket}/models", limits=limits))


def test_objects_beside_the_prefix_are_not_seen(place: Place) -> None:
    for key in ("models/a", "models-b", "models", "other/c"):
        place.put(key, b"1")
    assert [entry.key for entry in place.storage.list()] == ["a"]


def test_folders_that_tools_make_are_not_listed(place: Place) -> None:
    for key in ("models/", "models/a/", "models/a/1/", "models/a/1//"):
        place.put(key, b"")
    place.put("models/a/1/model.bin", b"1")
    assert [entry.key for entry in place.storage.list()] == ["a/1/model.bin"]


@pytest.mark.parametrize("key", ["a/../../b", "/a", "a//b", "a/./b", "a\\b", "a\x01b", "full/"])
def test_a_key_that_cannot_be_a_file_is_listed_and_refused(place: Place, key: str, tmp_path: Path) -> None:
    place.put("models/good", b"1")
    place.put(f"models/{key}", b"1")
    assert sorted(entry.key for entry in place.storage.list()) == sorted(["good", key])
    with pytest.raises(CortexError, match="cannot be the key of a stored object: "):
        place.storage.read(key)
    with pytest.raises(CortexError, match="cannot be the key of a stored object: "):
        place.storage.download(key, tmp_path / "to")


def test_a_listing_agrees_with_boto3s(place: Place) -> None:
    for number in range(105):
        place.put(f"models/{number % 7}/é {number}+%", b"x" * (number % 3))
    pages = place.direct.get_paginator("list_objects_v2").paginate(Bucket=place.bucket, Prefix="models/")
    expected = [
        (item["Key"], item["Size"], item["ETag"].strip('"'), int(item["LastModified"].timestamp()))
        for page in pages
        for item in page["Contents"]
    ]
    listed = [
        (f"models/{entry.key}", entry.size, entry.etag, entry.modified_ns // 10**9)
        for entry in place.storage.list()
    ]
    assert len(listed) == 105
    assert listed == sorted(expected, key=lambda item: item[0].encode())


def test_a_big_file_goes_both_ways_in_parts(place: Place, tmp_path: Path) -> None:
    content = os.urandom(12 * 1024**2)
    (tmp_path / "from").write_bytes(content)
    place.storage.upload(tmp_path / "from", "big")
    [listed] = place.storage.list()
    assert listed.etag.endswith("-3")
    place.storage.download("big", tmp_path / "to", etag=listed.etag)
    assert (tmp_path / "to").read_bytes() == content


def test_uploads_of_killed_writers_are_swept(place: Place) -> None:
    for key in ("models/a", "other/b"):
        place.direct.create_multipart_upload(Bucket=place.bucket, Key=key)
    place.storage.sweep()
    left = place.direct.list_multipart_uploads(Bucket=place.bucket)["Uploads"]
    assert [upload["Key"] for upload in left] == ["other/b"]


def test_a_bucket_that_is_not_there(place: Place) -> None:
    storage = S3Storage("s3://nowhere-at-all")
    for use in (lambda: storage.read("a"), lambda: list(storage.list()), lambda: storage.exists("a")):
        with pytest.raises(StorageRefused, match="there is no bucket 'nowhere-at-all'"):
            use()


def test_without_boto3_the_message_says_what_to_install() -> None:
    program = """
import sys
sys.modules["boto3"] = None
from cortex_core.errors import CortexError
from cortex_core.storage import open_storage
try:
    open_storage("s3://bucket/models")
except CortexError as error:
    print(error.message, error.hint, sep="\\n")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.splitlines() == [
        "s3://bucket/models: storage in S3 needs boto3, which is not installed here",
        "pip install 'cortex-deploy[s3]'",
    ]


def test_boto3_is_imported_only_for_s3() -> None:
    program = "import sys; from cortex_core.storage import open_storage; open_storage('/x'); print('boto3' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "False\n"

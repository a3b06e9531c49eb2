"""`cortex-manifest.json`: what is accepted, what is refused in which words, and what publishers write."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from cortex_core.errors import CortexError
from cortex_core.models.manifest import FILE, InvalidManifest, ManifestFile, parse, write

DIGEST = hashlib.sha256(b"123").hexdigest()
GOOD = {"size": 3, "sha256": DIGEST}


def test_what_a_manifest_says() -> None:
    told = parse(json.dumps({"files": {"model.pkl": GOOD, "é/b": GOOD}}).encode())
    assert told.files == {name: ManifestFile(size=3, sha256=DIGEST) for name in ("model.pkl", "é/b")}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", f"{FILE} is not JSON: Expecting value: line 1 column 1 (char 0)"),
        ("[" * 100_000, f"{FILE} is not JSON: "),
        ("[]", f"{FILE}: it must be an object with the one key 'files'"),
        ({}, f"{FILE}: it must be an object with the one key 'files'"),
        ({"files": {"a": GOOD}, "more": 1}, f"{FILE}: it must be an object with the one key 'files'"),
        ({"files": []}, f"{FILE}: 'files' must be an object that names at least one file"),
        ({"files": {}}, f"{FILE}: 'files' must be an object that names at least one file"),
        ({"files": {"": GOOD}}, f"{FILE}: '': its name is empty"),
        ({"files": {"../a": GOOD}}, f"{FILE}: '../a': its name leads out of the folder"),
        ({"files": {"/a": GOOD}}, f"{FILE}: '/a': its name is an absolute path"),
        ({"files": {"a\\b": GOOD}}, f"{FILE}: 'a\\b': its name has a backslash"),
        ({"files": {FILE: GOOD}}, f"{FILE}: '{FILE}': a manifest does not name itself"),
        ({"files": {"a": 1}}, f"{FILE}: 'a': must be an object with the keys 'size' and 'sha256'"),
        ({"files": {"a": {"size": 1}}}, f"{FILE}: 'a': must be an object with the keys 'size' and 'sha256'"),
        ({"files": {"a": {**GOOD, "size": -1}}}, f"{FILE}: 'a': 'size' must be a number of bytes"),
        ({"files": {"a": {**GOOD, "size": True}}}, f"{FILE}: 'a': 'size' must be a number of bytes"),
        ({"files": {"a": {**GOOD, "size": 1.0}}}, f"{FILE}: 'a': 'size' must be a number of bytes"),
        (
            {"files": {"a": {**GOOD, "sha256": DIGEST.upper()}}},
            f"{FILE}: 'a': 'sha256' must be 64 hex digits in lower case",
        ),
        ({"files": {"a": 1, "": GOOD}}, "'sha256'; '': its name is empty"),
        ({"files": dict.fromkeys("abcdefg", 1)}, "; and 2 more"),
        (f'{{"files": {{"a": {json.dumps(GOOD)}, "a": {json.dumps(GOOD)}}}}}', f"{FILE}: 'a': is there twice"),
    ],
)  # fmt: skip
def test_what_is_refused(content: object, message: str) -> None:
    text = content if isinstance(content, str) else json.dumps(content)
    with pytest.raises(InvalidManifest) as caught:
        parse(text.encode())
    assert message in caught.value.message


def test_bytes_that_are_no_text_are_refused() -> None:
    with pytest.raises(InvalidManifest, match="is not JSON"):
        parse(b"\xff\xfe\x00\xd8")


def test_what_is_written_is_read_and_written_again(tmp_path: Path) -> None:
    (tmp_path / "variables").mkdir()
    (tmp_path / "variables" / "é").write_bytes(b"")
    (tmp_path / "model.pkl").write_bytes(b"123")
    (tmp_path / f".{FILE}.4711").write_bytes(b"left by one that was killed")
    for _ in range(2):
        path = write(tmp_path)
        assert path == tmp_path / FILE
        empty = hashlib.sha256(b"").hexdigest()
        assert parse(path.read_bytes()).files == {
            "model.pkl": ManifestFile(size=3, sha256=DIGEST),
            "variables/é": ManifestFile(size=0, sha256=empty),
        }
    assert sorted(each.name for each in tmp_path.iterdir()) == sorted(
        [f".{FILE}.4711", FILE, "model.pkl", "variables"]
    )


def test_directories_that_get_no_manifest(tmp_path: Path) -> None:
    def refused(name: str) -> str:
        with pytest.raises(CortexError) as caught:
            write(tmp_path / name)
        assert not (tmp_path / name / FILE).exists()
        return caught.value.message

    for name in ("empty", "versions/7", "links/a", "names"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "versions" / "7" / "a").write_bytes(b"")
    (tmp_path / "links" / "b").symlink_to("a")
    (tmp_path / "names" / "a\nb").write_bytes(b"")
    assert refused("nowhere").endswith("nowhere cannot be read or written: No such file or directory")
    assert refused("empty").endswith("empty: there are no files")
    assert refused("versions").endswith("versions holds versions: '7'")
    assert refused("links").endswith("links/b is a link to a directory, which is not followed")
    assert "its name has a control character" in refused("names")

from __future__ import annotations

from pathlib import Path

import pytest

from cortex.predicting import Body, pairs, read_body
from cortex_core.errors import CortexError

JSON = "application/json"
TEXT = "text/plain; charset=utf-8"


@pytest.mark.parametrize(
    ("data", "content_type"),
    [("{}", JSON), ("3", JSON), ('"x"', JSON), ("x", TEXT), ("", TEXT), ("[" * 10**5, TEXT)],
)
def test_text(data: str, content_type: str) -> None:
    assert read_body(data, stdin=bytes) == Body(content=data.encode(), content_type=content_type)


@pytest.mark.parametrize(
    ("content", "content_type"), [(b"[1]", JSON), (b"x", TEXT), (b"\xff", "application/octet-stream")]
)
def test_stdin(content: bytes, content_type: str) -> None:
    assert read_body("-", stdin=lambda: content) == Body(content=content, content_type=content_type)


@pytest.mark.parametrize(
    ("name", "content", "content_type"),
    [
        ("a.json", b"{}", JSON), ("a.json", b"{", JSON), ("a", b"{}", JSON), ("a.jpg", b"1", "image/jpeg"),
        ("a.txt", b"x", "text/plain"),
    ],
)  # fmt: skip
def test_file(tmp_path: Path, name: str, content: bytes, content_type: str) -> None:
    (tmp_path / name).write_bytes(content)
    assert read_body(f"@{tmp_path / name}", stdin=bytes) == Body(content=content, content_type=content_type)


def test_no_data() -> None:
    assert read_body(None, stdin=bytes) is None


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(CortexError, match="No such file"):
        read_body(f"@{tmp_path / 'none'}", stdin=bytes)


def test_pairs() -> None:
    assert pairs(["a: b:c", "d:"], ":") == (("a", "b:c"), ("d", ""))
    assert pairs(["q= x=1"], "=") == (("q", " x=1"),)
    for wrong in ("x", ":y"):
        with pytest.raises(ValueError, match="must be KEY:VALUE"):
            pairs([wrong], ":")

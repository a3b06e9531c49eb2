from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.replicas import until

from cortex_serve.log_files import Kind, LogFiles, RotatedFile


def test_a_full_file_becomes_the_first_of_the_old_ones(tmp_path: Path) -> None:
    file = RotatedFile(tmp_path / "log", limit=10, files=3)
    for line in (b"one\n", b"two\n", b"three\n", b"four\n", b"a line longer than the limit\n", b"six\n"):
        file.write(line)
    file.close()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        "log": b"six\n",
        "log.1": b"a line longer than the limit\n",
        "log.2": b"four\n",
    }


def test_a_file_that_was_begun_is_continued(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"12345678\n")
    file = RotatedFile(tmp_path / "log", limit=10, files=3)
    file.write(b"9\n")
    file.close()
    assert (tmp_path / "log").read_bytes() == b"9\n"
    assert (tmp_path / "log.1").read_bytes() == b"12345678\n"


def test_what_cannot_be_written_is_said_and_can_be_tried_again(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    file = RotatedFile(folder / "log")
    with pytest.raises(OSError):
        file.write(b"one\n")
    folder.mkdir()
    file.write(b"two\n")
    file.close()
    assert (folder / "log").read_bytes() == b"two\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log"


@given(
    pieces=st.lists(
        st.binary(max_size=12) | st.sampled_from([b"\n", b"\r\n", b"a\nb", b"\xff\n"]), max_size=20
    )
)
def test_raw_output_becomes_one_object_a_line(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[bytes]
) -> None:
    path = tmp_path_factory.mktemp("raw") / "log"
    _collect(path, "stdout", pieces)
    text = b"".join(pieces)
    expected = [line.decode(errors="replace").removesuffix("\r") for line in text.split(b"\n")]
    if text.endswith(b"\n") or not text:
        expected.pop()
    assert [line["message"] for line in _read(path)] == expected


def test_finished_lines_are_copied_as_they_are(path: Path) -> None:
    lines = [b'{"message":"one"}\n', b'{"message":"two"}\n', b'{"message":"three"}\n']
    text = b"".join(lines)
    _collect(path, "lines", [text[:5], text[5:30], text[30:]])
    assert path.read_bytes() == text


def test_a_line_that_broke_off_is_still_readable(path: Path) -> None:
    _collect(path, "lines", [b'{"message":"one"}\n{"message":"tw'])
    assert [line["message"] for line in _read(path)] == ["one", '{"message":"tw']


def test_lines_that_find_no_place_are_counted_and_reported(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    logs = LogFiles(RotatedFile(folder / "log"), replica="r")
    logs.start()
    for number in range(3):
        logs.write("INFO", f"lost {number}")
    until(lambda: logs.dropped == 3)
    folder.mkdir()
    logs.write("INFO", "kept")
    logs.close(timeout=5)
    assert [line["message"] for line in _read(folder / "log")] == [
        "3 log lines were dropped: the disk was full or slow",
        "kept",
    ]


def _collect(path: Path, kind: Kind, pieces: list[bytes]) -> None:
    logs = LogFiles(RotatedFile(path), replica="r")
    reading, writing = os.pipe()
    logs.follow(reading, kind, process=7)
    logs.start()
    for piece in pieces:
        os.write(writing, piece)
    os.close(writing)
    logs.close(timeout=5)


def _read(path: Path) -> Iterator[dict[str, str]]:
    return (json.loads(line) for line in path.read_bytes().splitlines()) if path.exists() else iter(())

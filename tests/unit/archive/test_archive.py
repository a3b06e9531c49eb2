from __future__ import annotations

import gzip
import io
import os
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import pytest
from filelock import FileLock
from hypothesis import given, settings
from hypothesis import strategies as st

from cortex_core.archive import Limits, digest_of, extract, pack, remove, sweep
from cortex_core.errors import CortexError, InvalidProject, TimedOut, UnsafeArchive
from cortex_core.names import Names
from cortex_core.project import scan


@dataclass(frozen=True)
class Files:
    """A tree in a folder, in any order."""

    root: Path
    files: Sequence[str]

    def open(self, path: str) -> BinaryIO:
        return (self.root / path).open("rb")


def tree(root: Path, contents: Mapping[str, bytes], executable: frozenset[str] = frozenset()) -> Files:
    for name, content in contents.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        path.chmod(0o755 if name in executable else 0o644)
    return Files(root, list(contents))


def packed(files: Files) -> tuple[bytes, str]:
    archive = io.BytesIO()
    digest = pack(files, archive)
    return archive.getvalue(), digest


def contents(folder: Path) -> dict[str, tuple[bytes, bool]]:
    return {
        path.relative_to(folder).as_posix(): (path.read_bytes(), bool(path.stat().st_mode & 0o100))
        for path in folder.rglob("*")
        if path.is_file()
    }


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """For properties: tmp_path is one for all examples."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


CONTENTS = {"handler.py": b"class Handler: ...", "data/x.bin": bytes(300_000), "run.sh": b"#!/bin/sh\n"}


def test_what_is_packed_is_what_is_extracted(tmp_path: Path) -> None:
    archive, digest = packed(tree(tmp_path / "a", CONTENTS, frozenset({"run.sh"})))
    extract(io.BytesIO(archive), tmp_path / "new" / "b", digest=digest)
    assert contents(tmp_path / "new" / "b") == {
        name: (content, name == "run.sh") for name, content in CONTENTS.items()
    }
    (tmp_path / "archive").write_bytes(archive)
    assert digest_of(tmp_path / "archive") == digest_of(tmp_path / "new" / "b") == digest


def test_the_digest_is_the_same_for_ever(tmp_path: Path) -> None:
    """Stored releases name their project by it: changing how it is made orphans them."""
    _, digest = packed(tree(tmp_path, {"b/ü.txt": b"2", "a.sh": b"1"}, frozenset({"a.sh"})))
    assert digest == "055183f2c76f37c4355defc157e409579572ef542c9b4f1a92e2300850b6890a"


def test_times_owners_and_order_do_not_count(tmp_path: Path) -> None:
    one = tree(tmp_path / "one", CONTENTS)
    two = tree(tmp_path / "two", dict(reversed(CONTENTS.items())))
    for path in (tmp_path / "two").rglob("*"):
        os.utime(path, (1, 1))
        path.chmod(path.stat().st_mode & 0o700)
    assert packed(one) == packed(two)


@pytest.mark.parametrize(
    "other",
    [
        {"a": b"1", "b": b"3"},
        {"a": b"1", "c": b"2"},
        {"a": b"1"},
        {"a": b"1", "b": b"2", "c": b""},
        {"a": b"12", "b": b""},
        {"a1": b"", "b": b"2"},
    ],
)
def test_everything_else_counts(tmp_path: Path, other: dict[str, bytes]) -> None:
    _, digest = packed(tree(tmp_path / "one", {"a": b"1", "b": b"2"}))
    assert packed(tree(tmp_path / "two", other))[1] != digest


def test_the_executable_bit_counts(tmp_path: Path) -> None:
    _, plain = packed(tree(tmp_path, {"a": b""}))
    _, executable = packed(tree(tmp_path, {"a": b""}, frozenset({"a"})))
    assert plain != executable


def test_the_gzip_header_has_no_time_and_no_name(tmp_path: Path) -> None:
    with (tmp_path / "name.tar.gz").open("wb") as archive:
        pack(tree(tmp_path / "a", CONTENTS), archive)
    header = (tmp_path / "name.tar.gz").read_bytes()[:10]
    assert header[3] == 0
    assert header[4:8] == bytes(4)


def test_compiled_python_in_an_extracted_folder_does_not_count(tmp_path: Path) -> None:
    files = tree(tmp_path, CONTENTS)
    _, digest = packed(files)
    tree(tmp_path, {"__pycache__/handler.pyc": b"x", "data/__pycache__/x.pyc": b"x"})
    assert digest_of(tmp_path) == digest
    tree(tmp_path, {"new.txt": b""})
    assert digest_of(tmp_path) != digest


def test_a_link_planted_in_an_extracted_folder_is_noticed(tmp_path: Path) -> None:
    tree(tmp_path, CONTENTS)
    (tmp_path / "link").symlink_to("/etc")
    with pytest.raises(UnsafeArchive, match="link: is not a regular file"):
        digest_of(tmp_path)


def test_a_project_with_links_arrives_as_files(tmp_path: Path) -> None:
    tree(tmp_path / "a", {"model.bin": b"weights", "cortex.yaml": b""})
    (tmp_path / "a" / "latest.bin").symlink_to("model.bin")
    archive = io.BytesIO()
    digest = pack(scan(tmp_path / "a", "cortex.yaml"), archive)
    archive.seek(0)
    extract(archive, tmp_path / "b", digest=digest)
    assert contents(tmp_path / "b") == {
        "latest.bin": (b"weights", False),
        "model.bin": (b"weights", False),
    }


def test_a_file_that_is_gone_when_packing_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidProject, match=r"^gone\.py: No such file or directory$"):
        pack(Files(tmp_path, ["gone.py"]), io.BytesIO())


def test_a_file_that_shrinks_while_packing_is_named(tmp_path: Path) -> None:
    class Shrinking(Files):
        def open(self, path: str) -> BinaryIO:
            file = super().open(path)
            file.seek(1)
            return file

    with pytest.raises(InvalidProject, match=r"^handler\.py: changed while it was read$"):
        pack(Shrinking(tree(tmp_path, CONTENTS).root, ["handler.py"]), io.BytesIO())


def test_extracting_again_is_done_already(tmp_path: Path) -> None:
    archive, _ = packed(tree(tmp_path / "a", CONTENTS))
    extract(io.BytesIO(archive), tmp_path / "b")
    extract(io.BytesIO(b"not even looked at"), tmp_path / "b")
    assert set(contents(tmp_path / "b")) == set(CONTENTS)


def test_what_a_killed_extraction_left_behind_does_not_count(tmp_path: Path) -> None:
    archive, digest = packed(tree(tmp_path / "a", CONTENTS))
    tree(tmp_path / ".b.partial", {"handler.py": b"half"})
    extract(io.BytesIO(archive), tmp_path / "b", digest=digest)
    assert digest_of(tmp_path / "b") == digest
    assert not (tmp_path / ".b.partial").exists()


def test_removing(tmp_path: Path) -> None:
    archive, digest = packed(tree(tmp_path / "a", CONTENTS))
    extract(io.BytesIO(archive), tmp_path / "b")
    tree(tmp_path / ".b.partial", {"left": b""})
    for _ in range(2):
        remove(tmp_path / "b")
        assert visible(tmp_path) == ["a"]
    extract(io.BytesIO(archive), tmp_path / "b", digest=digest)


def test_sweeping_leaves_alone_what_others_work_on(tmp_path: Path) -> None:
    for name in ("a", ".b.partial", ".c.partial"):
        tree(tmp_path / name, {"file": b""})
    with FileLock(tmp_path / ".c.lock"):
        sweep(tmp_path)
        assert visible(tmp_path) == [".c.partial", "a"]
        with pytest.raises(TimedOut, match="another process has been working on it for 0 s"):
            remove(tmp_path / "c", deadline=0)
    sweep(tmp_path)
    assert visible(tmp_path) == ["a"]
    sweep(tmp_path / "nowhere")


def visible(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


def test_many_extract_the_same_at_once(tmp_path: Path) -> None:
    archive, digest = packed(tree(tmp_path / "a", CONTENTS))
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: extract(io.BytesIO(archive), tmp_path / "b", digest=digest), range(16)))
    assert digest_of(tmp_path / "b") == digest


def test_another_digest_than_announced_is_refused(tmp_path: Path) -> None:
    archive, digest = packed(tree(tmp_path / "a", CONTENTS))
    with pytest.raises(UnsafeArchive, match=f"not what was announced: {digest}, not 00"):
        extract(io.BytesIO(archive), tmp_path / "b", digest="00")
    assert not (tmp_path / "b").exists()


def test_what_is_extracted_is_private_whatever_the_umask(tmp_path: Path) -> None:
    archive, _ = packed(tree(tmp_path / "a", CONTENTS, frozenset({"run.sh"})))
    before = os.umask(0)
    try:
        extract(io.BytesIO(archive), tmp_path / "projects" / "b")
    finally:
        os.umask(before)
    paths = [tmp_path / "projects", *(tmp_path / "projects" / "b").rglob("*"), tmp_path / "projects" / "b"]
    modes = {path.name: path.stat().st_mode & 0o7777 for path in paths}
    assert modes == {
        "projects": 0o700, "b": 0o700, "data": 0o700,
        "handler.py": 0o600, "x.bin": 0o600, "run.sh": 0o700,
    }  # fmt: skip


def test_a_folder_that_cannot_be_written_is_explained(tmp_path: Path) -> None:
    archive, _ = packed(tree(tmp_path / "a", CONTENTS))
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(CortexError, match="could not be written"):
        extract(io.BytesIO(archive), tmp_path / "file" / "b")


@pytest.mark.parametrize("cut", [0, 1, 9, 10, 100, 0.5, -9, -8, -4, -1])
def test_a_truncated_archive_is_refused(tmp_path: Path, cut: float) -> None:
    archive, _ = packed(tree(tmp_path / "a", CONTENTS))
    end = int(len(archive) * cut) if isinstance(cut, float) else cut
    with pytest.raises(UnsafeArchive, match="the archive is damaged"):
        extract(io.BytesIO(archive[:end]), tmp_path / "b")
    assert visible(tmp_path) == ["a"]


@pytest.mark.parametrize("cut", [1, 511, 512, 700, 1024, 1536])
def test_a_tar_truncated_before_compression_is_refused(tmp_path: Path, cut: int) -> None:
    archive, _ = packed(tree(tmp_path / "a", {"a": b"1", "b": b"2"}))
    plain = gzip.decompress(archive)
    with pytest.raises(UnsafeArchive, match="the archive is damaged"):
        extract(io.BytesIO(gzip.compress(plain[:cut])), tmp_path / "b")


@settings(deadline=None)
@given(position=st.integers(0, 10**6), bit=st.integers(0, 7), inside=st.booleans())
def test_a_flipped_bit_is_noticed_or_harmless(position: int, bit: int, inside: bool) -> None:
    with temporary_folder() as folder:
        archive, digest = packed(tree(folder / "a", {"a": b"1" * 50, "b/c": b"2" * 600}))
        damaged = bytearray(gzip.decompress(archive) if inside else archive)
        damaged[position % len(damaged)] ^= 1 << bit
        content = gzip.compress(bytes(damaged)) if inside else bytes(damaged)
        try:
            extract(io.BytesIO(content), folder / "b", digest=digest)
        except UnsafeArchive:
            assert not (folder / "b").exists()
        else:
            assert digest_of(folder / "b") == digest


names = st.lists(
    st.text(
        st.characters(exclude_categories=["Cc", "Cs"], exclude_characters="/\\:."), min_size=1, max_size=12
    ),
    min_size=1,
    max_size=4,
).map("/".join)
trees = st.dictionaries(names, st.tuples(st.binary(max_size=2000), st.booleans()), max_size=12)


@settings(deadline=None)
@given(files=trees, data=st.data())
def test_any_tree_that_can_be_shipped_arrives_unchanged_from_any_order(
    files: dict[str, tuple[bytes, bool]], data: st.DataObject
) -> None:
    known = Names()
    shippable = {name: file for name, file in files.items() if known.problem(name) is None}
    executable = frozenset(name for name, (_, is_executable) in shippable.items() if is_executable)
    with temporary_folder() as folder:
        source = tree(folder / "a", {name: content for name, (content, _) in shippable.items()}, executable)
        archive, digest = packed(source)
        shuffled = Files(source.root, data.draw(st.permutations(source.files)))
        assert packed(shuffled) == (archive, digest)
        extract(io.BytesIO(archive), folder / "b", digest=digest)
        assert contents(folder / "b") == shippable
        assert digest_of(folder / "b") == digest


def test_the_name_limits_are_those_of_the_scan(tmp_path: Path) -> None:
    """What `scan` accepts, `extract` accepts."""
    deep = "/".join(["d" * 200] * 5)
    tree(tmp_path / "a", {deep: b"x", "ä" * 100: b"y"})
    archive = io.BytesIO()
    digest = pack(scan(tmp_path / "a", "cortex.yaml"), archive)
    archive.seek(0)
    extract(archive, tmp_path / "b", digest=digest, limits=Limits(files=2, total_bytes=2))
    assert digest_of(tmp_path / "b") == digest


def test_folders_of_an_archive_made_elsewhere_are_accepted(tmp_path: Path) -> None:
    files = tree(tmp_path / "a", CONTENTS)
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        for name in ("data", "run.sh", "handler.py"):
            tar.add(tmp_path / "a" / name, arcname=name)
    archive.seek(0)
    extract(archive, tmp_path / "b", digest=packed(files)[1])
    assert set(contents(tmp_path / "b")) == set(CONTENTS)

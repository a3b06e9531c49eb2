"""A corpus of archives that must be refused as a whole; the names say what each tries."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from cortex_core.archive import MIB, Limits, extract
from cortex_core.errors import UnsafeArchive

Member = tuple[tarfile.TarInfo, bytes]


def file(name: str, content: bytes = b"x", **fields: object) -> Member:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    for field, value in fields.items():
        setattr(member, field, value)
    return member, content


def special(name: str, kind: bytes, linkname: str = "", **fields: object) -> Member:
    return file(name, b"", type=kind, linkname=linkname, **fields)


def folder(name: str, **fields: object) -> Member:
    return special(name, tarfile.DIRTYPE, **fields)


def archive(*members: Member, format: int = tarfile.PAX_FORMAT) -> bytes:  # noqa: A002  # tarfile's word
    packed = io.BytesIO()
    with tarfile.open(
        fileobj=packed, mode="w:gz", format=format, encoding="utf-8", errors="surrogateescape"
    ) as tar:
        for member, content in members:
            tar.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def raw(change: Callable[[bytearray], None], *members: Member) -> bytes:
    """An archive whose first header was changed by hand, with a right checksum."""
    plain = bytearray(gzip.decompress(archive(*members, format=tarfile.USTAR_FORMAT)))
    change(plain)
    plain[148:156] = b" " * 8
    plain[148:156] = b"%06o\0 " % sum(plain[:512])
    return gzip.compress(bytes(plain))


def put(offset: int, value: bytes) -> Callable[[bytearray], None]:
    def change(plain: bytearray) -> None:
        plain[offset : offset + len(value)] = value

    return change


GOOD = file("good.txt")
OUT = "its name leads out of the folder"
ABSOLUTE = "its name is an absolute path"
BACKSLASH = "its name has a backslash"
DRIVE = "its name begins with a drive letter"
CONTROL = "its name has a control character"
EMPTY = "its name has an empty part"
LONG = "its name is too long"
TWICE = "is there twice"
CASE = "only in case or in how accents are written"
LINK = "is a link to "
KIND = "is neither a file nor a folder"
SETUID = "is marked setuid, setgid or sticky"
DAMAGED = "the archive is damaged"

CORPUS: dict[str, tuple[bytes, str]] = {
    "parent": (archive(GOOD, file("../evil")), OUT),
    "parent of parent": (archive(file("../../evil")), OUT),
    "parent in the middle": (archive(file("a/../../evil")), OUT),
    "parent that stays inside": (archive(file("a/../evil")), OUT),
    "parent at the end": (archive(file("a/..")), OUT),
    "only parent": (archive(file("..")), OUT),
    "parent folder": (archive(folder("../evil")), OUT),
    "parent in a ustar header": (archive(file("../evil"), format=tarfile.USTAR_FORMAT), OUT),
    "parent in a gnu long name": (archive(file("../" * 50 + "evil"), format=tarfile.GNU_FORMAT), OUT),
    "parent in an extended header": (archive(file("good", pax_headers={"path": "../evil"})), OUT),
    "parent in a ustar prefix": (raw(put(345, b".."), file("evil")), OUT),
    "absolute": (archive(file("/etc/evil")), ABSOLUTE),
    "absolute with two slashes": (archive(file("//evil")), ABSOLUTE),
    "absolute folder": (archive(folder("/evil")), ABSOLUTE),
    "absolute in an extended header": (archive(file("good", pax_headers={"path": "/evil"})), ABSOLUTE),
    "drive": (archive(file("C:evil")), DRIVE),
    "drive and slash": (archive(file("c:/evil")), DRIVE),
    "drive and backslash": (archive(file("C:\\evil")), DRIVE),
    "backslash": (archive(file("a\\b")), BACKSLASH),
    "backslash and parent": (archive(file("..\\evil")), BACKSLASH),
    "backslash share": (archive(file("\\\\host\\share\\evil")), BACKSLASH),
    "backslash between slashes": (archive(file("a/..\\..\\evil")), BACKSLASH),
    "nul in an extended header": (archive(file("good", pax_headers={"path": "a\0/../evil"})), CONTROL),
    "newline": (archive(file("a\nb")), CONTROL),
    "carriage return": (archive(file("a\rb")), CONTROL),
    "escape sequence": (archive(file("\x1b[2Jb")), CONTROL),
    "delete character": (archive(file("a\x7f")), CONTROL),
    "control character of latin 1": (archive(file("a\x9bb")), CONTROL),
    "not utf-8": (archive(file("a\udcff"), format=tarfile.GNU_FORMAT), "its name is not UTF-8"),
    "empty name": (archive(file("")), EMPTY),
    "dot": (archive(file(".")), EMPTY),
    "dot first": (archive(file("./a")), EMPTY),
    "dot in the middle": (archive(file("a/./b")), EMPTY),
    "two slashes": (archive(file("a//b")), EMPTY),
    "long part": (archive(file("a" * 256)), LONG),
    "long part in bytes": (archive(file("ä" * 128)), LONG),
    "long name": (archive(file("/".join(["a" * 200] * 6))), LONG),
    "deep name": (archive(file("a/" * 600 + "a")), LONG),
    "symbolic link out": (archive(special("a", tarfile.SYMTYPE, "/etc/passwd")), LINK),
    "symbolic link to the parent": (archive(special("a", tarfile.SYMTYPE, "..")), LINK),
    "symbolic link inside": (archive(GOOD, special("a", tarfile.SYMTYPE, "good.txt")), LINK),
    "file through a symbolic link": (archive(special("a", tarfile.SYMTYPE, "/tmp"), file("a/evil")), LINK),
    "file over a symbolic link": (archive(special("a", tarfile.SYMTYPE, "/tmp/evil"), file("a")), LINK),
    "symbolic link to itself": (archive(special("a", tarfile.SYMTYPE, "a")), LINK),
    "hard link out": (archive(special("a", tarfile.LNKTYPE, "/etc/passwd")), LINK),
    "hard link to the parent": (archive(special("a", tarfile.LNKTYPE, "../evil")), LINK),
    "hard link inside": (archive(GOOD, special("a", tarfile.LNKTYPE, "good.txt")), LINK),
    "link target in an extended header": (
        archive(special("a", tarfile.SYMTYPE, "b", pax_headers={"linkpath": "/etc/passwd"})),
        LINK,
    ),
    "character device": (archive(special("a", tarfile.CHRTYPE, devmajor=1, devminor=3)), KIND),
    "block device": (archive(special("a", tarfile.BLKTYPE, devmajor=8)), KIND),
    "named pipe": (archive(special("a", tarfile.FIFOTYPE)), KIND),
    "contiguous file": (archive(file("a", type=tarfile.CONTTYPE)), KIND),
    "gnu sparse file": (raw(put(156, b"S"), file("a")), KIND),
    "sparse file by extended header": (
        archive(
            file(
                "a",
                pax_headers={"GNU.sparse.map": "0,1", "GNU.sparse.size": str(2**40), "GNU.sparse.name": "a"},
            )
        ),
        KIND,
    ),
    "unknown kind": (raw(put(156, b"Z"), file("a")), KIND),
    "setuid": (archive(file("a", mode=0o4755)), SETUID),
    "setgid": (archive(file("a", mode=0o2755)), SETUID),
    "sticky folder": (archive(folder("a", mode=0o1777)), SETUID),
    "setuid folder": (archive(folder("a", mode=0o4755)), SETUID),
    "the same twice": (archive(file("a"), file("a", b"other")), TWICE),
    "the same twice far apart": (archive(file("a"), file("b"), file("a")), TWICE),
    "upper and lower case": (archive(file("readme"), file("README")), CASE),
    "case of folders": (archive(file("Data/a"), file("data/b")), CASE),
    "case of folder members": (archive(folder("Data"), folder("data")), CASE),
    "case beyond ascii": (archive(file("straße"), file("STRASSE")), CASE),
    "composed and decomposed": (archive(file("caf\u00e9"), file("cafe\u0301")), CASE),
    "ohm and omega": (archive(file("\u2126"), file("\u03a9")), CASE),
    "file, then folder": (archive(file("a"), file("a/b")), "is a folder and a file"),
    "folder, then file": (archive(file("a/b"), file("a")), "is a file and a folder"),
    "folder member, then file": (archive(folder("a"), file("a")), "is a file and a folder"),
    "file, then folder of other case": (archive(file("a"), file("A/b")), "is a folder and a file"),
    "compiled python": (archive(file("a/__pycache__/handler.cpython-311.pyc")), "is compiled Python"),
    "folder with content": (raw(put(156, b"5"), file("a", b"x" * 600)), "has a wrong size"),
    "negative size": (raw(put(124, b"\xff" * 12), file("a")), "has a wrong size"),
    "size beyond the end": (raw(put(124, b"00000777777\0"), file("a")), DAMAGED),
    "size of 8 GiB": (raw(put(124, b"77777777777\0"), file("a")), "bytes in all"),
    "size of an exabyte by extended header": (
        archive(file("a", pax_headers={"size": str(2**60)})),
        "bytes in all",
    ),
    "size that is no number": (raw(put(124, b"zzzzzzzzzzz\0"), file("a")), DAMAGED),
    "size that is no number in an extended header": (
        archive(file("a", pax_headers={"size": "many"})),
        DAMAGED,
    ),
    "wrong checksum": (
        gzip.compress(b"x" + gzip.decompress(archive(GOOD))[1:]),
        DAMAGED,
    ),
    "wrong checksum of the second": (
        gzip.compress(gzip.decompress(archive(GOOD, GOOD)).replace(b"good.txt", b"evil.txt", 2)),
        DAMAGED,
    ),
    "a second archive behind the end": (
        gzip.compress(gzip.decompress(archive(GOOD)) + gzip.decompress(archive(file("evil")))),
        DAMAGED,
    ),
    "a second compressed archive behind the end": (archive(GOOD) + archive(file("evil")), DAMAGED),
    "bytes behind the compressed end": (archive(GOOD) + b"evil", DAMAGED),
    "damaged compression": (archive(GOOD)[:12] + b"\xff" * 8 + archive(GOOD)[20:], DAMAGED),
    "not compressed": (gzip.decompress(archive(GOOD)), DAMAGED),
    "no archive": (b"hello", DAMAGED),
    "nothing": (b"", DAMAGED),
    "no archive, compressed": (gzip.compress(b"hello" * 1000), DAMAGED),
    "nothing, compressed": (gzip.compress(b""), DAMAGED),
}


def test_the_corpus_is_large() -> None:
    assert len(CORPUS) >= 60


@pytest.mark.parametrize("name", CORPUS)
def test_hostile(tmp_path: Path, name: str) -> None:
    content, words = CORPUS[name]
    into = tmp_path / "around" / "project"
    with pytest.raises(UnsafeArchive) as caught:
        extract(io.BytesIO(content), into)
    assert words in caught.value.message
    assert caught.value.message.isprintable()
    assert [path.name for path in tmp_path.rglob("*") if path.name != ".project.lock"] == ["around"]


def test_the_member_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnsafeArchive, match=r"^a/\\x1b\[2J: its name has a control character$"):
        extract(io.BytesIO(archive(GOOD, file("a/\x1b[2J"))), tmp_path / "project")


def refused(content: bytes, tmp_path: Path, limits: Limits) -> str:
    with pytest.raises(UnsafeArchive) as caught:
        extract(io.BytesIO(content), tmp_path / "project", limits=limits)
    assert [path.name for path in tmp_path.iterdir() if path.name != ".project.lock"] == []
    return caught.value.message


def test_more_bytes_than_allowed(tmp_path: Path) -> None:
    content = archive(file("a", bytes(60)), file("b", bytes(41)))
    assert refused(content, tmp_path, Limits(total_bytes=100)) == "b: more than 100 bytes in all"


def test_more_members_than_allowed(tmp_path: Path) -> None:
    content = archive(*(folder(f"{number}") for number in range(11)))
    assert refused(content, tmp_path, Limits(files=10)) == "10: more than 10 files"


def test_a_bomb_is_not_uncompressed_to_its_end(tmp_path: Path) -> None:
    class Counting(io.BytesIO):
        taken = 0

        def read(self, size: int | None = -1, /) -> bytes:
            chunk = super().read(size)
            self.taken += len(chunk)
            return chunk

    bomb = Counting(gzip.compress(bytes(256 * MIB), compresslevel=1))
    with pytest.raises(UnsafeArchive, match="larger than 1069056 bytes when uncompressed"):
        extract(bomb, tmp_path / "project", limits=Limits(files=10, total_bytes=MIB - 20480))
    assert bomb.taken < len(bomb.getvalue()) / 4


def test_more_expansion_than_allowed(tmp_path: Path) -> None:
    content = archive(file("a", bytes(4 * MIB)))
    assert "expands to more than 100 times its size" in refused(content, tmp_path, Limits(ratio=100))
    extract(io.BytesIO(archive(file("a", bytes(MIB // 2)))), tmp_path / "small", limits=Limits(ratio=100))


def test_headers_count_as_well(tmp_path: Path) -> None:
    """Extended headers are read into memory; they cannot be larger than what is allowed in all."""
    content = archive(file("a", pax_headers={"comment": "x" * (2 * MIB)}))
    assert "larger than" in refused(content, tmp_path, Limits(files=10, total_bytes=MIB))

"""Project archives: one tree of regular files as tar.gz, packed the same everywhere, extracted without trust.

The digest of a tree is SHA-256 over the names, executable bits and contents of its files, in the order of
their names: independent of times, owners, the order on disk, gzip and the Python that packs.

An archive is refused as a whole, before anything is written, when any member has a name that leads
elsewhere, is not a regular file or folder, clashes with another one on some file system, or is more than the
limits allow. Folders are not kept for themselves: what is extracted follows from the digest alone.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import stat
import tarfile
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from filelock import FileLock, Timeout

from cortex_core.errors import CortexError, InvalidProject, TimedOut, UnsafeArchive
from cortex_core.names import COMPILED_PYTHON, Names, printable

MIB = 1024 * 1024
MAX_FILES = 50_000
MAX_BYTES = 32 * MIB

_CHUNK = 256 * 1024
_FAST = 1  # weights hardly shrink, and level 9 takes 20 s for 24 MiB of them
_BLOCK = 512
_HEADERS_PER_MEMBER = 3 * 1024  # header, the longest name as an extended header, padding
_PARTIAL = ".partial"
_SPOOL_BYTES = 8 * MIB


class Tree(Protocol):
    """What `pack` needs to know of a project; `cortex_core.project.Project` is one."""

    @property
    def files(self) -> Sequence[str]:
        """Paths of the files, relative, with `/`."""
        ...

    def open(self, path: str) -> BinaryIO:
        """One of them, for reading; a real file."""
        ...


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What an archive may hold at most.

    Attributes:
        files: number of members.
        total_bytes: of all contents together.
        ratio: uncompressed over compressed size, judged after the first MiB; None is any.
    """

    files: int = MAX_FILES
    total_bytes: int = MAX_BYTES
    ratio: float | None = None


def pack(tree: Tree, into: BinaryIO) -> str:
    """Write the tree as a deterministic tar.gz.

    Returns:
        The tree's digest, 64 hex digits.

    Raises:
        InvalidProject: a file cannot be read, or became shorter meanwhile.
    """
    fingerprint = _Fingerprint()
    with (
        gzip.GzipFile(filename="", mode="wb", compresslevel=_FAST, fileobj=into, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT, encoding="utf-8") as tar,
    ):
        for name in sorted(tree.files, key=_order):
            _add(tar, name, tree, fingerprint)
    return fingerprint.digest()


def extract(
    archive: BinaryIO,
    into: Path,
    *,
    limits: Limits | None = None,
    digest: str | None = None,
    deadline: float = 300.0,
) -> None:
    """Extract an archive into a folder that is complete or not there; done already when it is there.

    Several processes may extract to the same folder at once.

    Args:
        archive: a tar.gz, read from where it stands.
        into: the folder to make; its parents are made too, private to the owner.
        limits: what is accepted.
        digest: what the tree's digest must be; None is anything.
        deadline: seconds to wait for another one that is extracting to the same folder.

    Raises:
        UnsafeArchive: naming the member; nothing was extracted.
        TimedOut: the other one did not finish.
        CortexError: the disk is full, or the folder cannot be written.
    """
    if into.is_dir():
        return
    with _alone_with(into, deadline):
        if not into.is_dir():
            _extract(archive, into, limits or Limits(), digest)


def remove(folder: Path, *, deadline: float = 300.0) -> None:
    """Remove an extracted folder, at once for all who look; when there is none, nothing happens.

    Raises:
        TimedOut: see `extract`.
        CortexError: it cannot be removed.
    """
    with _alone_with(folder, deadline):
        partial = _partial(folder)
        _remove(partial)
        if folder.exists():
            folder.rename(partial)
            _remove(partial)
        _lock(folder).unlink(missing_ok=True)  # who waits for it sees that, and locks the next one


def sweep(parent: Path) -> None:
    """Remove what killed extractions and removals left in a folder; what others work on is left alone."""
    for partial in parent.glob(f".*{_PARTIAL}"):
        with suppress(Timeout), FileLock(_lock(parent / partial.name[1 : -len(_PARTIAL)]), timeout=0):
            _remove(partial)


def digest_of(source: Path, *, limits: Limits | None = None) -> str:
    """The digest of what an archive holds, or of an extracted folder.

    Compiled Python that running the project left in the folder (`__pycache__`) does not count.

    Raises:
        UnsafeArchive: see `extract`; or the folder holds a link or a device.
    """
    fingerprint = _Fingerprint()
    if source.is_dir():
        for path in sorted(_files_below(source), key=_order):
            with os.fdopen(os.open(source / path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
                status = os.fstat(file.fileno())
                fingerprint.begin(path, executable=_executable(status.st_mode), size=status.st_size)
                _copy(file, fingerprint, status.st_size)
        return fingerprint.digest()
    with source.open("rb") as archive, _opened(archive, limits or Limits()) as (tar, members):
        for member in members:
            fingerprint.begin(member.name, executable=_executable(member.mode), size=member.size)
            _copy(_content(tar, member), fingerprint, member.size)
    return fingerprint.digest()


class _Fingerprint:
    """The running digest of a tree; a file is announced and then written to it."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256(b"cortex project 1\n")

    def begin(self, name: str, *, executable: bool, size: int) -> None:
        encoded = name.encode()
        self._hash.update(b"%d:%s%s%d:" % (len(encoded), encoded, b"x" if executable else b"-", size))

    def write(self, content: bytes) -> None:
        self._hash.update(content)

    def digest(self) -> str:
        return self._hash.hexdigest()


@dataclass(frozen=True)
class _Noted:
    """A file whose content is fingerprinted while tarfile reads it."""

    file: BinaryIO
    fingerprint: _Fingerprint

    def read(self, size: int) -> bytes:
        content = self.file.read(size)
        self.fingerprint.write(content)
        return content


@dataclass(frozen=True)
class _Both:
    """Writes to a file and to the fingerprint."""

    file: BinaryIO
    fingerprint: _Fingerprint

    def write(self, content: bytes) -> None:
        self.file.write(content)
        self.fingerprint.write(content)


class _Writable(Protocol):
    def write(self, content: bytes, /) -> object: ...


def _add(tar: tarfile.TarFile, name: str, tree: Tree, fingerprint: _Fingerprint) -> None:
    try:
        with tree.open(name) as file:
            status = os.fstat(file.fileno())
            member = tarfile.TarInfo(name)
            member.size = status.st_size
            member.mode = 0o755 if _executable(status.st_mode) else 0o644
            fingerprint.begin(name, executable=_executable(status.st_mode), size=member.size)
            tar.addfile(member, _Noted(file, fingerprint))  # type: ignore[arg-type]  # it only reads
    except OSError as error:
        raise InvalidProject(f"{name}: {error.strerror or 'changed while it was read'}") from error


@contextmanager
def _alone_with(folder: Path, deadline: float) -> Iterator[None]:
    try:
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with FileLock(_lock(folder), timeout=deadline, mode=0o600):
            yield
    except Timeout as error:
        raise TimedOut(f"{folder}: another process has been working on it for {deadline:.0f} s") from error
    except OSError as error:
        raise CortexError(f"{folder} could not be written: {error.strerror or error}") from error


def _lock(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.lock")


def _partial(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}{_PARTIAL}")


def _extract(archive: BinaryIO, into: Path, limits: Limits, digest: str | None) -> None:
    partial = _partial(into)
    _remove(partial)  # of one that was killed: we hold the lock
    try:
        with _opened(archive, limits) as (tar, members):
            partial.mkdir(mode=0o700)
            _require(_write(tar, members, partial), digest)
        _flush(partial)
        partial.rename(into)
        _flush_folder(into.parent)
    except BaseException:
        _remove(partial)
        raise


def _require(found: str, digest: str | None) -> None:
    if digest is not None and found != digest:
        raise UnsafeArchive(f"the archive's content is not what was announced: {found}, not {digest}")


@contextmanager
def _opened(archive: BinaryIO, limits: Limits) -> Iterator[tuple[tarfile.TarFile, list[tarfile.TarInfo]]]:
    """The archive, uncompressed within the limits, and its files in order: all of them checked."""
    with tempfile.SpooledTemporaryFile(max_size=_SPOOL_BYTES) as plain:
        _uncompress(archive, plain, limits)
        plain.seek(0)
        try:
            with tarfile.open(
                fileobj=plain, mode="r:", encoding="utf-8", errors="surrogateescape"
            ) as tar:  # fmt: skip
                members = _checked(tar, limits)
                _check_end(plain, tar.offset)
                yield tar, sorted(members, key=lambda member: _order(member.name))
        except (tarfile.TarError, ValueError, EOFError) as error:
            raise UnsafeArchive(f"the archive is damaged: {error}") from error


def _uncompress(archive: BinaryIO, into: _Writable, limits: Limits) -> None:
    allowed = limits.total_bytes + limits.files * _HEADERS_PER_MEMBER + tarfile.RECORDSIZE
    start, total = archive.tell(), 0
    try:
        with gzip.GzipFile(fileobj=archive, mode="rb") as content:
            while chunk := content.read(_CHUNK):
                total += len(chunk)
                if total > allowed:
                    raise UnsafeArchive(f"the archive is larger than {allowed} bytes when uncompressed")
                if limits.ratio and total > max(MIB, limits.ratio * (archive.tell() - start)):
                    raise UnsafeArchive(f"the archive expands to more than {limits.ratio:g} times its size")
                into.write(chunk)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UnsafeArchive(f"the archive is damaged: {error}") from error


def _checked(tar: tarfile.TarFile, limits: Limits) -> list[tarfile.TarInfo]:
    names = Names()
    files: list[tarfile.TarInfo] = []
    total = 0
    for count, member in enumerate(tar, 1):
        wrong = _kind_problem(member) or (
            names.folder_problem(member.name) if member.isdir() else names.problem(member.name)
        )
        if wrong is not None:
            raise UnsafeArchive(f"{printable(member.name)}: {wrong}")
        if count > limits.files:
            raise UnsafeArchive(f"{member.name}: more than {limits.files} files")
        total += member.size
        if total > limits.total_bytes:
            raise UnsafeArchive(f"{member.name}: more than {limits.total_bytes} bytes in all")
        if not member.isdir():
            files.append(member)
    return files


def _kind_problem(member: tarfile.TarInfo) -> str | None:
    if member.issym() or member.islnk():
        return f"is a link to {printable(member.linkname)}"
    if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE) or member.sparse is not None:
        return "is neither a file nor a folder"
    if member.mode & (stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX):
        return "is marked setuid, setgid or sticky"
    if member.size < 0 or (member.isdir() and member.size):
        return "has a wrong size"
    return None


def _check_end(plain: BinaryIO | tempfile.SpooledTemporaryFile[bytes], offset: int) -> None:
    """tarfile takes a damaged header for the end: what follows the last member must be an end mark."""
    plain.seek(offset)
    rest = plain.read(_BLOCK)
    complete = len(rest) == _BLOCK
    while rest:
        if rest.strip(b"\0"):
            raise UnsafeArchive("the archive is damaged: there is something behind its last file")
        rest = plain.read(_CHUNK)
    if not complete:
        raise UnsafeArchive("the archive is damaged: it ends too early")


def _write(tar: tarfile.TarFile, members: Sequence[tarfile.TarInfo], into: Path) -> str:
    fingerprint = _Fingerprint()
    made: set[Path] = {into}
    for member in members:
        target = into / member.name
        _make_folders(target.parent, made)
        executable = _executable(member.mode)
        fingerprint.begin(member.name, executable=executable, size=member.size)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(target, flags, 0o700 if executable else 0o600), "wb") as file:
            _copy(_content(tar, member), _Both(file, fingerprint), member.size)
    return fingerprint.digest()


def _make_folders(folder: Path, made: set[Path]) -> None:
    if folder not in made:
        _make_folders(folder.parent, made)
        folder.mkdir(mode=0o700)
        made.add(folder)


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> BinaryIO:
    content = tar.extractfile(member)
    assert content is not None, "only regular files get here"
    return content  # type: ignore[return-value]  # IO[bytes] in typeshed


def _copy(source: BinaryIO, into: _Writable, size: int) -> None:
    while size:
        chunk = source.read(min(size, _CHUNK))
        if not chunk:
            raise EOFError("it ends too early")
        into.write(chunk)
        size -= len(chunk)


def _flush(folder: Path) -> None:
    """Bring a whole folder to disk; called once everything is written, so that the kernel can batch."""
    for parent, _, names in os.walk(folder):
        for name in names:
            _flush_file(Path(parent, name))
        _flush_folder(Path(parent))


def _flush_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


_flush_folder = _flush_file


def _files_below(folder: Path) -> Iterator[str]:
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name != COMPILED_PYTHON]
        for name in [*names, *(name for name in folders if Path(parent, name).is_symlink())]:
            path = Path(parent, name)
            relative = path.relative_to(folder).as_posix()
            if not stat.S_ISREG(path.lstat().st_mode):
                raise UnsafeArchive(f"{printable(relative)}: is not a regular file")
            yield relative


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)


def _executable(mode: int) -> bool:
    return bool(mode & stat.S_IXUSR)


def _order(name: str) -> bytes:
    return name.encode(errors="surrogateescape")

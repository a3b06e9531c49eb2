"""`cortex-manifest.json`: what a version consists of, written by who publishes it, so that nobody has to guess.

{"files": {"model.pkl": {"size": 123, "sha256": "…"}}}
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from cortex_core.errors import CortexError
from cortex_core.models.versions import is_version
from cortex_core.models.wording import clipped, named, quoted
from cortex_core.names import name_problem
from cortex_core.spec.types import Struct

FILE = "cortex-manifest.json"
"""Its name in the version's directory; it never names itself."""

MAX_BYTES = 4 * 1024 * 1024

_MOST_TOLD = 5
_CHUNK_BYTES = 1024 * 1024
_SHA256 = re.compile(r"[0-9a-f]{64}")


class ManifestFile(Struct, gc=False):
    """One file.

    Attributes:
        size: bytes.
        sha256: of its content, 64 hex digits.
    """

    size: int
    sha256: str


class Manifest(Struct):
    """All files of a version, by path below its directory; at least one. Other files there do not count."""

    files: Mapping[str, ManifestFile]


class InvalidManifest(CortexError):
    """A manifest that says nothing that could be relied on."""


def parse(content: bytes) -> Manifest:
    """The manifest that a file holds.

    Raises:
        InvalidManifest: it holds none; with all that is wrong, in one line.
    """
    try:
        document = json.loads(content, object_pairs_hook=_Pairs)
    except (ValueError, RecursionError) as error:
        raise InvalidManifest(f"{FILE} is not JSON: {clipped(str(error))}") from error
    problems = list(_problems(document))
    if problems:
        more = [f"and {len(problems) - _MOST_TOLD} more"] if len(problems) > _MOST_TOLD else []
        raise InvalidManifest(f"{FILE}: {'; '.join([*problems[:_MOST_TOLD], *more])}")
    files = {path: dict(fields) for path, fields in dict(document)["files"]}
    return Manifest(
        files={path: ManifestFile(size=each["size"], sha256=each["sha256"]) for path, each in files.items()}
    )


def write(directory: Path) -> Path:
    """Write the manifest of a version's directory; the last thing to do before, or while, it is published.

    Files are read whole. Whoever reads the manifest meanwhile sees the old one or the new one.

    Returns:
        The manifest's path.

    Raises:
        CortexError: the directory cannot be read or written, is no version's, or changes meanwhile.
    """
    try:
        files = dict(_described(directory))
        if not files:
            raise CortexError(f"{directory}: there are no files", hint="name the directory of one version")
        content = json.dumps({"files": files}, indent=1, ensure_ascii=False).encode()
        if len(content) > MAX_BYTES:
            raise CortexError(f"{directory}: so many files that {FILE} would be over {MAX_BYTES} bytes")
        return _replace(directory, content)
    except OSError as error:
        place = error.filename or directory
        raise CortexError(f"{place} cannot be read or written: {error.strerror}") from error


class _Pairs(list[tuple[str, object]]):
    """A JSON object as it is written: a key may stand there twice."""


def _problems(document: object) -> Iterator[str]:
    if not isinstance(document, _Pairs) or [key for key, _ in document] != ["files"]:
        yield "it must be an object with the one key 'files'"
        return
    [(_, files)] = document
    if not isinstance(files, _Pairs) or not files:
        yield "'files' must be an object that names at least one file"
        return
    seen: set[str] = set()
    for path, fields in files:
        wrong = _wrong_with_path(path, seen) or _wrong_with_fields(fields)
        if wrong is not None:
            yield f"{quoted(path)}: {wrong}"
        seen.add(path)


def _wrong_with_path(path: str, seen: set[str]) -> str | None:
    if path in seen:
        return "is there twice"
    if path == FILE:
        return "a manifest does not name itself"
    return "its name is empty" if not path else name_problem(path)


def _wrong_with_fields(fields: object) -> str | None:
    if not isinstance(fields, _Pairs) or sorted(key for key, _ in fields) != ["sha256", "size"]:
        return "must be an object with the keys 'size' and 'sha256'"
    values = dict(fields)
    size, sha256 = values["size"], values["sha256"]
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        return "'size' must be a number of bytes"
    if not isinstance(sha256, str) or not _SHA256.fullmatch(sha256):
        return "'sha256' must be 64 hex digits in lower case"
    return None


def _described(directory: Path) -> Iterator[tuple[str, dict[str, int | str]]]:
    paths = sorted(_files(directory))
    versions = {
        path.partition("/")[0] for path in paths if "/" in path and is_version(path.partition("/")[0])
    }
    if versions:
        raise CortexError(
            f"{directory} holds versions: {named(versions)}", hint="name the directory of one version"
        )
    wrong = [f"{quoted(path)}: {problem}" for path in paths if (problem := name_problem(path)) is not None]
    if wrong:
        raise CortexError(f"{directory}: {'; '.join(wrong[:_MOST_TOLD])}", hint="rename or remove it")
    for path in paths:
        yield path, _description(directory / path)


def _files(directory: Path) -> Iterable[str]:
    """Paths of what counts, below the directory."""
    for parent, folders, names in os.walk(directory, onerror=_raised):
        for folder in folders:
            if Path(parent, folder).is_symlink():
                raise CortexError(f"{Path(parent, folder)} is a link to a directory, which is not followed")
        for name in names:
            path = Path(parent, name).relative_to(directory).as_posix()
            if path != FILE and not path.startswith(f".{FILE}."):
                yield path


def _raised(error: OSError) -> None:
    raise error


def _description(path: Path) -> dict[str, int | str]:
    if not path.is_file():
        raise CortexError(f"{path} is not a file", hint="remove it")
    digest = hashlib.sha256()
    size = 0
    before = path.stat()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            size += len(chunk)
    after = path.stat()
    if (before.st_mtime_ns, before.st_size) != (after.st_mtime_ns, after.st_size) or size != after.st_size:
        raise CortexError(f"{path} changed while it was read", hint="try again when it is written")
    return {"size": size, "sha256": digest.hexdigest()}


def _replace(directory: Path, content: bytes) -> Path:
    partial = directory / f".{FILE}.{os.getpid()}"
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        return partial.replace(directory / FILE)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise

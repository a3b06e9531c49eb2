"""Uploaded projects: verified on arrival, kept in the bucket while a release needs them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from cortex_core import archive
from cortex_core.errors import NotFound
from cortex_core.storage import Storage

_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class ProjectFolder:
    """An extracted project, as the rules of the spec look at it."""

    root: Path

    @cached_property
    def files(self) -> frozenset[str]:
        """Relative paths with `/`."""
        found = (path.relative_to(self.root) for path in self.root.rglob("*") if path.is_file())
        return frozenset(path.as_posix() for path in found if "__pycache__" not in path.parts)

    def read(self, path: str) -> bytes:
        return (self.root / path).read_bytes()


class Projects:
    """Projects by digest. Methods block.

    Args:
        bucket: where archives are kept.
        folder: where they are extracted to, one folder each.
    """

    def __init__(self, *, bucket: Storage, folder: Path) -> None:
        self._bucket = bucket
        self._folder = folder

    def sweep(self) -> None:
        """Remove what an operator that was killed left half written; called before anything is added."""
        self._bucket.sweep()

    def exists(self, digest: str) -> bool:
        return self._bucket.exists(_key(digest))

    def add(self, digest: str, upload: Path) -> bool:
        """Verify an uploaded archive and keep it; False when it was there already.

        Raises:
            UnsafeArchive: it is damaged, dangerous or not what its digest says; nothing is kept.
        """
        if self.exists(digest):
            return False
        with upload.open("rb") as file:
            archive.extract(file, self._folder / digest, digest=digest)
        self._bucket.upload(upload, _key(digest))
        return True

    def open(self, digest: str) -> ProjectFolder:
        """The extracted project.

        Raises:
            NotFound: it was never uploaded, or is not kept any more.
        """
        folder = self._folder / digest
        if not folder.is_dir():
            packed = self._folder / f".{digest}.tar.gz"
            try:
                self._bucket.download(_key(digest), packed)
                with packed.open("rb") as file:
                    archive.extract(file, folder, digest=digest)
            except NotFound as error:
                raise NotFound(
                    f"the project {digest[:16]} is not in the bucket", hint="deploy its folder again"
                ) from error
            finally:
                packed.unlink(missing_ok=True)
        return ProjectFolder(folder)

    def url(self, digest: str) -> str:
        """Where the archive lies."""
        return f"{self._bucket.url}/{_key(digest)}"

    def remove(self, digest: str) -> None:
        """Drop a project from the bucket and from this machine; quiet when there is none."""
        self._bucket.delete(_key(digest))
        archive.remove(self._folder / digest)


def is_digest(text: str) -> bool:
    """Whether that is how a project's digest looks."""
    return _DIGEST.fullmatch(text) is not None


def _key(digest: str) -> str:
    return f"projects/{digest}.tar.gz"

"""Versions of models in a local directory, what they must look like once they are fetched, and a disk to fetch to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from cortex_core.models.layout import read_models
from cortex_core.models.manifest import Manifest
from cortex_core.models.tree import DEFAULT_MODEL, Version
from cortex_core.spec.types import Models
from cortex_core.storage import LocalStorage
from cortex_serve.agent.disk import Disk, StoredVersion, Wanted

SMALL = {"model.bin": b"weights", "config.json": b"{}", "vocabulary/words.txt": b"a b c"}


def shown(model: str) -> str:
    return "iris-api" if model == DEFAULT_MODEL else model


def never() -> bool:
    return False


class Bucket:
    """A `dir` of models."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.storage = LocalStorage(root)

    def write(self, model: str, version: str, files: Mapping[str, bytes] = SMALL) -> Version:
        """Write files of a version; returns what a listing then says."""
        for path, content in files.items():
            to = self.root / model / version / path
            to.parent.mkdir(parents=True, exist_ok=True)
            new = self.root / ".new"  # another inode: on no kernel is it taken for the old content
            new.write_bytes(content)
            new.replace(to)
        return self.version(model, version)

    def version(self, model: str, version: str) -> Version:
        tree = read_models(Models(dir=str(self.root)), {str(self.root): self.storage.list()}, "python")
        return next(each for each in tree.models[model].versions if each.name == version)

    def wanted(
        self,
        model: str,
        version: str,
        *,
        serial: int = 1,
        manifest: Manifest | None = None,
        urgent: bool = False,
    ) -> Wanted:
        return Wanted(
            serial=serial,
            model=model,
            location=str(self.root),
            version=self.version(model, version),
            manifest=manifest,
            urgent=urgent,
        )

    def stored(self, model: str, version: str) -> StoredVersion:
        return StoredVersion(model=model, location=str(self.root), version=self.version(model, version))


class Altered:
    """A storage whose downloads are done by a function, which may call the real one."""

    def __init__(self, storage: LocalStorage, download: Callable[..., None]) -> None:
        self._storage = storage
        self._download = download

    @property
    def url(self) -> str:
        return self._storage.url

    def download(
        self, key: str, to: Path, *, etag: str | None = None, stopped: Callable[[], bool] | None = None
    ) -> None:
        self._download(key, to, etag=etag, stopped=stopped)

    def __getattr__(self, name: str) -> object:
        return getattr(self._storage, name)


def new_disk(folder: Path, lines: list[tuple[str, str]] | None = None, **options: object) -> Disk:
    """A disk that is open; what it reports goes to `lines`."""
    disk = closed_disk(folder, lines, **options)
    disk.open()
    return disk


def closed_disk(folder: Path, lines: list[tuple[str, str]] | None = None, **options: object) -> Disk:
    reported = [] if lines is None else lines
    return Disk(folder, shown=shown, report=lambda level, text: reported.append((level, text)), **options)  # type: ignore[arg-type]  # passed on


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def entries(folder: Path) -> list[str]:
    """Every file and folder below a folder."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))

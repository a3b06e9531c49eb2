"""The modules of a .proto file: compiled when a replica starts, kept in memory, importable like any other.

    service.proto, and what it imports ── protoc ──▶ service_pb2, service_pb2_grpc, …

They are made where they run, so they fit the versions of grpcio and protobuf that the project asks for. Modules of
the same names in the project (people ship what they once generated) stand back.
"""

from __future__ import annotations

import importlib
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib.abc import InspectLoader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import CodeType, ModuleType

from cortex_core.spec import proto
from cortex_serve import tracebacks
from cortex_serve.handler import HandlerFailed

COMPILE_WITHIN = 60.0
"""Seconds; it takes a tenth of one."""


def compiled(project: Path, path: str) -> ModuleType:
    """Compile a .proto file of a project and import its `_pb2` module; all its modules are importable from here on.

    Args:
        project: its root, which imports in .proto files are relative to.
        path: of the file, in the root.

    Raises:
        HandlerFailed: the file cannot be compiled, or its modules cannot be imported.
    """

    def read(name: str) -> bytes | None:
        file = project / name
        return file.read_bytes() if file.is_file() else None

    try:
        sources = proto.closure(path, read)
    except OSError as error:
        raise HandlerFailed(f"{path}: cannot be read: {error.strerror or error}") from error
    sys.meta_path.insert(0, MemoryFinder(_generated(project, path, sorted(sources))))
    name = path.removesuffix(".proto").replace("-", "_") + "_pb2"
    try:
        module = importlib.import_module(name)
        importlib.import_module(f"{name}_grpc")
    except Exception as error:
        raise HandlerFailed(
            f"{path}: its compiled modules cannot be imported:\n\n{tracebacks.text(error)}"
        ) from error
    return module


def _generated(project: Path, path: str, files: Sequence[str]) -> dict[str, bytes]:
    """Sources of the modules for some .proto files, by the modules' names."""
    try:
        with tempfile.TemporaryDirectory(prefix="cortex-proto-") as folder:
            done = _protoc(project, Path(folder), files)
            if done.returncode != 0:
                said = (done.stderr + done.stdout).decode(errors="replace").strip()
                raise HandlerFailed(f"{path}: cannot be compiled:\n\n{said}")
            return {
                ".".join(file.relative_to(folder).with_suffix("").parts): file.read_bytes()
                for file in Path(folder).rglob("*.py")
            }
    except (OSError, subprocess.TimeoutExpired) as error:
        raise HandlerFailed(f"{path}: cannot be compiled: {error}") from error


def _protoc(project: Path, folder: Path, files: Sequence[str]) -> subprocess.CompletedProcess[bytes]:
    command = [
        sys.executable, "-I", "-m", "grpc_tools.protoc",
        f"--proto_path={project}", f"--python_out={folder}", f"--grpc_python_out={folder}", *files,
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, timeout=COMPILE_WITHIN, check=False)


class MemoryFinder(MetaPathFinder):
    """Finds modules in memory, and the packages they are in where those have no folder on the import path."""

    def __init__(self, sources: Mapping[str, bytes]) -> None:
        self._sources = sources
        self._packages = {
            name.rsplit(".", depth)[0] for name in sources for depth in range(1, name.count(".") + 1)
        }

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, _target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname in self._sources:
            return ModuleSpec(fullname, _Source(self._sources[fullname]))
        if fullname in self._packages:
            return PathFinder.find_spec(fullname, path) or ModuleSpec(fullname, None, is_package=True)
        return None


class _Source(InspectLoader):
    """Loads a module from its source."""

    def __init__(self, source: bytes) -> None:
        self._source = source

    def get_source(self, _fullname: str) -> str:
        return self._source.decode()

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self._source, f"<compiled {fullname}>")

"""The environment variables a handler finds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cortex_core.release import Release
from cortex_core.spec.types import AsyncAPI, Handler, RealtimeAPI, source_of


def handler_environment(
    release: Release, *, path: Path, project: Path, port: int, inherited: Mapping[str, str]
) -> dict[str, str]:
    """What is inherited, what the API's spec tells, and its `env`; later ones win.

    Args:
        path: of the release document.
        project: folder of the extracted project.
        port: of its first worker.
    """
    quiet = {"GRPC_VERBOSITY": "NONE"} if serves_grpc(release) else {}  # clients could fill the log otherwise
    return {**quiet, **inherited, **_told(release, path, project, port), **_own(release)}


def serves_grpc(release: Release) -> bool:
    """Whether its workers serve gRPC, not HTTP."""
    source = source_of(release.spec)
    return isinstance(source, Handler) and source.protobuf_path is not None


def _told(release: Release, path: Path, project: Path, port: int) -> dict[str, str]:
    told = {
        "CORTEX_KIND": release.kind,
        "CORTEX_VERSION": release.runtime_version,
        "CORTEX_API_SPEC": str(path),
        "CORTEX_PROJECT_DIR": str(project),
        "CORTEX_SERVING_PORT": str(port),
        "CORTEX_SERVING_PROTOCOL": "grpc" if serves_grpc(release) else "http",
    }
    source = source_of(release.spec)
    if source is not None:
        told |= {
            "CORTEX_LOG_LEVEL": source.log_level.upper(),
            "CORTEX_PYTHON_PATH": str(project / (source.python_path or "")),
            "CORTEX_DEPENDENCIES_PIP": source.dependencies.pip,
            "CORTEX_DEPENDENCIES_CONDA": source.dependencies.conda,
            "CORTEX_DEPENDENCIES_SHELL": source.dependencies.shell,
        }
    if isinstance(source, Handler):
        told["CORTEX_PROCESSES_PER_REPLICA"] = str(source.processes_per_replica)
        told["CORTEX_THREADS_PER_PROCESS"] = str(source.threads_per_process)
    if isinstance(release.spec, RealtimeAPI | AsyncAPI):
        told["CORTEX_MAX_REPLICA_CONCURRENCY"] = str(release.spec.autoscaling.max_replica_concurrency)
    return told


def _own(release: Release) -> dict[str, str]:
    source = source_of(release.spec)
    return source.env if source is not None else {}

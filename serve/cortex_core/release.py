"""A release: one API's spec and project, frozen; the only document the operator hands to the runtime.

Two digests decide what an update does:

`replica_digest`  over what is running code: name, kind, handler or definition, compute (equivalent quantities
                  count as equal), project content, runtime version. When it changes, replicas are replaced.
`id`              over that and networking, autoscaling, update strategy, traffic targets. When only this
                  changes, the API is updated and its replicas keep running.

Equal input gives equal digests on every machine.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgspec

from cortex_core.spec.types import Api, Struct, TrafficSplitter, kind_of, source_of
from cortex_core.spec.units import normalized_quantity

FORMAT = 1


class Release(Struct):
    """What runs, completely.

    Attributes:
        format: version of this document's layout.
        id: 16 hex digits; see the module's text.
        replica_digest: 16 hex digits; see the module's text.
        name, kind: of the API.
        spec: with every default filled in.
        project_digest: SHA-256 (hex) of the project archive's content.
        project_url: where the archive lies; not part of the digests.
        image: container image, or None where there is no container.
        runtime_version: version of this distribution that made the release.
    """

    id: str
    replica_digest: str
    name: str
    kind: str
    spec: Api
    project_digest: str
    project_url: str
    runtime_version: str
    image: str | None = None
    format: int = FORMAT


def make_release(spec: Api, *, project_digest: str, project_url: str, runtime_version: str) -> Release:
    """Freeze a validated spec and an uploaded project into a release."""
    source = source_of(spec)
    image = source.image if source is not None else None
    running = {
        "name": spec.name,
        "kind": kind_of(spec),
        "source": msgspec.to_builtins(source),
        "compute": None if isinstance(spec, TrafficSplitter) else _normalized_compute(spec),
        "project": project_digest,
        "runtime": runtime_version,
    }
    replica_digest = _digest(running)
    return Release(
        id=_digest({"replica": replica_digest, "around": _around(spec)}),
        replica_digest=replica_digest,
        name=spec.name,
        kind=kind_of(spec),
        spec=spec,
        project_digest=project_digest,
        project_url=project_url,
        runtime_version=runtime_version,
        image=image,
    )


def encode(release: Release) -> bytes:
    """The release as JSON."""
    return msgspec.json.encode(release)


def decode(data: bytes) -> Release:
    """Read a stored release; fields this version does not know are ignored.

    Raises:
        msgspec.ValidationError: the document is not a release.
    """
    return msgspec.json.decode(data, type=Release)


def read(path: Path) -> Release:
    return decode(path.read_bytes())


def _normalized_compute(spec: Any) -> dict[str, Any]:
    compute: dict[str, Any] = msgspec.to_builtins(spec.compute)
    for field in ("cpu", "mem"):
        if compute[field] is not None:
            compute[field] = normalized_quantity(compute[field])
    return compute


def _around(spec: Api) -> dict[str, Any]:
    """Everything of the spec that is not running code."""
    whole: dict[str, Any] = msgspec.to_builtins(spec)
    return {key: value for key, value in whole.items() if key not in ("handler", "definition", "compute")}


def _digest(value: dict[str, Any]) -> str:
    return hashlib.sha256(msgspec.json.encode(value, order="deterministic")).hexdigest()[:16]

"""Reading an API file: text → document → schema problems → rule problems → typed spec.

Every step looks at all of the file; what an earlier step found wrong, the later ones leave alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cortex_core import shipped
from cortex_core.spec import build, document, model_files, neighbours, rules, schema
from cortex_core.spec.model_files import Listing, ListLocations
from cortex_core.spec.problems import MOST_FINDINGS, InvalidConfig
from cortex_core.spec.rules import ProjectFiles
from cortex_core.spec.types import Api, TrafficSplitter
from cortex_core.spec.view import views
from cortex_core.version import __version__

__all__ = ["InvalidConfig", "ListLocations", "Listing", "ProjectFiles", "load"]


def load(
    text: str | bytes,
    *,
    filename: str = "cortex.yaml",
    project: ProjectFiles | None = None,
    deployed: Sequence[Api] | None = None,
    folder: Path | None = None,
    list_locations: ListLocations | None = None,
) -> list[Api]:
    """Read an API file.

    Args:
        text: its content.
        filename: its name, for messages.
        project: the files that are shipped with it; None leaves out the rules about them.
        deployed: what is deployed now; None leaves out the rules about that.
        folder: that of the file, absolute; what local paths of models are relative to. None leaves them as they are.
        list_locations: lists the models; None leaves out the rules about what is there.

    Returns:
        The APIs in the order to apply them: that of the file, but traffic splitters last (F-13).

    Raises:
        InvalidConfig: the file has problems; all of them (at most a thousand).
    """
    source, findings = document.read(text, filename)
    entries = source.root.value
    shape = schema.check(entries, findings)
    findings += shape.findings
    if isinstance(entries, list) and shape.is_complete:
        apis = views(entries, findings)
        for api in apis:
            findings += rules.check(api, project)
        if list_locations is not None:
            findings += model_files.check(apis, folder, list_locations)
        findings += neighbours.check(apis, deployed)
    if findings:
        hint = _reference(entries) if shape.findings else None
        raise InvalidConfig(map(source.problem, findings[:MOST_FINDINGS]), hint=hint)
    specs = [build.build(entry, project, folder) for entry in entries]
    return sorted(specs, key=lambda spec: isinstance(spec, TrafficSplitter))


def _reference(entries: Any) -> str:
    """Where the keys are explained (F-08)."""
    maps = [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    known = [entry for entry in maps if entry.get("kind") in list(_REFERENCES)]
    file = _REFERENCES[known[0]["kind"]] if known else _REFERENCES["RealtimeAPI"]
    handler = known[0].get("handler") if known else None
    if (
        file == _REFERENCES["RealtimeAPI"]
        and isinstance(handler, dict)
        and handler.get("type") == "tensorflow"
    ):
        file = "realtime-tensorflow.yaml"
    path = shipped.config_path(f"reference/{file}")
    return f"every key of version {__version__}, with type, default and limits: {path}"


_REFERENCES = {
    "RealtimeAPI": "realtime-python.yaml",
    "AsyncAPI": "async.yaml",
    "BatchAPI": "batch.yaml",
    "TaskAPI": "task.yaml",
    "TrafficSplitter": "traffic-splitter.yaml",
}

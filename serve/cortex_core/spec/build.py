"""A file without problems → the typed spec, with every default and in its canonical form."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import msgspec

from cortex_core.spec.endpoint import canonical
from cortex_core.spec.location import absolute
from cortex_core.spec.rules import ProjectFiles, grpc_endpoint, normalized_python_path
from cortex_core.spec.types import (
    Api,
    AsyncAPI,
    Autoscaling,
    BatchAPI,
    Compute,
    Definition,
    Handler,
    Models,
    Networking,
    RealtimeAPI,
    ServerSideBatching,
    TaskAPI,
    TrafficSplitter,
    TrafficTarget,
    UpdateStrategy,
)
from cortex_core.spec.units import parse_duration

_DURATIONS = ("window", "downscale_stabilization_period", "upscale_stabilization_period")


def build(entry: dict[str, Any], project: ProjectFiles | None, folder: Path | None) -> Api:
    """Make one API's spec.

    Args:
        entry: the API as written; nothing is wrong with it.
        project: where a gRPC API's default endpoint is read from; without it that is the API's name.
        folder: what local paths of models are relative to; None leaves them as they are.
    """
    name, networking = entry["name"], _networking(entry, project)
    match entry["kind"]:
        case "TrafficSplitter":
            targets = tuple(TrafficTarget(**target) for target in entry["apis"])
            return TrafficSplitter(name=name, apis=targets, networking=networking)
        case "TaskAPI":
            definition = msgspec.convert(_source(entry["definition"]), Definition)
            return TaskAPI(name=name, definition=definition, networking=networking, compute=_compute(entry))
        case "BatchAPI":
            return BatchAPI(
                name=name, handler=_handler(entry, folder), networking=networking, compute=_compute(entry)
            )
    handler = _handler(entry, folder)
    kind = RealtimeAPI if entry["kind"] == "RealtimeAPI" else AsyncAPI
    return kind(
        name=name,
        handler=handler,
        networking=networking,
        compute=_compute(entry),
        autoscaling=_autoscaling(entry, handler),
        update_strategy=UpdateStrategy(**entry.get("update_strategy", {})),
    )


def _networking(entry: dict[str, Any], project: ProjectFiles | None) -> Networking:
    given = entry.get("networking", {}).get("endpoint")
    protobuf = entry.get("handler", {}).get("protobuf_path")
    if given is None and protobuf and project is not None:
        return Networking(endpoint=grpc_endpoint(entry["name"], project.read(protobuf)))
    return Networking(endpoint=canonical(given or entry["name"]))


def _source(section: dict[str, Any]) -> dict[str, Any]:
    """What handlers and definitions share."""
    source = {**section, "config": copy.deepcopy(section.get("config")) or {}}
    if "python_path" in source:
        source["python_path"] = normalized_python_path(source["python_path"])
    return {key: value for key, value in source.items() if not (key.endswith("image") and value == "")}


def _handler(entry: dict[str, Any], folder: Path | None) -> Handler:
    section = entry["handler"]
    sections: dict[str, Any] = {
        "models": models(section.get("models"), folder),
        "multi_model_reloading": models(section.get("multi_model_reloading"), folder),
        "server_side_batching": _batching(section.get("server_side_batching")),
    }
    if "request_timeout" in section:
        sections["request_timeout"] = parse_duration(section["request_timeout"])
    return msgspec.convert(_source(section) | sections, Handler)


def _batching(section: dict[str, Any] | None) -> ServerSideBatching | None:
    if section is None:
        return None
    durations = {
        key: parse_duration(section[key]) for key in ("batch_interval", "target_latency") if key in section
    }
    return ServerSideBatching(max_batch_size=section["max_batch_size"], **durations)


def models(section: dict[str, Any] | None, folder: Path | None) -> Models | None:
    """The models an API follows; `section` has nothing wrong with it."""
    if section is None:
        return None
    entries = [{**model, "path": absolute(model["path"], folder)} for model in section.get("paths") or ()]
    changed: dict[str, Any] = {
        key: absolute(section[key], folder) for key in ("path", "dir") if key in section
    }
    if "load_timeout" in section:
        changed["load_timeout"] = parse_duration(section["load_timeout"])
    return msgspec.convert(section | changed | {"paths": entries or None}, Models)


def _compute(entry: dict[str, Any]) -> Compute:
    section = dict(entry.get("compute", {}))
    if section.get("cpu") is not None:
        section["cpu"] = str(section["cpu"])
    if section.get("node_groups") is not None:
        section["node_groups"] = tuple(section["node_groups"])
    return Compute(**section)


def _autoscaling(entry: dict[str, Any], handler: Handler) -> Autoscaling:
    section = dict(entry.get("autoscaling", {}))
    section |= {key: parse_duration(section[key]) for key in _DURATIONS if key in section}
    section.setdefault("init_replicas", section.get("min_replicas", 1))
    section.setdefault(
        "target_replica_concurrency", handler.processes_per_replica * handler.threads_per_process
    )
    return msgspec.convert(section, Autoscaling)
